package authserver

import (
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// clockSkew is how far a client's clock may be off.
	clockSkew = 30 * time.Second
	// maxAssertionLife bounds exp, and with it how long a jti is remembered.
	maxAssertionLife = 10 * time.Minute
)

// assertionAlgorithms are those that an assertion may be signed with. None is
// symmetric: a public key must not serve as an HMAC key.
var assertionAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// assertionID names an assertion: a jti is unique per client only.
type assertionID struct{ client, jti string }

// assertionClaims are those of RFC 7523 §3.
type assertionClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	ID        string   `json:"jti"`
	ExpiresAt int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
}

// audience is one string or an array of them (RFC 7519 §4.1.3).
type audience []string

// UnmarshalJSON reads both forms.
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// byAssertion authenticates by private_key_jwt.
func (s *Server) byAssertion(form url.Values) (Client, *oauthError) {
	if form.Get("client_assertion_type") != assertionType {
		return Client{}, invalidRequest("client_assertion_type is missing or unknown")
	}
	signed, err := jose.ParseSignedCompact(form.Get("client_assertion"), assertionAlgorithms)
	if err != nil {
		return Client{}, invalidClient()
	}
	// The claims name the client whose keys verify them; nothing else is taken from
	// them before that.
	var claims assertionClaims
	if json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims) != nil {
		return Client{}, invalidClient()
	}
	client, known := s.find(claims.Subject)
	if !known || !client.may(MethodPrivateKeyJWT) || !verifies(client.Keys, signed) {
		return Client{}, invalidClient()
	}
	if form.Has("client_id") && form.Get("client_id") != client.ID {
		return Client{}, invalidClient()
	}
	if !s.timely(claims) || claims.Issuer != client.ID || !s.meant(claims.Audience) || !s.spend(client.ID, claims) {
		return Client{}, invalidClient()
	}
	return client, nil
}

// verifies reports whether one of the keys made the signature. A kid that is named
// must be known: guessing would hide a client that signs with the wrong one.
func verifies(keys []jose.JSONWebKey, signed *jose.JSONWebSignature) bool {
	kid := signed.Signatures[0].Protected.KeyID // compact form: exactly one
	for _, key := range keys {
		if kid != "" && key.KeyID != kid {
			continue
		}
		if _, err := signed.Verify(key.Key); err == nil {
			return true
		}
	}
	return false
}

func (s *Server) timely(c assertionClaims) bool {
	now := time.Now()
	expires := time.Unix(c.ExpiresAt, 0)
	return now.Before(expires) && expires.Before(now.Add(maxAssertionLife)) &&
		!time.Unix(c.IssuedAt, 0).After(now.Add(clockSkew)) && !time.Unix(c.NotBefore, 0).After(now.Add(clockSkew))
}

func (s *Server) meant(aud audience) bool {
	return slices.Contains(aud, s.issuer) || slices.Contains(aud, s.TokenEndpoint())
}

// spend takes the assertion's jti, once. It forgets those that have expired, so
// that memory is bounded by the requests of ten minutes.
func (s *Server) spend(clientID string, c assertionClaims) bool {
	if c.ID == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for id, until := range s.spent {
		if now.After(until) {
			delete(s.spent, id)
		}
	}
	id := assertionID{clientID, c.ID}
	if _, replayed := s.spent[id]; replayed {
		return false
	}
	s.spent[id] = time.Unix(c.ExpiresAt, 0)
	return true
}
