package profile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Complete fills what the settings of a client leave open with what the profile named
// by u.Provider declares, and says what does not fit that profile: see
// [broker.Providers]. It does nothing where no provider is named. Maps of u are replaced
// and not changed.
func (s *Set) Complete(u *broker.Upstream, t *broker.TokenPolicy, r *broker.RotationSettings) []broker.FieldViolation {
	if u.Provider == "" {
		if len(u.ProviderVariables) > 0 {
			return []broker.FieldViolation{{Field: "client.provider_variables", Problem: "are for clients with a provider"}}
		}
		return nil
	}
	p := s.Profile(u.Provider)
	if p == nil {
		return []broker.FieldViolation{{Field: "client.provider", Problem: fmt.Sprintf("there is no profile %q; there are %s", truncate(u.Provider), strings.Join(s.names, ", "))}}
	}
	c := completion{profile: p}
	c.settle(u)
	c.authentication(u)
	if len(c.violations) > 0 { // endpoints would be made of variables that are wrong
		return c.violations
	}
	c.endpoints(u)
	c.assertion(u)
	p.fillLimits(u, t)
	p.fillRotation(r)
	return c.violations
}

// Expand returns the endpoints and the issuer that a client with these variables gets,
// as an Upstream with nothing else; what is wrong with the variables is as of
// [Set.Complete].
func (p *Profile) Expand(variables map[string]string) (broker.Upstream, []broker.FieldViolation) {
	u := broker.Upstream{Provider: p.Name, ProviderVariables: variables}
	c := completion{profile: p}
	c.settle(&u)
	if len(c.violations) == 0 {
		c.expand(&u)
	}
	return u, c.violations
}

// completion is the completion of one client's settings.
type completion struct {
	profile    *Profile
	violations []broker.FieldViolation
}

func (c *completion) add(field, format string, args ...any) {
	c.violations = append(c.violations, broker.FieldViolation{Field: "client." + field, Problem: fmt.Sprintf(format, args...)})
}

// settle checks the variables that are said and gives the others their defaults.
func (c *completion) settle(u *broker.Upstream) {
	known := c.profile.compiled.variables
	for _, name := range slices.Sorted(maps.Keys(u.ProviderVariables)) {
		at := fmt.Sprintf("provider_variables[%q]", truncate(name))
		v, ok := known[name]
		switch value := u.ProviderVariables[name]; {
		case !ok && len(known) == 0:
			c.add(at, "is unknown: the profile %s has no variables", c.profile.Name)
		case !ok:
			c.add(at, "is unknown to the profile %s, whose variables are %s", c.profile.Name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case value == "":
			c.add(at, "is empty; leave it out to have its default, if there is one")
		default:
			if problem := valueProblem(value, v); problem != "" {
				c.add(at, "%s", problem)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, said := u.ProviderVariables[name]; known[name].required && !said {
			c.add(fmt.Sprintf("provider_variables[%q]", name), "is required: %s, such as %s", cmp.Or(c.profile.Variables[name].Description, name), c.profile.Variables[name].Example)
		}
	}
	if len(c.violations) > 0 {
		return
	}
	values := c.profile.compiled.resolve(u.ProviderVariables)
	for _, name := range slices.Sorted(maps.Keys(values)) { // defaults that are made of others
		if problem := valueProblem(values[name], known[name]); problem != "" {
			c.add(fmt.Sprintf("provider_variables[%q]", name), "is by default %q, which %s", truncate(values[name]), problem)
		}
	}
	u.ProviderVariables = values
}

func (c *completion) authentication(u *broker.Upstream) {
	p := c.profile
	granted := func(g broker.GrantType) bool { return slices.Contains(p.Grants, string(g)) }
	switch {
	case u.Grant == "" && !granted(broker.ClientCredentials):
		u.Grant = broker.GrantType(p.Grants[0])
	case u.Grant != "" && !granted(u.Grant):
		c.add("grant_type", "is %s; the profile %s knows %s", u.Grant, p.Name, strings.Join(p.Grants, ", "))
	}
	methods := p.Authentication.Methods
	switch method := &u.Authentication.Method; {
	case *method == "":
		*method = broker.AuthenticationMethod(methods[0])
	case !slices.Contains(methods, string(*method)):
		c.add("authentication_method", "is %s; the profile %s knows %s", *method, p.Name, strings.Join(methods, ", "))
	}
}

// endpoints fills the endpoints and the issuer that are not set.
func (c *completion) endpoints(u *broker.Upstream) {
	made := broker.Upstream{ProviderVariables: u.ProviderVariables}
	c.expand(&made)
	for _, pair := range [...]struct{ field, filling *string }{
		{&u.Issuer, &made.Issuer}, {&u.AuthorizationEndpoint, &made.AuthorizationEndpoint},
	} {
		*pair.field = cmp.Or(*pair.field, *pair.filling)
	}
	if u.TokenEndpoint == "" {
		u.TokenEndpoint = made.TokenEndpoint
	}
	if sameOrigin(u.TokenEndpoint, made.TokenEndpoint) { // else they are of another server
		u.RefreshEndpoint = cmp.Or(u.RefreshEndpoint, made.RefreshEndpoint)
		u.RevocationEndpoint = cmp.Or(u.RevocationEndpoint, made.RevocationEndpoint)
		u.DeviceAuthorizationEndpoint = cmp.Or(u.DeviceAuthorizationEndpoint, made.DeviceAuthorizationEndpoint)
		u.IntrospectionEndpoint = cmp.Or(u.IntrospectionEndpoint, made.IntrospectionEndpoint)
		c.api(u)
	}
	if c.profile.Discovery && u.Issuer == "" {
		c.add("issuer", "is required: the profile %s has the endpoints from the issuer's metadata", c.profile.Name)
	}
}

// api fills what a check calls with a token, together with its origin, where tokens may
// then be sent. A client that says where its tokens go, or what to call, keeps its word.
func (c *completion) api(u *broker.Upstream) {
	endpoint := c.profile.compiled.endpoints[keyAPI]
	if !endpoint.isSet || u.APIEndpoint != "" || len(u.TokenDestinations) > 0 {
		return
	}
	text, err := endpoint.expand(u.ProviderVariables)
	if err != nil {
		c.add("provider_variables", "endpoints.api of the profile %s %v", c.profile.Name, err)
		return
	}
	path, _, _ := strings.Cut(text, "?")
	if origin, err := broker.Origin(path); err == nil {
		u.APIEndpoint, u.TokenDestinations = text, []string{origin}
	}
}

func sameOrigin(a, b string) bool {
	first, errA := broker.Origin(a)
	second, errB := broker.Origin(b)
	return errA == nil && errB == nil && first == second
}

// expand sets the endpoints and the issuer to what the profile makes of the variables.
func (c *completion) expand(u *broker.Upstream) {
	made := &c.profile.compiled
	endpoint := func(what string, from urlTemplate) string {
		text, err := from.expand(u.ProviderVariables)
		if err != nil {
			c.add("provider_variables", "%s of the profile %s %v", what, c.profile.Name, err)
		}
		return text
	}
	u.Issuer = endpoint("issuer", made.issuer)
	u.TokenEndpoint = endpoint("endpoints.token", made.endpoints[keyToken])
	u.RefreshEndpoint = endpoint("endpoints.refresh", made.endpoints[keyRefresh])
	u.RevocationEndpoint = endpoint("endpoints.revocation", made.endpoints[keyRevocation])
	u.AuthorizationEndpoint = endpoint("endpoints.authorization", made.endpoints[keyAuthorization])
	u.DeviceAuthorizationEndpoint = endpoint("endpoints.device_authorization", made.endpoints[keyDeviceAuthorization])
	u.IntrospectionEndpoint = endpoint("endpoints.introspection", made.endpoints[keyIntrospection])
}

// assertion fills how an assertion is made, where the client makes one.
func (c *completion) assertion(u *broker.Upstream) {
	declared, method := c.profile.Authentication, u.Authentication.Method
	byKey := method == broker.PrivateKeyJWT || method == broker.PrivateKeyBearer || u.Grant == broker.JWTBearer
	if byKey {
		u.Authentication.SigningAlgorithm = cmp.Or(u.Authentication.SigningAlgorithm, declared.SigningAlgorithm)
	}
	if (byKey || method == broker.ClientSecretJWT) && u.Authentication.AssertionAudience == "" {
		u.Authentication.AssertionAudience = c.profile.assertionAudience(u)
	}
}

// assertionAudience returns the aud of u's assertions that the profile declares; "" if it
// declares none.
func (p *Profile) assertionAudience(u *broker.Upstream) string {
	if p.Authentication.AssertionAudience == "" {
		return ""
	}
	values := maps.Clone(u.ProviderVariables)
	if values == nil {
		values = map[string]string{}
	}
	values["token_endpoint"], values["issuer"] = u.TokenEndpoint, u.Issuer
	return p.compiled.assertionAudience.expand(values, asIs)
}

// fillLimits fills how long tokens live where the answer does not say, and how many may.
func (p *Profile) fillLimits(u *broker.Upstream, t *broker.TokenPolicy) {
	if t.AssumedLifetime == 0 && p.Expiry.Policy == PolicyAnswer && p.Expiry.Lifetime <= longestAssumed { // else answers say so
		t.AssumedLifetime = p.Expiry.Lifetime
	}
	if u.IssueBudget.IsZero() {
		u.IssueBudget = broker.IssueBudget{Tokens: p.Limits.Tokens, Period: p.Limits.Period}
	}
	if u.MaxLiveTokens == 0 && !u.SingleActiveToken {
		u.MaxLiveTokens, u.SingleActiveToken = p.Limits.MaxLiveTokens, p.Limits.SingleActiveToken
	}
}

// fillRotation fills how the secret is changed. The rotator is filled only where the
// settings are those of one: it cannot work without, and most clients' secrets are
// changed by people.
func (p *Profile) fillRotation(r *broker.RotationSettings) {
	if r.Rotator == "" && (r.Every != 0 || r.Endpoint != "" || r.ManagementClient != "" || len(r.Parameters) > 0) {
		r.Rotator = p.Secrets.Rotator
	}
	if r.Rotator == "" && p.Secrets.Overlapping { // a rotator knows by itself
		r.OverlappingSecrets = true
	}
	if p.Secrets.TokensEndWithSecret {
		r.TokensEndWithSecret = true
	}
	if r.Propagation == 0 {
		r.Propagation = p.Secrets.Propagation
	}
}
