package authserver

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// tokenType is the typ header of a JWT access token (RFC 9068 §2.1). It keeps an
// assertion from passing for a token.
const tokenType = "at+jwt"

// tokenClaims are those of RFC 9068 §2.2.
type tokenClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	ClientID  string   `json:"client_id"`
	Audience  audience `json:"aud"`
	Scope     string   `json:"scope"`
	ID        string   `json:"jti"`
	IssuedAt  int64    `json:"iat"`
	ExpiresAt int64    `json:"exp"`
}

// issue returns a signed access token. Without an audience it is meant for the
// protected resource here.
func (s *Server) issue(clientID string, aud, scopes []string, lifetime time.Duration) (string, error) {
	if len(aud) == 0 {
		aud = []string{s.ResourceURL()}
	}
	now := time.Now()
	payload, err := json.Marshal(tokenClaims{
		Issuer: s.issuer, Subject: clientID, ClientID: clientID, Audience: aud, Scope: strings.Join(scopes, " "),
		ID: rand.Text(), IssuedAt: now.Unix(), ExpiresAt: now.Add(lifetime).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.signingKey}, new(jose.SignerOptions).WithType(tokenType))
	if err != nil {
		return "", fmt.Errorf("make signer: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed.CompactSerialize()
}

// verify returns the claims of a token that this server issued and that has not
// expired.
func (s *Server) verify(token string) (tokenClaims, bool) {
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || signed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != tokenType {
		return tokenClaims{}, false
	}
	payload, err := signed.Verify(&s.signingKey.PublicKey)
	if err != nil {
		return tokenClaims{}, false
	}
	var claims tokenClaims
	if json.Unmarshal(payload, &claims) != nil || claims.Issuer != s.issuer || !time.Now().Before(time.Unix(claims.ExpiresAt, 0)) {
		return tokenClaims{}, false
	}
	return claims, true
}
