package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// complete fills what c's settings leave open with what the profile of its provider
// declares, and adds what is wrong with them then. Endpoints that [Broker.discover] can
// still find out are not missed.
//
// It is done when a client is saved and not when a token is asked for, so that the
// record, whoever reads it and what its secret is bound to always show what is used.
func (b *Broker) complete(v *violations, c *Client) {
	named := b.fill(v, c)
	var found violations
	checkSettings(&found, c)
	b.checkProfileGrant(&found, c.Upstream)
	missing := c.Upstream.missing()
	if len(named) > 0 && c.Upstream.Authentication.Method == "" {
		missing = append(missing, "authentication_method")
	}
	// What is missing will be found, or nobody knows as long as the profile does not fit.
	excused := len(named) > 0 || b.server != nil && c.Upstream.Issuer != ""
	for _, f := range found {
		name := strings.TrimPrefix(f.Field, "client.")
		if !slices.Contains(named, f.Field) && !(excused && slices.Contains(missing, name)) {
			*v = append(*v, f)
		}
	}
}

// fill applies the profile that c names, and returns the fields that do not fit it.
func (b *Broker) fill(v *violations, c *Client) (named []string) {
	u := &c.Upstream
	if u.Provider != "" && idProblem(u.Provider) == "" {
		before := c.Rotation.clone()
		for _, f := range b.fromProfile(c) {
			v.add(f.Field, "%s", f.Problem)
			named = append(named, f.Field)
		}
		var unusable violations
		b.checkRotator(&unusable, c.Rotation)
		switch {
		case u.public(): // what a profile says of secrets is nothing to a client without one
			c.Rotation = before
		case before.Rotator == "" && len(unusable) > 0:
			c.Rotation.Rotator = "" // a profile offers one; a client that lacks what it needs is changed by hand
		}
	}
	if u.Grant == ClientCredentials {
		u.Grant = "" // as all records of earlier releases have it
	}
	return named
}

func (b *Broker) fromProfile(c *Client) []FieldViolation {
	if b.providers == nil {
		return []FieldViolation{{Field: "client.provider", Problem: "is none of this server's profiles; it has none"}}
	}
	return b.providers.Complete(&c.Upstream, &c.TokenPolicy, &c.Rotation)
}

// endpointFields are the settings that a profile or an issuer may know :: name → field.
func (u *Upstream) endpointFields() map[string]*string {
	return map[string]*string{
		"token_endpoint": &u.TokenEndpoint, "revocation_endpoint": &u.RevocationEndpoint, "authorization_endpoint": &u.AuthorizationEndpoint,
		"device_authorization_endpoint": &u.DeviceAuthorizationEndpoint, "introspection_endpoint": &u.IntrospectionEndpoint,
		"refresh_endpoint": &u.RefreshEndpoint, "issuer": &u.Issuer, "assertion.audience": &u.Authentication.AssertionAudience,
		"api_endpoint": &u.APIEndpoint,
	}
}

// missing names the endpoints that the grant needs and u lacks.
func (u *Upstream) missing() (names []string) {
	needed := []string{"token_endpoint"}
	switch u.Grant {
	case AuthorizationCode:
		needed = append(needed, "authorization_endpoint")
	case DeviceCode:
		needed = append(needed, "device_authorization_endpoint")
	}
	fields := u.endpointFields()
	for _, name := range needed {
		if *fields[name] == "" {
			names = append(names, name)
		}
	}
	return names
}

// forgetCompleted empties in c what the profile had filled into the present revision, if
// c has another profile or says something else to it: else a client whose tenant is
// changed would go on at the old one.
func (b *Broker) forgetCompleted(present, c *Client) {
	was, is := &present.Upstream, &c.Upstream
	if was.Provider == "" || b.providers == nil || was.Provider == is.Provider && maps.Equal(was.ProviderVariables, is.ProviderVariables) {
		return
	}
	bare := present.clone()
	for _, field := range bare.Upstream.endpointFields() {
		*field = ""
	}
	bare.Upstream.TokenDestinations = nil                                   // which an API comes with
	b.providers.Complete(&bare.Upstream, &bare.TokenPolicy, &bare.Rotation) // what it does not like of the old ones does not matter
	before, declared := was.clone(), bare.Upstream.endpointFields()
	beforeFields := before.endpointFields()
	for name, field := range is.endpointFields() {
		if *field == *beforeFields[name] && *field == *declared[name] {
			*field = ""
		}
	}
	if was.APIEndpoint != "" && is.APIEndpoint == "" && slices.Equal(is.TokenDestinations, bare.Upstream.TokenDestinations) {
		is.TokenDestinations = nil
	}
}

// withoutUnboundAPI takes from c the API that its profile has filled in where tokens of a
// secret that c keeps are not bound to it: it would be a reason to refuse any update.
func (c *Client) withoutUnboundAPI() {
	for _, stage := range []Stage{Current, Pending} {
		version, ok := c.Staged(stage)
		if ok && !containsAll(version.TokenDestinations, c.Upstream.TokenDestinations) {
			c.Upstream.APIEndpoint, c.Upstream.TokenDestinations = "", nil
			return
		}
	}
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// discover fills the endpoints that c leaves open with those of its issuer's metadata, if
// it lacks one that its grant needs. No other host is asked, and none is taken that a
// secret would be sent to beside the token endpoint's.
//
// INVALID_REQUEST, DISCOVERY_FAILED, or what else [AuthorizationServer].Discover returns.
func (b *Broker) discover(ctx context.Context, c *Client) error {
	u := &c.Upstream
	if b.server == nil || len(u.missing()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*attemptTimeout)
	defer cancel()
	m, err := b.server.Discover(ctx, u.Issuer)
	if err != nil {
		e := AsError(err)
		return &Error{Reason: e.Reason, Op: "discover endpoints", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	u.take(m)
	if missing := u.missing(); len(missing) > 0 {
		detail := fmt.Sprintf("the metadata of %s has no %s that could be taken", u.Issuer, strings.Join(missing, " and no "))
		if len(m.Ignored) > 0 {
			detail += fmt.Sprintf("; %s are of another host", strings.Join(m.Ignored, ", "))
		}
		return newError(ReasonDiscoveryFailed, c.ID, "%s", detail)
	}
	var v violations
	checkSettings(&v, c)
	return v.err()
}

// take fills what is empty with what an issuer says. What a secret is sent to is only
// taken if it has the token endpoint's origin.
func (u *Upstream) take(m Metadata) {
	if u.Authentication.Method.byCertificate() || u.TokenBinding == BoundByCertificate {
		m = m.WithCertificate() // RFC 8705 §5
	}
	u.TokenEndpoint = orElse(u.TokenEndpoint, m.TokenEndpoint)
	u.IssuerInAnswer = m.IssuerInAnswer
	u.AuthorizationEndpoint = orElse(u.AuthorizationEndpoint, m.AuthorizationEndpoint)
	origin, _ := Origin(u.TokenEndpoint)
	for field, found := range map[*string]string{
		&u.DeviceAuthorizationEndpoint: m.DeviceAuthorizationEndpoint, &u.RevocationEndpoint: m.RevocationEndpoint, &u.IntrospectionEndpoint: m.IntrospectionEndpoint,
	} {
		if at, err := Origin(found); *field == "" && err == nil && at == origin {
			*field = found
		}
	}
}

// Provider returns the profile of that name.
func (b *Broker) Provider(name string) (Provider, bool) {
	if b.providers == nil {
		return Provider{}, false
	}
	return b.providers.Provider(name)
}

// ProviderNames lists the names of all profiles, sorted.
func (b *Broker) ProviderNames() []string {
	if b.providers == nil {
		return nil
	}
	return b.providers.Names()
}
