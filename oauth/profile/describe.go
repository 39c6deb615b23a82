package profile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Examples returns a value for each variable: its example, or else its default.
func (p *Profile) Examples() map[string]string {
	said := map[string]string{}
	for name, v := range p.Variables {
		if v.Example != "" {
			said[name] = v.Example
		}
	}
	return p.compiled.resolve(said)
}

// Describe says in a few lines what p means for a client with these variables: where
// requests go, what is sent, and what is read.
func (p *Profile) Describe(variables map[string]string) []string {
	u, violations := p.Expand(variables)
	if len(violations) > 0 {
		lines := make([]string, 0, len(violations))
		for _, v := range violations {
			lines = append(lines, v.Field+": "+v.Problem)
		}
		return lines
	}
	d := description{profile: p, upstream: u}
	d.variables()
	d.endpoints()
	d.request()
	d.answer()
	d.life()
	return d.lines
}

// description is one being written.
type description struct {
	profile  *Profile
	upstream broker.Upstream
	lines    []string
}

func (d *description) add(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *description) variables() {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(d.profile.Variables)) {
		need := "optional"
		if d.profile.compiled.variables[name].required {
			need = "required"
		}
		words = append(words, fmt.Sprintf("%s=%s (%s)", name, d.upstream.ProviderVariables[name], need))
	}
	if len(words) > 0 {
		d.add("With the variables %s:", strings.Join(words, ", "))
	}
}

func (d *description) endpoints() {
	u := d.upstream
	switch {
	case u.TokenEndpoint != "":
		d.add("Tokens are asked for at %s.", u.TokenEndpoint)
	case d.profile.Discovery:
		d.add("Endpoints are those of the issuer's metadata, %s.", cmp.Or(u.Issuer, "which a client must name"))
	default:
		d.add("Tokens are asked for at the client's own token_endpoint.")
	}
	for _, place := range [...]struct{ what, url string }{
		{"Refresh tokens are used at", u.RefreshEndpoint},
		{"Users consent at", u.AuthorizationEndpoint},
		{"Users of other devices consent by way of", u.DeviceAuthorizationEndpoint},
		{"Tokens are revoked at", u.RevocationEndpoint},
		{"Tokens are looked up at", u.IntrospectionEndpoint},
		{"A token is tried at", d.profile.EndpointAPI(u.ProviderVariables)},
	} {
		if place.url != "" {
			d.add("%s %s.", place.what, place.url)
		}
	}
	if u.Issuer != "" && u.TokenEndpoint != "" {
		d.add("The issuer is %s.", u.Issuer)
	}
	if a := d.profile.Authentication; a.AssertionAudience != "" || len(a.AssertionClaims) > 0 {
		d.add("Assertions are for %s%s.", cmp.Or(d.profile.assertionAudience(&u), "the token endpoint"), claimsOf(a.AssertionClaims))
	}
	d.add("Grants: %s. Clients authenticate by %s.", strings.Join(d.profile.Grants, ", "), strings.Join(d.profile.Authentication.Methods, " or "))
}

func (d *description) request() {
	r := d.profile.Request
	d.add("Requests are sent by %s as %s.%s", r.Method, r.Format, renamed(d.profile.compiled.request.names))
	also := d.profile.RequestShape().Values(d.upstream.ProviderVariables)
	headers := d.profile.Headers(d.upstream.ProviderVariables)
	if len(also) > 0 || len(headers) > 0 {
		d.add("Also sent: %s.", strings.Join(append(pairs(also, "="), pairs(headers, ": ")...), ", "))
	}
	if d.upstream.AuthorizationEndpoint != "" {
		k := d.profile.Consent
		sent := append(pairs(d.profile.ConsentValues(d.upstream.ProviderVariables), "="), k.ScopeName+"=…")
		d.add("Users are asked with %s; PKCE is %s.", strings.Join(sent, ", "), k.PKCE)
	}
	if !d.profile.refreshes() {
		return
	}
	f := d.profile.Refresh
	switch f.With {
	case RefreshByLogin:
		d.add("Nothing is refreshed: each token is asked for anew.")
	case RefreshWithAccessToken:
		d.add("Refreshed with the last access token.%s", renamed(f.Names))
	default:
		words := map[string]string{
			rotationUnknown:               "may be replaced by each use",
			string(broker.RotationAlways): "are replaced by each use",
			string(broker.RotationNever):  "are used again and again",
		}[f.Rotation]
		if f.Grace > 0 {
			words += fmt.Sprintf(", the last one being taken for another %s", short(f.Grace))
		}
		d.add("Refresh tokens %s.%s", words, renamed(f.Names))
	}
}

// refreshes reports whether there may be refresh tokens.
func (p *Profile) refreshes() bool {
	return p.Endpoints.Refresh != "" || p.Refresh.With != RefreshWithToken || slices.ContainsFunc(p.Grants, func(grant string) bool {
		switch broker.GrantType(grant) {
		case broker.AuthorizationCode, broker.DeviceCode, broker.RefreshToken, broker.Password:
			return true
		}
		return false
	})
}

// short writes a duration without what is zero in it.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// renamed says what parameters are called.
func renamed(names map[string]string) string {
	var called, out []string
	for _, standard := range slices.Sorted(maps.Keys(names)) {
		if name := names[standard]; name != "" {
			called = append(called, standard+" as "+name)
		} else {
			out = append(out, standard)
		}
	}
	text := ""
	if len(called) > 0 {
		text += " They call " + strings.Join(called, ", ") + "."
	}
	if len(out) > 0 {
		text += " They leave out " + strings.Join(out, ", ") + "."
	}
	return text
}

func claimsOf(claims map[string]string) string {
	if len(claims) == 0 {
		return ""
	}
	return ", with the claims " + strings.Join(pairs(claims, "="), ", ")
}

func pairs(values map[string]string, between string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, name+between+values[name])
	}
	return list
}

func (d *description) answer() {
	r, e := d.profile.Response, d.profile.Errors
	if r.Success.Path != "" {
		d.add("An answer is believed where %s is %s.", r.Success.Path, r.Success.Equals)
	}
	read := fmt.Sprintf("Read: the token at %s, its lifetime in %s at %s", strings.Join(r.AccessToken, " or "), r.ExpiresIn.Unit, strings.Join(r.ExpiresIn.Paths, " or "))
	if d.profile.refreshes() {
		read += ", a refresh token at " + strings.Join(r.RefreshToken, " or ")
	}
	d.add("%s.", read)
	d.add("Errors: the code at %s, its description at %s.", strings.Join(e.Code, " or "), strings.Join(e.Description, " or "))
	means := pairs(e.Aliases, " means ")
	for _, description := range e.Descriptions {
		means = append(means, fmt.Sprintf("a description with %q means %s", description.Match, description.Reason))
	}
	for _, text := range means {
		d.add("  %s", text)
	}
}

func (d *description) life() {
	switch e := d.profile.Expiry; {
	case e.Policy == PolicyDeclared:
		d.add("Tokens live %s, whatever the answer says.", short(e.Lifetime))
	case e.Policy == PolicyRolling:
		d.add("Tokens live %s from their last use at the API.", short(e.Lifetime))
	case e.Lifetime > 0:
		d.add("Tokens are taken to live %s where the answer does not say.", short(e.Lifetime))
	}
	if l := d.profile.Limits; l.Tokens > 0 {
		d.add("At most %d tokens are issued in %s.", l.Tokens, short(l.Period))
	} else if l.SingleActiveToken {
		d.add("A new token ends the one before it.")
	}
	if l := d.profile.Limits; l.MaxLiveTokens > 0 {
		d.add("At most %d tokens live at a time.", l.MaxLiveTokens)
	}
	s := d.profile.Secrets
	if s.TokensEndWithSecret {
		d.add("Tokens end with the secret that they were got with.")
	}
	if s.Propagation > 0 {
		d.add("A new secret is known everywhere after %s.", short(s.Propagation))
	}
	for _, text := range d.profile.Unverified {
		d.add("Not verified: %s", text)
	}
}
