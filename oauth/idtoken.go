package oauth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// idTokenSlack is how far the server's clock may be from ours: the token is seconds old.
const idTokenSlack = 5 * time.Minute

// idClaims are those of OpenID Connect Core §2 that are looked at.
type idClaims struct {
	Issuer          string          `json:"iss"`
	Subject         string          `json:"sub"`
	Audience        json.RawMessage `json:"aud"`
	AuthorizedParty *string         `json:"azp"`
	ExpiresAt       *float64        `json:"exp"`
	IssuedAt        *float64        `json:"iat"`
	Nonce           string          `json:"nonce"`
}

// CheckIDToken is [broker.AuthorizationServer]'s (OpenID Connect Core §3.1.3.7). The
// signature is not verified: the token came over TLS from the token endpoint that the
// client's own authentication went to (there, number 6). An issuer or nonce that is ""
// is not compared.
func (c *Client) CheckIDToken(idToken secret.Value, issuer, clientID, nonce string) error {
	claims, problem := readIDToken(idToken)
	if problem == "" {
		problem = claims.problem(issuer, clientID, nonce, time.Now())
	}
	if problem != "" {
		return &broker.Error{Reason: broker.ReasonIDTokenInvalid, Op: "check ID token", Detail: "the ID token " + problem}
	}
	return nil
}

func readIDToken(idToken secret.Value) (claims idClaims, problem string) {
	token := idToken.RevealString()
	parts := strings.Split(token, ".")
	switch {
	case token == "":
		return idClaims{}, "is missing"
	case len(token) > broker.MaxTokenBytes:
		return idClaims{}, fmt.Sprintf("has %d bytes; at most %d", len(token), broker.MaxTokenBytes)
	case len(parts) == 5:
		return idClaims{}, "is encrypted; have the provider sign ID tokens only"
	case len(parts) != 3:
		return idClaims{}, "is not a JWT"
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return idClaims{}, "is not a JWT"
	}
	if _, err := parseMembers(payload); err != nil { // also one that says something twice
		return idClaims{}, "has claims that are not one JSON object"
	}
	if json.Unmarshal(payload, &claims) != nil {
		return idClaims{}, "has claims of wrong types"
	}
	return claims, ""
}

// problem says what is wrong, without the claims' values: they may be a person's.
func (c idClaims) problem(issuer, clientID, nonce string, now time.Time) string {
	audiences := c.audiences()
	switch {
	case issuer != "" && c.Issuer != issuer:
		return "is from another issuer: iss is not the client's issuer"
	case c.Issuer == "":
		return "has no iss"
	case c.Subject == "":
		return "has no sub"
	case !slices.Contains(audiences, clientID):
		return "is for another client: aud is not the client_id"
	case len(audiences) > 1 && c.AuthorizedParty == nil:
		return "is for several audiences and has no azp"
	case c.AuthorizedParty != nil && *c.AuthorizedParty != clientID:
		return "is for another client: azp is not the client_id"
	case c.ExpiresAt == nil || c.IssuedAt == nil:
		return "lacks exp or iat"
	case *c.ExpiresAt <= float64(now.Add(-idTokenSlack).Unix()):
		return "has expired; compare the clocks"
	case *c.IssuedAt > float64(now.Add(idTokenSlack).Unix()):
		return "is from the future; compare the clocks"
	case nonce != "" && c.Nonce != nonce:
		return "is not for this consent: its nonce is another one"
	}
	return ""
}

// audiences reads a string or an array of them.
func (c idClaims) audiences() []string {
	var one string
	if json.Unmarshal(c.Audience, &one) == nil && one != "" {
		return []string{one}
	}
	var several []string
	if json.Unmarshal(c.Audience, &several) != nil {
		return nil
	}
	return several
}
