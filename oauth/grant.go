package oauth

import (
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// grantTypes are the values of grant_type :: grant → value.
var grantTypes = map[broker.GrantType]string{
	"":                       "client_credentials",
	broker.ClientCredentials: "client_credentials",                              // RFC 6749 §4.4.2
	broker.AuthorizationCode: "authorization_code",                              // RFC 6749 §4.1.3
	broker.DeviceCode:        "urn:ietf:params:oauth:grant-type:device_code",    // RFC 8628 §3.4
	broker.RefreshToken:      "refresh_token",                                   // RFC 6749 §6
	broker.JWTBearer:         "urn:ietf:params:oauth:grant-type:jwt-bearer",     // RFC 7523 §2.1
	broker.TokenExchange:     "urn:ietf:params:oauth:grant-type:token-exchange", // RFC 8693 §2.1
	broker.Password:          "password",                                        // RFC 6749 §4.3.2
}

// grantForm collects what a request presents as its grant, by standard names.
type grantForm struct {
	form url.Values
	// secrets are what the broker itself made that the answer must not show.
	secrets []string
	// problem is the first thing that is wrong with the grant; nil if nothing is.
	problem error
}

// present returns the grant's parameters and the secrets among them. The grant is
// broker's own, so that what is wrong with it is wrong in a record or in broker.
func present(req broker.TokenRequest, d dialect) (url.Values, []string, error) {
	value, known := grantTypes[req.Grant.Type]
	if !known {
		return nil, nil, broker.Invalid("grant_type", "is not one of %v", broker.GrantTypes())
	}
	g := &grantForm{form: url.Values{"grant_type": {value}}}
	grant := req.Grant
	switch grant.Type {
	case broker.AuthorizationCode:
		g.require("code", grant.Code)
		g.set("redirect_uri", grant.RedirectURI)
		g.secret("code_verifier", grant.CodeVerifier)
	case broker.DeviceCode:
		g.require("device_code", grant.DeviceCode)
	case broker.RefreshToken:
		g.refresh(grant, d)
	case broker.JWTBearer:
		g.assert(req, d)
	case broker.TokenExchange:
		g.require("subject_token", grant.SubjectToken)
		g.set("subject_token_type", grant.SubjectTokenType)
	case broker.Password:
		g.set("username", grant.Username)
		g.require("password", grant.UserPassword)
	}
	return g.form, append(g.secrets, secretsOf(grant)...), g.problem
}

// secretsOf returns all that is secret in a grant, whether it is sent or not: what the
// server issued it may show as well as what it was sent.
func secretsOf(grant broker.GrantParameters) []string {
	var secrets []string
	for _, value := range []secret.Value{
		grant.Code, grant.CodeVerifier, grant.DeviceCode, grant.RefreshToken, grant.AccessToken, grant.SubjectToken, grant.UserPassword,
	} {
		if !value.IsZero() {
			secrets = append(secrets, value.RevealString())
		}
	}
	if grant.DPoPProof != "" {
		secrets = append(secrets, grant.DPoPProof)
	}
	return secrets
}

// refresh presents the token that the profile says, and the other one too if the
// profile has a name for it in refreshes.
func (g *grantForm) refresh(grant broker.GrantParameters, d dialect) {
	named := func(name string) bool { return d.declared().Refresh.Names[name] != "" }
	if d.declared().Refresh.With == "access_token" {
		g.require("access_token", grant.AccessToken)
		if named("refresh_token") {
			g.secret("refresh_token", grant.RefreshToken)
		}
		return
	}
	g.require("refresh_token", grant.RefreshToken)
	if named("access_token") {
		g.secret("access_token", grant.AccessToken)
	}
}

func (g *grantForm) set(name, value string) {
	if value != "" {
		g.form.Set(name, value)
	}
}

// secret sets one, or nothing if it is zero.
func (g *grantForm) secret(name string, value secret.Value) {
	if value.IsZero() {
		return
	}
	text := value.RevealString()
	g.form.Set(name, text)
	if len(text) > broker.MaxTokenBytes && g.problem == nil {
		g.problem = broker.Invalid(name, "has %d bytes; at most %d", len(text), broker.MaxTokenBytes)
	}
}

// require sets a secret without which the grant is none.
func (g *grantForm) require(name string, value secret.Value) {
	if value.IsZero() && g.problem == nil {
		g.problem = broker.Invalid(name, "is missing")
	}
	g.secret(name, value)
}

// target adds what is asked for.
func (d dialect) target(form url.Values, req broker.TokenRequest) {
	if len(req.Scopes) > 0 {
		form.Set("scope", strings.Join(req.Scopes, d.scopeSeparator()))
	}
	if req.Audience != "" {
		form.Set("audience", req.Audience)
	}
	if len(req.Resources) == 0 {
		return
	}
	if as := d.declared().Request.ResourceAs; as != "" {
		form[as] = append(form[as], req.Resources...)
		return
	}
	form["resource"] = slices.Clone(req.Resources) // repeats: RFC 8707 §2
}
