package broker

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// maxProofLength bounds a DPoP proof; one with a large RSA key has about 1,500 bytes.
const maxProofLength = 8192

// checkCallersProof checks the DPoP proof of a call (RFC 9449 §4.3) and returns the query
// with the thumbprint of its key. DPOP_PROOF_REQUIRED, DPOP_PROOF_INVALID.
func (b *Broker) checkCallersProof(c *Client, q TokenQuery) (TokenQuery, error) {
	endpoint := c.Upstream.TokenEndpoint
	if c.Upstream.Grant.refreshes() && c.Upstream.RefreshEndpoint != "" {
		endpoint = c.Upstream.RefreshEndpoint
	}
	refuse := func(reason Reason, detail string, err error) (TokenQuery, error) {
		told := map[string]string{"htm": "POST", "htu": endpoint}
		return q, &Error{Reason: reason, Op: "check the DPoP proof", Client: c.ID, Detail: detail, Told: told, Err: err}
	}
	if q.DPoPProof == "" {
		return refuse(ReasonDPoPProofRequired, "", nil)
	}
	if b.checkProof == nil {
		return refuse(ReasonDPoPProofInvalid, "this server checks no proofs", nil)
	}
	thumbprint, err := b.checkProof(q.DPoPProof, endpoint)
	if err != nil {
		return refuse(ReasonDPoPProofInvalid, AsError(err).Detail, err)
	}
	q.binding = thumbprint
	return q, nil
}

// checkCertificate refuses to hand a token to somebody who has not said that it holds the
// certificate which the token is bound to (RFC 8705 §3). TOKEN_BOUND_ELSEWHERE.
func (t *Token) checkCertificate(q TokenQuery) error {
	if t.certificate == "" || q.CertificateThumbprint == t.certificate {
		return nil
	}
	return boundElsewhere(t.clientID, map[string]string{"certificate_thumbprint": t.certificate}, "it is bound to a certificate")
}

func boundElsewhere(client string, told map[string]string, detail string) error {
	return &Error{Reason: ReasonTokenBoundElsewhere, Client: client, Detail: detail, Told: told}
}

// checkBinding reports whether an answer's token is bound to what the client demands, and
// to nothing else. TOKEN_BOUND_ELSEWHERE, TOKEN_NOT_BOUND.
func (c *Client) checkBinding(key tokenKey, answer TokenResponse) error {
	byKey := answer.KeyThumbprint != "" || strings.EqualFold(answer.TokenType, "DPoP")
	switch binding := c.Upstream.TokenBinding; {
	case byKey && (binding != BoundByDPoP || answer.KeyThumbprint != "" && answer.KeyThumbprint != key.binding):
		return boundElsewhere(c.ID, map[string]string{"key_thumbprint": answer.KeyThumbprint}, "it is bound to a key (RFC 9449), token_binding of the client is "+orElse(string(binding), "not set"))
	case binding == BoundByDPoP && !byKey:
		return newError(ReasonTokenNotBound, c.ID, "token_type is %s", truncate(answer.TokenType, 32))
	case binding == BoundByCertificate && answer.CertificateThumbprint == "":
		return newError(ReasonTokenNotBound, c.ID, "it names no certificate, and that of the client is not known")
	case binding != BoundByCertificate && answer.CertificateThumbprint != "":
		return boundElsewhere(c.ID, map[string]string{"certificate_thumbprint": answer.CertificateThumbprint}, "it is bound to a certificate (RFC 8705), token_binding of the client is "+orElse(string(binding), "not set"))
	}
	return nil
}

// withCertificate says of an opaque token, which cannot say it itself, that it is bound to
// the certificate that it was had with, where the client's settings say that it is.
func (c *Client) withCertificate(answer TokenResponse, value secret.Value) TokenResponse {
	if c.Upstream.TokenBinding != BoundByCertificate || answer.CertificateThumbprint != "" {
		return answer
	}
	if strings.Count(answer.AccessToken.RevealString(), ".") == 2 { // a JWT would have said so
		return answer
	}
	answer.CertificateThumbprint = certificateThumbprint(value)
	return answer
}

// certificateThumbprint is the SHA-256 of the first certificate of a PEM text, base64url
// (RFC 8705 §3.1); "" if it has none.
func certificateThumbprint(value secret.Value) string {
	rest := value.Reveal()
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return ""
		}
		if block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			return base64.RawURLEncoding.EncodeToString(sum[:])
		}
		clear(block.Bytes)
	}
}
