package oauth

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// maxProofAge is how old a proof may be: it was made for this very call, and servers
	// take few that are older.
	maxProofAge = 2 * time.Minute
	// maxProofLead is how far ahead the clock may be that a proof was made by.
	maxProofLead = time.Minute
)

// proofClaims are those of RFC 9449 §4.2.
type proofClaims struct {
	Method   string   `json:"htm"`
	Target   string   `json:"htu"`
	IssuedAt *float64 `json:"iat"`
	ID       string   `json:"jti"`
}

// CheckDPoPProof says whether a proof is one for a POST to endpoint (RFC 9449 §4.3), as
// far as anybody but the authorization server can: its nonce, and whether it was used
// before, are the server's to judge. It returns the thumbprint of the proof's key
// (RFC 7638, SHA-256, base64url), to which a token will be bound. endpoint's query and
// fragment do not count.
//
// DPOP_PROOF_INVALID says what is wrong without quoting the proof, and tells the caller
// the htu to make another one for.
func CheckDPoPProof(proof, endpoint string, now time.Time) (thumbprint string, err error) {
	bad := func(format string, args ...any) (string, error) { return "", badProof(endpoint, format, args...) }
	key, payload, problem := openProof(proof)
	if problem != "" {
		return bad("%s", problem)
	}
	var claims proofClaims
	if json.Unmarshal(payload, &claims) != nil {
		return bad("has claims that are not those of RFC 9449 §4.2")
	}
	switch {
	case claims.ID == "":
		return bad("has no jti")
	case claims.Method != "POST":
		return bad("is not for POST: htm must be POST")
	case !sameTarget(claims.Target, endpoint):
		return bad("is for another endpoint: htu must be %s", proofTarget(endpoint))
	case claims.IssuedAt == nil:
		return bad("has no iat")
	}
	// As seconds: a hostile iat must not overflow a time.
	switch age := float64(now.Unix()) - *claims.IssuedAt; {
	case age > maxProofAge.Seconds():
		return bad("is too old: iat is more than %s ago by this host's clock, which says %s", maxProofAge, utc(now))
	case age < -maxProofLead.Seconds():
		return bad("is from the future: iat is more than %s ahead of this host's clock, which says %s", maxProofLead, utc(now))
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return bad("has a jwk without thumbprint")
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// openProof verifies the proof's signature by the key in it, and returns both, or says
// what is wrong.
func openProof(proof string) (*jose.JSONWebKey, []byte, string) {
	if len(proof) > maxProof {
		return nil, nil, fmt.Sprintf("has more than %d bytes", maxProof)
	}
	encoded, _, _ := strings.Cut(proof, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	var header struct {
		Type      string          `json:"typ"`
		Algorithm string          `json:"alg"`
		Key       json.RawMessage `json:"jwk"`
	}
	if err != nil || strings.Count(proof, ".") != 2 || json.Unmarshal(text, &header) != nil {
		return nil, nil, "is not a compact JWT"
	}
	if problem := headerProblem(header.Type, header.Algorithm, header.Key); problem != "" {
		return nil, nil, problem
	}
	var key jose.JSONWebKey
	if key.UnmarshalJSON(header.Key) != nil || !key.Valid() || !key.IsPublic() {
		return nil, nil, "has a jwk that is not a public key"
	}
	if public, ok := key.Key.(*rsa.PublicKey); ok && public.N.BitLen() < minRSABits {
		return nil, nil, "has an RSA key of less than 2048 bits"
	}
	signed, err := jose.ParseSignedCompact(proof, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(header.Algorithm)})
	if err != nil {
		return nil, nil, "is not a compact JWT that can be read"
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return nil, nil, "has a signature that its jwk does not verify"
	}
	return &key, payload, ""
}

func headerProblem(kind, algorithm string, key json.RawMessage) string {
	var members map[string]json.RawMessage
	switch {
	case kind != "dpop+jwt":
		return "has another typ than dpop+jwt"
	case !slices.Contains(broker.SigningAlgorithms(), algorithm):
		return fmt.Sprintf("has an alg that is none of %v", broker.SigningAlgorithms())
	case len(key) == 0 || json.Unmarshal(key, &members) != nil:
		return "has no jwk in its header"
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
		if _, there := members[private]; there {
			return "has a jwk with the private key in it, which is no longer secret: make another key"
		}
	}
	return ""
}

// sameTarget compares the htu of a proof with an endpoint after the normalisations of
// RFC 3986 §6.2.2 and §6.2.3 that RFC 9449 §4.3 asks for.
func sameTarget(htu, endpoint string) bool {
	claimed, err := normalTarget(htu)
	if err != nil {
		return false
	}
	wanted, err := normalTarget(endpoint)
	return err == nil && claimed == wanted
}

func normalTarget(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	u.Scheme = strings.ToLower(u.Scheme)
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return u.Scheme + "://" + net.JoinHostPort(host, port) + path, nil
}

// proofTarget is the htu of an endpoint.
func proofTarget(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return htuOf(u)
}

// badProof returns a DPOP_PROOF_INVALID error; the text must not quote the proof.
func badProof(endpoint, format string, args ...any) *broker.Error {
	return &broker.Error{
		Reason: broker.ReasonDPoPProofInvalid, Op: "check the DPoP proof", Detail: "the proof " + fmt.Sprintf(format, args...),
		Told: map[string]string{"htu": proofTarget(endpoint)},
	}
}
