package oauth

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

var _ broker.AuthorizationServer = (*Client)(nil)

// What a browser's URL may have in all; some servers take no more than 8 KiB.
const maxAuthorizationURL = 8 << 10

// consentParameters are what the broker alone says in an authorization request (RFC 6749
// §4.1.1, RFC 7636 §4.3, OpenID Connect Core §3.1.2.1), besides what
// [broker.ReservedParameter] has.
var consentParameters = []string{
	"response_type", "redirect_uri", "state", "nonce", "code_challenge", "code_challenge_method", "request", "request_uri",
}

// AuthorizationURL is [broker.AuthorizationServer]'s. The endpoint's own query is kept
// (§3.1), but for parameters that the request says. No credential is in it: a browser
// keeps what it opened.
//
// UPSTREAM_ADDRESS_REFUSED for an endpoint that is not https, PROVIDER_UNKNOWN,
// INVALID_REQUEST for a parameter that is the broker's own, or for more of them than a
// browser can be relied on to send.
func (c *Client) AuthorizationURL(req broker.AuthorizationRequest) (string, error) {
	spoken, err := c.dialectOf(broker.TokenRequest{Provider: req.Provider, ProviderVariables: req.ProviderVariables})
	if err != nil {
		return "", err
	}
	endpoint, err := c.parseEndpoint(authorizationEndpoint, req.Endpoint)
	if err != nil {
		return "", err
	}
	query, err := url.ParseQuery(endpoint.RawQuery)
	if err != nil {
		return "", refusedEndpoint("%s has a query that cannot be read", authorizationEndpoint)
	}
	for name, value := range spoken.consentValues() {
		query.Set(name, value)
	}
	for name, value := range req.Parameters {
		if broker.ReservedParameter(name) || slices.Contains(consentParameters, strings.ToLower(name)) {
			return "", broker.Invalid("parameters", "%q is a parameter that the broker sends itself or that carries a credential", name)
		}
		query.Set(name, value)
	}
	for _, name := range slices.Concat(consentParameters, []string{"client_secret", "client_assertion", "code_verifier"}) {
		query.Del(name)
	}
	setConsent(query, spoken, req)
	endpoint.RawQuery = query.Encode()
	made := endpoint.String()
	if len(made) > maxAuthorizationURL {
		return "", broker.Invalid("scopes", "make an authorization URL of %d bytes; at most %d", len(made), maxAuthorizationURL)
	}
	return made, nil
}

// setConsent says what the request says. A parameter that it does not is left as the
// endpoint's query or the profile has it.
func setConsent(query url.Values, d dialect, req broker.AuthorizationRequest) {
	consent := d.declared().Consent
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set("response_type", "code")
	set("client_id", req.ClientID)
	set("redirect_uri", req.RedirectURI)
	set("state", req.State)
	set(cmp.Or(consent.ScopeName, "scope"), strings.Join(req.Scopes, cmp.Or(consent.ScopeSeparator, " ")))
	set("audience", req.Audience)
	set("login_hint", req.LoginHint)
	if len(req.Resources) > 0 {
		query["resource"] = slices.Clone(req.Resources) // repeats: RFC 8707 §2
	}
	if slices.Contains(req.Scopes, "openid") {
		set("nonce", req.Nonce)
	}
	if consent.PKCE != profile.PKCERefused && req.CodeChallenge != "" {
		set("code_challenge", req.CodeChallenge)
		set("code_challenge_method", "S256")
	}
}

// consentValues are what the profile has the browser send besides.
func (d dialect) consentValues() map[string]string {
	if d.profile == nil {
		return nil
	}
	return d.profile.ConsentValues(d.variables)
}
