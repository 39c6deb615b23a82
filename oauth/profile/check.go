package profile

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	keyToken               = "token"
	keyRefresh             = "refresh"
	keyRevocation          = "revocation"
	keyAuthorization       = "authorization"
	keyDeviceAuthorization = "device_authorization"
	keyIntrospection       = "introspection"
	keyAPI                 = "api"
)

// credentialKeys are the endpoints that get a credential of the client's or the user's.
var credentialKeys = []string{keyRefresh, keyRevocation, keyDeviceAuthorization, keyIntrospection}

// byKey returns the endpoints by their keys.
func (e *Endpoints) byKey() map[string]string {
	return map[string]string{
		keyToken: e.Token, keyRefresh: e.Refresh, keyRevocation: e.Revocation, keyAuthorization: e.Authorization,
		keyDeviceAuthorization: e.DeviceAuthorization, keyIntrospection: e.Introspection, keyAPI: e.API,
	}
}

// profile checks all of a profile whose defaults are filled in, and parses what it says.
func (c *checker) profile(p *Profile) compiled {
	var out compiled
	c.about(p)
	out.variables = checkVariables(c, p.Variables)
	c.urls(p, &out)
	c.authentication(p, &out)
	c.request(p, &out)
	c.consent(p, &out)
	c.answer(p, &out)
	c.life(p)
	c.secrets(p.Secrets)
	c.use(&out)
	return out
}

// about checks what a profile says of itself.
func (c *checker) about(p *Profile) {
	if err := broker.CheckID("name", p.Name); err != nil {
		c.add("name", "%s", broker.AsError(err).Fields[0].Problem)
	}
	if p.Title == "" {
		c.add("title", "is required: what people call the provider")
	}
	c.text("title", p.Title)
	c.list("sources", p.Sources)
	c.list("unverified", p.Unverified)
	for key, texts := range map[string][]string{"sources": p.Sources, "unverified": p.Unverified} {
		for i, text := range texts {
			c.text(fmt.Sprintf("%s[%d]", key, i), text)
		}
	}
	if p.StatusPage != "" {
		if u, err := url.Parse(p.StatusPage); err != nil || u.Scheme != "https" || u.Host == "" || len(p.StatusPage) > maxURLLength {
			c.add("status_page", "must be an https URL")
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(p.Hints)) {
		if !isReason(reason) {
			c.add("hints."+reason, "is not a reason; docs/errors.md lists them")
		}
		if p.Hints[reason] == "" {
			c.add("hints."+reason, "is empty")
		}
		c.text("hints."+reason, p.Hints[reason])
	}
}

// urls checks the issuer and the endpoints.
func (c *checker) urls(p *Profile, out *compiled) {
	parse := func(at, text string, queryAllowed bool) urlTemplate {
		if text == "" {
			return urlTemplate{}
		}
		u, err := parseURL(text, queryAllowed)
		if err != nil {
			c.add(at, "%v", err)
		}
		for i := 1; i < len(u.authority.parts); i += 2 {
			checkHostVariable(c, at, u.authority, i, out.variables)
		}
		return u
	}
	out.issuer = parse("issuer", p.Issuer, false)
	out.endpoints = map[string]urlTemplate{}
	for key, text := range p.Endpoints.byKey() {
		out.endpoints[key] = parse("endpoints."+key, text, key == keyAuthorization || key == keyAPI)
	}
	token := out.endpoints[keyToken]
	for _, key := range credentialKeys {
		switch u := out.endpoints[key]; {
		case !u.isSet:
		case p.Endpoints.Token == "":
			c.add("endpoints."+key, "needs endpoints.token, whose origin it must have: a credential is sent there")
		case token.isSet && u.origin() != token.origin():
			c.add("endpoints."+key, "must have the origin of endpoints.token: a credential is sent there")
		}
	}
}

// checkHostVariable checks the variable at i of a host: whatever its value, it must not
// be able to end the host.
func checkHostVariable(c *checker, at string, authority template, i int, variables map[string]variable) {
	name := authority.parts[i]
	v, known := variables[name]
	if !known || v.pattern == nil {
		return // said elsewhere
	}
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if isPort(authority, i) {
		if !v.consistsOf(digits) {
			c.add(at, "has {%s} as a port, so variables.%s.pattern must match digits only", name, name)
		}
		return
	}
	if !v.consistsOf(digits + letters + "-._") {
		c.add(at, "has {%s} in its host, so variables.%s.pattern must match letters, digits, '-', '.' and '_' only", name, name)
	}
}

func (c *checker) authentication(p *Profile, out *compiled) {
	c.list("grants", p.Grants)
	for i, name := range p.Grants {
		if !slices.Contains(broker.GrantTypes(), broker.GrantType(name)) {
			c.add(fmt.Sprintf("grants[%d]", i), "is %q; it must be one of %v", truncate(name), broker.GrantTypes())
		}
	}
	a := p.Authentication
	c.list("authentication.methods", a.Methods)
	for i, name := range a.Methods {
		if !slices.Contains(broker.AuthenticationMethods(), broker.AuthenticationMethod(name)) {
			c.add(fmt.Sprintf("authentication.methods[%d]", i), "is %q; it must be one of %v", truncate(name), broker.AuthenticationMethods())
		}
	}
	if a.SigningAlgorithm != "" && !slices.Contains(broker.SigningAlgorithms(), a.SigningAlgorithm) {
		c.add("authentication.signing_algorithm", "is %q; it must be one of %v", truncate(a.SigningAlgorithm), broker.SigningAlgorithms())
	}
	var err error
	if out.assertionAudience, err = parseTemplate(a.AssertionAudience); err != nil || len(a.AssertionAudience) > maxURLLength {
		c.add("authentication.assertion_audience", "must be text of at most %d bytes with variables as {tenant}", maxURLLength)
	}
	c.within("authentication.assertion_lifetime", a.AssertionLifetime, time.Hour)
	out.assertionClaims = c.claims("authentication.assertion_claims", a.AssertionClaims)
}

// answer checks how answers are read.
func (c *checker) answer(p *Profile, out *compiled) {
	r, a := p.Response, &out.answer
	if (r.Success.Path == "") != (r.Success.Equals == "") {
		c.add("response.success", "needs both path and equals")
	} else if r.Success.Path != "" {
		a.Success = c.path("response.success.path", r.Success.Path)
	}
	a.AccessToken, a.TokenType = c.paths("response.access_token", r.AccessToken), c.paths("response.token_type", r.TokenType)
	a.RefreshToken, a.IDToken = c.paths("response.refresh_token", r.RefreshToken), c.paths("response.id_token", r.IDToken)
	a.Scope = c.paths("response.scope", r.Scope)
	a.ExpiresIn = c.duration("response.expires_in", r.ExpiresIn)
	a.RefreshExpiresIn = c.duration("response.refresh_expires_in", r.RefreshExpiresIn)
	c.separator("response.scope_separator", r.ScopeSeparator)
	c.list("response.token_types", r.TokenTypes)
	c.lower("response.token_types", r.TokenTypes)

	e := p.Errors
	a.ErrorCode, a.ErrorDescription = c.paths("errors.code", e.Code), c.paths("errors.description", e.Description)
	a.Aliases = make(map[string]broker.Reason, len(e.Aliases))
	if len(e.Aliases) > 4*maxList {
		c.add("errors.aliases", "has %d entries; at most %d", len(e.Aliases), 4*maxList)
	}
	for _, code := range slices.Sorted(maps.Keys(e.Aliases)) {
		at := "errors.aliases." + code
		c.reason(at, e.Aliases[code])
		c.lower(at, []string{code})
		a.Aliases[code] = broker.Reason(e.Aliases[code])
	}
	c.list("errors.retryable", e.Retryable)
	c.lower("errors.retryable", e.Retryable)
	a.Retryable = make(map[string]bool, len(e.Retryable))
	for _, code := range e.Retryable {
		a.Retryable[code] = true
	}
	if len(e.Descriptions) > maxList {
		c.add("errors.descriptions", "has %d entries; at most %d", len(e.Descriptions), maxList)
	}
	for i, d := range e.Descriptions {
		a.Descriptions = append(a.Descriptions, c.judgement(fmt.Sprintf("errors.descriptions[%d]", i), d))
	}
}

func (c *checker) judgement(at string, d Description) Judgement {
	c.reason(at+".reason", d.Reason)
	j := Judgement{Reason: broker.Reason(d.Reason), Seconds: -1, Minutes: -1}
	if d.Match == "" {
		c.add(at+".match", "is required: a regular expression")
		return j
	}
	var err error
	if j.Match, err = compileRegexp(d.Match); err != nil {
		c.add(at+".match", "%v", err)
		return j
	}
	if j.Match.MatchString("") {
		c.add(at+".match", "matches the empty text, and so every description")
	}
	for _, group := range j.Match.SubexpNames() {
		if group != "" && group != "seconds" && group != "minutes" {
			c.add(at+".match", "has a group %q; groups are seconds and minutes", truncate(group))
		}
	}
	j.Seconds, j.Minutes = j.Match.SubexpIndex("seconds"), j.Match.SubexpIndex("minutes")
	return j
}

func (c *checker) reason(at, name string) {
	if !slices.Contains(upstreamReasons, broker.Reason(name)) {
		c.add(at, "is %q; an answer can mean %v", truncate(name), upstreamReasons)
	}
}

func (c *checker) lower(at string, codes []string) {
	for _, code := range codes {
		if code != strings.ToLower(code) {
			c.add(at, "%q must be in lower case: codes are compared so", truncate(code))
		}
	}
}

func (c *checker) path(at, text string) Path {
	path, err := ParsePath(text)
	if err != nil {
		c.add(at, "%v", err)
	}
	return path
}

func (c *checker) paths(at string, texts []string) Paths {
	c.list(at, texts)
	var paths Paths
	for i, text := range texts {
		if text != "" {
			paths = append(paths, c.path(fmt.Sprintf("%s[%d]", at, i), text))
		}
	}
	return paths
}

func (c *checker) duration(at string, d Duration) Paths {
	c.oneOf(at+".unit", d.Unit, UnitSeconds, UnitMilliseconds, UnitMinutes, UnitUnix, UnitUnixMilliseconds, UnitRFC3339, UnitClock)
	c.oneOf(at+".zero", d.Zero, ZeroAbsent, ZeroNever, ZeroExpired)
	return c.paths(at+".paths", d.Paths)
}

var separators = regexp.MustCompile(`^[ ,;:+|]{1,2}$`)

func (c *checker) separator(at, s string) {
	if !separators.MatchString(s) {
		c.add(at, "is %q; it must be a space, comma, semicolon, colon, plus or bar, or two of them", truncate(s))
	}
}
