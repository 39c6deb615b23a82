package profile

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	maxValues      = 20
	maxValueLength = 1024
	// longest is what no lifetime exceeds that a provider would declare.
	longest = 10 * 366 * day
	// longestAssumed, longestBudget, longestPropagation and most are what a client's own
	// settings take.
	longestAssumed     = 30 * day
	longestBudget      = 31 * day
	longestPropagation = day
	most               = 1000
)

var (
	parameterName = regexp.MustCompile(`^[A-Za-z0-9_.:\[\]-]{1,128}$`)
	headerName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// request checks how token requests look.
func (c *checker) request(p *Profile, out *compiled) {
	r, f := p.Request, p.Refresh
	c.oneOf("request.format", r.Format, FormatForm, FormatJSON, FormatQuery)
	c.oneOf("request.method", r.Method, "POST", "GET")
	if (r.Format == FormatQuery) != (r.Method == "GET") {
		c.add("request.format", "is %s; query goes with the method GET and the others with POST", truncate(r.Format))
	}
	c.names("request.names", r.Names)
	c.names("refresh.names", f.Names)
	c.separator("request.scope_separator", r.ScopeSeparator)
	if r.ResourceAs != "" && (!parameterName.MatchString(r.ResourceAs) || carriesCredential(r.ResourceAs)) {
		c.add("request.resource_as", "is not the name of a parameter that resources could be sent as")
	}
	out.request = Shape{names: r.Names, values: c.values("request.values", r.Values, r.Names)}
	names := over(r.Names, f.Names)
	out.refreshValues = c.values("refresh.values", f.Values, names)
	out.refresh = Shape{names: names, values: over(withoutGrantType(out.request.values), out.refreshValues)}
	if _, ok := r.Values["grant_type"]; ok {
		others := slices.DeleteFunc(slices.Clone(p.Grants), func(g string) bool { return g == string(broker.RefreshToken) })
		if len(others) > 1 {
			c.add("request.values.grant_type", "would be sent with each of the grants %s; leave one", strings.Join(others, ", "))
		}
	}
	out.headers = c.headers("request.headers", r.Headers)
	c.oneOf("refresh.with", f.With, RefreshWithToken, RefreshWithAccessToken, RefreshByLogin)
	c.oneOf("refresh.rotation", f.Rotation, rotationUnknown, string(broker.RotationAlways), string(broker.RotationNever))
	c.within("refresh.grace", f.Grace, day)
	c.within("refresh.lifetime", f.Lifetime, longest)
	c.within("refresh.idle_lifetime", f.IdleLifetime, longest)
	if f.Grace > 0 && f.Rotation == string(broker.RotationNever) {
		c.add("refresh.grace", "says nothing where refresh tokens are not replaced (refresh.rotation: never)")
	}
}

func withoutGrantType(values templates) templates {
	kept := maps.Clone(values)
	delete(kept, "grant_type")
	return kept
}

func (c *checker) consent(p *Profile, out *compiled) {
	k := p.Consent
	out.consent = c.values("consent.values", k.Values, nil)
	for _, name := range []string{"response_type", "code_challenge", "code_challenge_method", "nonce", k.ScopeName} {
		if _, ok := k.Values[name]; ok {
			c.add("consent.values."+name, "is the broker's to send")
		}
	}
	if !parameterName.MatchString(k.ScopeName) || carriesCredential(k.ScopeName) {
		c.add("consent.scope_name", "is not the name of a parameter that scopes could be sent as")
	}
	if k.ScopeSeparator != p.Request.ScopeSeparator { // else it was not said, or is said to be wrong already
		c.separator("consent.scope_separator", k.ScopeSeparator)
	}
	c.oneOf("consent.pkce", k.PKCE, PKCESupported, PKCERequired, PKCERefused)
}

// names checks the provider's names of parameters.
func (c *checker) names(at string, names map[string]string) {
	taken := map[string]string{}
	for _, standard := range slices.Sorted(maps.Keys(names)) {
		name := names[standard]
		if !slices.Contains(standardNames, standard) {
			c.add(at+"."+standard, "is not a standard's parameter; those are %s", strings.Join(standardNames, ", "))
		}
		if name == "" {
			continue
		}
		if !parameterName.MatchString(name) {
			c.add(at+"."+standard, "must have up to 128 letters, digits and _.:[]-, or nothing to leave it out")
		}
		if other, ok := taken[name]; ok {
			c.add(at+"."+standard, "has the name of %s", other)
		}
		taken[name] = standard
	}
}

// carriesCredential reports whether a name is that of a parameter whose value is a
// credential or belongs to one request only.
func carriesCredential(name string) bool {
	lower := strings.ToLower(name)
	return slices.Contains(credentialNames, lower) ||
		slices.ContainsFunc(credentialWords, func(word string) bool { return strings.Contains(lower, word) })
}

// values checks what else is sent. No name of it may be that of a credential, by the
// standard or by names.
func (c *checker) values(at string, values, names map[string]string) templates {
	if len(values) > maxValues {
		c.add(at, "has %d entries; at most %d", len(values), maxValues)
	}
	parsed := templates{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !parameterName.MatchString(name) {
			c.add(at+"."+name, "must be called by up to 128 letters, digits and _.:[]-")
		}
		renamed := ""
		for standard, theirs := range names {
			if theirs == name && carriesCredential(standard) {
				renamed = standard
			}
		}
		if carriesCredential(name) || renamed != "" {
			c.add(at+"."+name, "is the name of what carries a credential or belongs to one request; a profile has none")
		}
		parsed[name] = c.template(at+"."+name, values[name])
	}
	return parsed
}

func (c *checker) headers(at string, headers map[string]string) templates {
	if len(headers) > maxValues {
		c.add(at, "has %d entries; at most %d", len(headers), maxValues)
	}
	parsed := templates{}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		lower := strings.ToLower(name)
		switch {
		case !headerName.MatchString(name):
			c.add(at+"."+name, "is not the name of a header")
		case slices.Contains(ownHeaders, lower) || carriesCredential(lower) || strings.Contains(lower, "auth") || strings.Contains(lower, "token") || strings.Contains(lower, "cookie"):
			c.add(at+"."+name, "is the broker's to send, or carries a credential; a profile has none")
		case seen[lower]:
			c.add(at+"."+name, "is there twice")
		}
		seen[lower] = true
		parsed[name] = c.template(at+"."+name, headers[name])
	}
	return parsed
}

func (c *checker) template(at, text string) template {
	if len(text) > maxValueLength || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.add(at, "must have at most %d bytes and no control characters", maxValueLength)
	}
	parsed, err := parseTemplate(text)
	if err != nil {
		c.add(at, "%v", err)
	}
	return parsed
}

// life checks how long tokens live and how many.
func (c *checker) life(p *Profile) {
	c.oneOf("expiry.policy", p.Expiry.Policy, PolicyAnswer, PolicyDeclared, PolicyRolling)
	c.within("expiry.lifetime", p.Expiry.Lifetime, longest)
	if p.Expiry.Policy != PolicyAnswer && p.Expiry.Lifetime == 0 {
		c.add("expiry.lifetime", "is required with the policy %s", truncate(p.Expiry.Policy))
	}
	l := p.Limits
	if (l.Tokens == 0) != (l.Period == 0) || l.Tokens < 0 || l.Tokens > most {
		c.add("limits.tokens", "needs 1 to %d, together with limits.period", most)
	}
	c.within("limits.period", l.Period, longestBudget)
	if l.MaxLiveTokens < 0 || l.MaxLiveTokens > most {
		c.add("limits.max_live_tokens", "must lie between 0 and %d", most)
	}
	if l.SingleActiveToken && l.MaxLiveTokens > 0 {
		c.add("limits.max_live_tokens", "must be 0 with single_active_token, which says more")
	}
}

func (c *checker) secrets(s Secrets) {
	if s.Rotator != "" {
		if err := broker.CheckID("rotator", s.Rotator); err != nil {
			c.add("secrets.rotator", "%s", broker.AsError(err).Fields[0].Problem)
		}
	}
	c.within("secrets.propagation", s.Propagation, longestPropagation)
	c.within("secrets.lifetime", s.Lifetime, longest)
}

// use finds variables that are named and not declared, or declared and not named.
func (c *checker) use(out *compiled) {
	used := map[string]bool{}
	named := func(at string, names []string, besides ...string) {
		for _, name := range names {
			used[name] = true
			if _, ok := out.variables[name]; !ok && !slices.Contains(besides, name) {
				c.add(at, "names {%s}, which is not among variables", name)
			}
		}
	}
	named("issuer", out.issuer.variables())
	for key, u := range out.endpoints {
		named("endpoints."+key, u.variables())
	}
	named("authentication.assertion_audience", out.assertionAudience.variables(), "token_endpoint", "issuer")
	named("authentication.assertion_claims", out.assertionClaims.variables(), claimVariables...)
	for at, values := range map[string]templates{
		"request.values": out.request.values, "request.headers": out.headers, "refresh.values": out.refreshValues, "consent.values": out.consent,
	} {
		named(at, values.variables())
	}
	for _, v := range out.variables {
		for _, name := range v.fallback.variables() {
			used[name] = true
		}
	}
	for name := range out.variables {
		if !used[name] {
			c.add("variables."+name, "is used nowhere")
		}
	}
}
