package broker

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const (
	maxRedirectURIs      = 20
	maxVariables         = 20
	maxVariableName      = 64
	maxVariableLength    = 256
	maxAssertionSubject  = 256
	mostShownVariableKey = 64
)

// byCertificate reports whether m is one of RFC 8705.
func (m AuthenticationMethod) byCertificate() bool {
	return m == TLSClientAuth || m == SelfSignedTLSClientAuth
}

// public reports whether the client has no secret at all (RFC 6749 §2.1).
func (u Upstream) public() bool {
	return u.Authentication.Method == NoAuthentication && u.Grant != JWTBearer
}

// asserts reports whether a JWT is signed with the client's secret.
func (u Upstream) asserts() bool {
	return u.Grant == JWTBearer || slices.Contains([]AuthenticationMethod{PrivateKeyJWT, ClientSecretJWT, PrivateKeyBearer}, u.Authentication.Method)
}

// secretUse returns what the client's secret must fit, as Config.CheckSecret takes it:
// where nothing but the assertion of JWTBearer is signed with it, it is the key of
// private_key_jwt all the same.
func (u Upstream) secretUse() Authentication {
	a := u.Authentication
	if u.Grant == JWTBearer && a.Method == NoAuthentication {
		a.Method = PrivateKeyJWT
	}
	return a
}

// keyed reports whether the secret is a private key whose public half others may know.
func (u Upstream) keyed() bool {
	return u.secretUse().Method.hasPublicKey()
}

// checkSecretInput refuses what is wrong with the secret of a request for c before it is
// fetched from where it is.
func (c *Client) checkSecretInput(v *violations, in SecretInput) {
	if !in.given() {
		return
	}
	checkInput(v, "secret", in)
	if c.Upstream.public() {
		v.add("secret", "must not be given: with authentication_method %s the client has none", NoAuthentication)
	}
}

// checkGrant validates how tokens are had: the grant, what it goes together with, and the
// endpoints that it needs.
func checkGrant(v *violations, prefix string, u Upstream) {
	if u.Grant != "" && !slices.Contains(GrantTypes(), u.Grant) {
		v.add(prefix+"grant_type", "is none of %v", GrantTypes())
	}
	checkMethod(v, prefix, u)
	checkAssertion(v, prefix, u)
	checkBinding(v, prefix, u)
	checkIssuer(v, prefix+"issuer", u.Issuer)
	checkEndpoints(v, prefix, u)
	checkRedirects(v, prefix+"redirect_uris", u)
	checkVariables(v, prefix, u)
	if u.united() && (u.Grant == TokenExchange || u.TokenBinding == BoundByDPoP) {
		field := "max_live_tokens"
		if u.SingleActiveToken {
			field = "single_active_token"
		}
		v.add(prefix+field, "must be unset: callers share no tokens that are bound to their key, or exchanged for their own")
	}
}

// checkMethod validates which client authentication goes with which grant.
func checkMethod(v *violations, prefix string, u Upstream) {
	method := u.Authentication.Method
	if !slices.Contains(AuthenticationMethods(), method) {
		v.add(prefix+"authentication_method", "is required: one of %v", AuthenticationMethods())
		return
	}
	without := []GrantType{JWTBearer, AuthorizationCode, DeviceCode, RefreshToken}
	if method == NoAuthentication && !slices.Contains(without, u.Grant) {
		v.add(prefix+"authentication_method", "%s goes with the grants %v only", method, without)
	}
	signing := []AuthenticationMethod{NoAuthentication, PrivateKeyJWT, ClientSecretJWT}
	if u.Grant == JWTBearer && !slices.Contains(signing, method) {
		v.add(prefix+"authentication_method", "must be one of %v with the grant %s: the client has one secret, which signs the assertion", signing, u.Grant)
	}
}

func checkAssertion(v *violations, prefix string, u Upstream) {
	a := u.Authentication
	if !u.asserts() && (a.SigningAlgorithm != "" || a.KeyID != "" || a.AssertionAudience != "") {
		v.add(prefix+"assertion", "signing_algorithm, key_id and audience are for %s, %s, %s and the grant %s only", PrivateKeyJWT, ClientSecretJWT, PrivateKeyBearer, JWTBearer)
	}
	if a.Method == PrivateKeyBearer && a.AssertionAudience != "" {
		v.add(prefix+"assertion.audience", "is not sent by %s", PrivateKeyBearer)
	}
	algorithms := u.secretUse().Method.SigningAlgorithms()
	if u.asserts() && a.SigningAlgorithm != "" && !slices.Contains(algorithms, a.SigningAlgorithm) {
		v.add(prefix+"assertion.signing_algorithm", "is not one of %v", algorithms)
	}
	checkText(v, prefix+"assertion.key_id", a.KeyID, maxClientIDLength)
	checkText(v, prefix+"assertion.audience", a.AssertionAudience, maxURLLength)
	if u.AssertionSubject != "" && u.Grant != JWTBearer {
		v.add(prefix+"assertion_subject", "is for the grant %s only", JWTBearer)
	}
	checkText(v, prefix+"assertion_subject", u.AssertionSubject, maxAssertionSubject)
}

func checkBinding(v *violations, prefix string, u Upstream) {
	switch u.TokenBinding {
	case "", BoundByDPoP:
	case BoundByCertificate:
		if !u.Authentication.Method.byCertificate() {
			v.add(prefix+"token_binding", "%s needs the authentication_method %s or %s, whose certificate it is", u.TokenBinding, TLSClientAuth, SelfSignedTLSClientAuth)
		}
	default:
		v.add(prefix+"token_binding", "is none of %s and %s", BoundByDPoP, BoundByCertificate)
	}
}

// checkIssuer validates against RFC 8414 §2.
func checkIssuer(v *violations, field, raw string) {
	if raw != "" {
		checkEndpoint(v, field, raw)
	}
}

// checkEndpoints validates all endpoints but the token endpoint itself.
func checkEndpoints(v *violations, prefix string, u Upstream) {
	for _, name := range u.missing() {
		if name != "token_endpoint" {
			v.add(prefix+name, "is required with the grant %s", u.Grant)
		}
	}
	fields, token := u.endpointFields(), ""
	token, _ = Origin(u.TokenEndpoint)
	for _, name := range []string{"revocation_endpoint", "introspection_endpoint", "device_authorization_endpoint", "refresh_endpoint"} {
		raw := *fields[name]
		if raw == "" {
			continue
		}
		checkEndpoint(v, prefix+name, raw)
		if origin, err := Origin(raw); err == nil && origin != token && u.TokenEndpoint != "" {
			v.add(prefix+name, "must have the origin of token_endpoint: the secret is sent there")
		}
	}
	checkBrowserURL(v, prefix+"authorization_endpoint", u.AuthorizationEndpoint, "")
	checkAPI(v, prefix+"api_endpoint", u)
}

// checkAPI validates where a check sends a token: https with a query at most, and an
// origin that tokens may be sent to.
func checkAPI(v *violations, field string, u Upstream) {
	if u.APIEndpoint == "" {
		return
	}
	path, _, _ := strings.Cut(u.APIEndpoint, "?")
	checkBrowserURL(v, field, u.APIEndpoint, "")
	checkEndpoint(v, field, path)
	if origin, err := Origin(path); err == nil && !slices.Contains(u.TokenDestinations, origin) {
		v.add(field, "must have an origin of token_destinations: a token is sent there; name %s", origin)
	}
}

// checkRedirects validates redirect URIs (RFC 6749 §3.1.2, RFC 9700 §2.1): each is
// compared exactly, so nothing in one may stand for something else.
func checkRedirects(v *violations, field string, u Upstream) {
	if len(u.RedirectURIs) > 0 && u.Grant != AuthorizationCode {
		v.add(field, "are for the grant %s only", AuthorizationCode)
	}
	if len(u.RedirectURIs) > maxRedirectURIs {
		v.add(field, "has %d entries; at most %d", len(u.RedirectURIs), maxRedirectURIs)
		return
	}
	for i, raw := range u.RedirectURIs {
		at := fmt.Sprintf("%s[%d]", field, i)
		if raw == "" {
			v.add(at, "is empty")
		}
		if slices.Contains(u.RedirectURIs[:i], raw) {
			v.add(at, "is there twice")
		}
		checkBrowserURL(v, at, raw, "*")
	}
}

// checkBrowserURL validates what a browser is sent to: https, or http on this machine,
// without user and fragment; a query is allowed. It has no character of forbidden.
func checkBrowserURL(v *violations, field, raw, forbidden string) {
	if raw == "" {
		return
	}
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURLLength:
		v.add(field, "has %d bytes; at most %d", len(raw), maxURLLength)
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		v.add(field, "is not an absolute https URL")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		v.add(field, "must be https, unless its host is a loopback address")
	case u.User != nil:
		v.add(field, "must not have a user or password")
	case strings.Contains(raw, "#"):
		v.add(field, "must not have a fragment")
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`\<>"`, r) }):
		v.add(field, "has a character that must be percent-encoded, or a host name that must be in ASCII form")
	case len(u.Hostname()) > maxHostLength:
		v.add(field, "has a host name of %d bytes; at most %d", len(u.Hostname()), maxHostLength)
	case strings.ContainsAny(raw, forbidden):
		v.add(field, "must not have %q: it is compared exactly", forbidden)
	}
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func checkVariables(v *violations, prefix string, u Upstream) {
	if u.Provider != "" {
		if problem := idProblem(u.Provider); problem != "" {
			v.add(prefix+"provider", "%s", problem)
		}
	}
	field := prefix + "provider_variables"
	switch {
	case len(u.ProviderVariables) == 0:
	case u.Provider == "":
		v.add(field, "need a provider, whose profile says what they are for")
	case len(u.ProviderVariables) > maxVariables:
		v.add(field, "has %d entries; at most %d", len(u.ProviderVariables), maxVariables)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(u.ProviderVariables)) {
		at := fmt.Sprintf("%s[%q]", field, truncate(name, mostShownVariableKey))
		if name == "" || len(name) > maxVariableName {
			v.add(at, "a name has 1 to %d bytes", maxVariableName)
		}
		checkText(v, at, name, maxParameterLength)
		checkText(v, at, u.ProviderVariables[name], maxVariableLength)
	}
}

// checkNoSecret refuses rotation of what is not there.
func checkNoSecret(v *violations, u Upstream, r RotationSettings) {
	if u.public() && !r.IsZero() {
		v.add("client.rotation", "must be unset: with authentication_method %s the client has no secret to change", NoAuthentication)
	}
}

// checkProfileGrant refuses a user's password (RFC 9700 §2.4), unless the provider's
// profile says that it takes one.
func (b *Broker) checkProfileGrant(v *violations, u Upstream) {
	if u.Grant != Password {
		return
	}
	if p, ok := b.Provider(u.Provider); !ok || !slices.Contains(p.GrantTypes, Password) {
		v.add("client.grant_type", "%s is taken only with a provider whose profile lists it, because it shows users' passwords to the broker", Password)
	}
}
