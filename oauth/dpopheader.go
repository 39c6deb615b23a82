package oauth

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// maxProof bounds a proof; one with an RSA key of 4096 bits has 2 KiB.
	maxProof = 8 << 10
	// maxNonce bounds a server's nonce, which the caller has to put into its proof.
	maxNonce = 1 << 10
)

// setProof sends the caller's proof (RFC 9449 §5). It was checked before; here only what
// would make two headers of one is refused.
func setProof(header http.Header, req broker.TokenRequest) error {
	proof := req.Grant.DPoPProof
	switch {
	case proof == "":
		return nil
	case len(proof) > maxProof || strings.Trim(proof, proofAlphabet) != "":
		return badProof(req.Endpoint, "is not a compact JWT of at most %d bytes", maxProof)
	}
	header.Set("DPoP", proof)
	return nil
}

// proofAlphabet is that of compact JWTs.
const proofAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// told returns what the caller needs for its next proof after an answer that refused
// the last one; nil if that was not the cause.
func (a *attempt) told(reason broker.Reason, header http.Header) map[string]string {
	switch reason {
	case broker.ReasonDPoPNonceRequired:
		return map[string]string{"dpop_nonce": dpopNonce(header), "htu": htuOf(a.target)}
	case broker.ReasonDPoPProofInvalid:
		return map[string]string{"htu": htuOf(a.target)}
	}
	return nil
}

// dpopNonce returns the server's nonce; "" if there is none that could be used (RFC 9449
// §8.1).
func dpopNonce(header http.Header) string {
	values := header.Values("DPoP-Nonce")
	if len(values) != 1 || len(values[0]) > maxNonce {
		return ""
	}
	if strings.ContainsFunc(values[0], func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return ""
	}
	return values[0]
}

// htuOf is a URL as a proof names it: without query and fragment (RFC 9449 §4.2).
func htuOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return bare.String()
}

// boundType returns "DPoP" where that is the type of a token that was asked for with a
// proof. Without one it would be bound to a key that nobody here has shown to hold.
func (a *attempt) boundType(answered string) (string, bool) {
	if a.proved && strings.EqualFold(answered, "DPoP") {
		return "DPoP", true
	}
	return answered, false
}

// judgeProof corrects what codes about proofs seem to say: nobody can make another proof
// where none was sent, or put in a nonce that was not given.
func (a *attempt) judgeProof(ans answer, reason broker.Reason, said string) (broker.Reason, string) {
	if reason != broker.ReasonDPoPNonceRequired && reason != broker.ReasonDPoPProofInvalid {
		return reason, said
	}
	switch {
	case !a.proved:
		return broker.ReasonRequestRejected, said + "; it wants tokens bound by DPoP, which the client's token_binding does not say"
	case reason == broker.ReasonDPoPNonceRequired && dpopNonce(ans.header) == "":
		return broker.ReasonUpstreamMalformed, said + ", and names no nonce that could be used"
	}
	return reason, said
}
