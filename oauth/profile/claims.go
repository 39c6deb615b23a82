package profile

import (
	"maps"
	"slices"
	"strings"
)

// claimVariables are what assertion claims may name besides the client's variables.
var claimVariables = []string{"client_id", "subject", "scope"}

// ownClaims are those that the broker sets in each assertion (RFC 7523 §3).
var ownClaims = []string{"iss", "aud", "exp", "iat", "nbf", "jti", "cnf"}

// ClaimVariables are what a token request brings to the claims of its assertion.
type ClaimVariables struct {
	ClientID, Subject string
	// Scope is all scopes, separated as the profile says.
	Scope string
}

// AssertionClaims returns the claims that the profile adds to the assertion of a client
// with these variables, without those that are empty. The caller owns it; it is never nil.
func (p *Profile) AssertionClaims(variables map[string]string, request ClaimVariables) map[string]string {
	values := maps.Clone(p.compiled.resolve(variables))
	if values == nil {
		values = make(map[string]string)
	}
	values["client_id"], values["subject"], values["scope"] = request.ClientID, request.Subject, request.Scope
	claims := make(map[string]string)
	for name, text := range p.compiled.assertionClaims {
		if value := text.expand(values, asIs); value != "" {
			claims[name] = value
		}
	}
	return claims
}

// claims checks what is added to assertions.
func (c *checker) claims(at string, claims map[string]string) templates {
	if len(claims) > maxValues {
		c.add(at, "has %d entries; at most %d", len(claims), maxValues)
	}
	parsed := templates{}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			c.add(at+"."+name, "must be called by up to 128 visible ASCII characters")
		}
		if slices.Contains(ownClaims, name) {
			c.add(at+"."+name, "is the broker's to set; aud is assertion_audience")
		}
		parsed[name] = c.template(at+"."+name, claims[name])
	}
	return parsed
}
