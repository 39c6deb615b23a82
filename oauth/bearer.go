package oauth

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// assert presents an assertion that is the grant itself (RFC 7523 §2.1), signed by the
// client's secret.
func (g *grantForm) assert(req broker.TokenRequest, d dialect) {
	signed, err := d.grantAssertion(req)
	if err != nil {
		g.problem = err
		return
	}
	g.form.Set("assertion", signed)
	g.secrets = append(append(g.secrets, signed), keySpellings(req.Secret.Reveal())...)
}

// grantAssertion makes an assertion that is good for one request. Its claims are those
// of RFC 7523 §3, and what the profile adds; sub is left out where neither a subject nor
// the profile says it, as Google has it for accounts that act for themselves.
func (d dialect) grantAssertion(req broker.TokenRequest) (string, error) {
	switch req.Authentication.Method {
	case broker.NoAuthentication, broker.PrivateKeyJWT, broker.TLSClientAuth, broker.SelfSignedTLSClientAuth:
	default:
		return "", broker.Invalid("authentication_method", "is %s; jwt_bearer needs %s, %s or mutual TLS, since the secret is the key that signs the assertion",
			req.Authentication.Method, broker.NoAuthentication, broker.PrivateKeyJWT)
	}
	key, err := parseKey(req.Secret.Reveal())
	if err != nil {
		return "", err
	}
	claims := d.declared().AssertionClaims(d.variables, profile.ClaimVariables{
		ClientID: req.ClientID, Subject: req.Grant.Subject, Scope: strings.Join(req.Scopes, d.scopeSeparator()),
	})
	if req.Grant.Subject != "" {
		claims["sub"] = req.Grant.Subject
	}
	all := make(map[string]any, len(claims)+5)
	for name, value := range claims {
		all[name] = value
	}
	now := time.Now()
	all["iss"] = req.ClientID
	all["aud"] = cmp.Or(req.Authentication.AssertionAudience, req.Endpoint)
	all["jti"] = rand.Text() // at least 128 bits
	all["iat"] = now.Unix()
	all["exp"] = now.Add(d.assertionLifetime()).Unix()
	payload, err := json.Marshal(all)
	if err != nil {
		return "", unusable("the assertion's claims cannot be encoded")
	}
	return key.compact(req.Authentication, payload)
}
