package oauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// discoveryOp is what errors call the reading of metadata.
const discoveryOp = "discover issuer"

// Bounds on what metadata says; real ones have some fifty scopes.
const (
	maxListed     = 256
	maxListedText = 256
)

// Discover is [broker.AuthorizationServer]'s: at most two GETs, first with the well-known
// part between host and path (RFC 8414 §3.1), then at the issuer's end (OpenID Connect
// Discovery §4.1), each bounded in time and size, without redirects and without any
// credential.
//
// The metadata must name this very issuer, else whoever can write below one path of a
// host could speak for another. It is not asked where its endpoints are, as far as that
// is elsewhere than the issuer's host or one of the origins in bound: it might lead a
// secret away (Metadata.Ignored).
//
// UPSTREAM_ADDRESS_REFUSED for an issuer that is not an https URL without query;
// DISCOVERY_FAILED if neither place answers such metadata; UPSTREAM_RATE_LIMITED and
// UPSTREAM_UNAVAILABLE if one says so; DEADLINE_EXCEEDED, and the UPSTREAM_ reasons of
// connections that do not come about.
func (c *Client) Discover(ctx context.Context, issuer string, bound ...string) (broker.Metadata, error) {
	base, err := c.parseEndpoint(issuerURL, issuer)
	if err != nil {
		return broker.Metadata{}, err
	}
	if base.RawQuery != "" || base.ForceQuery || strings.Contains(issuer, "#") {
		return broker.Metadata{}, refusedEndpoint("%s has a query or fragment (RFC 8414 §2)", issuerURL)
	}
	var tries []*broker.Error
	for _, place := range wellKnown(base) {
		members, err := c.metadata(ctx, place, issuer)
		if err == nil {
			return c.readMetadata(members, base, bound), nil
		}
		if failed := broker.AsError(err); failed.Reason == broker.ReasonDiscoveryFailed || statusReason(failed.Reason) {
			tries = append(tries, failed)
			continue
		}
		return broker.Metadata{}, err // the way there: the second place is no nearer
	}
	failed := *tries[0]
	for _, try := range tries {
		if statusReason(try.Reason) {
			failed = *try
		}
	}
	failed.Detail = tries[0].Detail + "; " + tries[1].Detail
	return broker.Metadata{}, &failed
}

// statusReason reports whether a server was reached that could not answer just now.
func statusReason(r broker.Reason) bool {
	return r == broker.ReasonUpstreamRateLimited || r == broker.ReasonUpstreamUnavailable
}

// wellKnown are the two places of an issuer's metadata.
func wellKnown(issuer *url.URL) []*url.URL {
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	at := func(escaped string) *url.URL {
		u := *issuer
		u.RawPath = escaped
		u.Path, _ = url.PathUnescape(escaped) // it was unescaped when the issuer was parsed
		return &u
	}
	return []*url.URL{at("/.well-known/oauth-authorization-server" + path), at(path + "/.well-known/openid-configuration")}
}

// metadata reads one place.
func (c *Client) metadata(ctx context.Context, place *url.URL, issuer string) (object, error) {
	build := func(ctx context.Context) (*request, error) {
		out, err := http.NewRequestWithContext(ctx, http.MethodGet, place.String(), nil)
		if err != nil {
			return nil, refusedEndpoint("%s is not a URL", issuerURL)
		}
		out.Header = http.Header{"Accept": {"application/json"}, "User-Agent": {userAgent}}
		return &request{Request: out, op: discoveryOp}, nil
	}
	var members object
	err := c.exchange(ctx, hop{endpoint: place}, new(progress), build, func(a *attempt, res *http.Response) (err error) {
		members, err = a.described(res, place, issuer)
		return err
	})
	return members, err
}

func (a *attempt) described(res *http.Response, place *url.URL, issuer string) (object, error) {
	a.progress.reach(stageReading)
	failed := func(reason broker.Reason, what string) (object, error) {
		err := a.fail(reason, nil, "%s answered %d %s", place.Path, res.StatusCode, what)
		err.RetryAfter = retryAfter(res.Header, a.sent)
		return nil, err
	}
	switch status := res.StatusCode; {
	case status == http.StatusTooManyRequests:
		return failed(broker.ReasonUpstreamRateLimited, "")
	case status >= 500:
		return failed(broker.ReasonUpstreamUnavailable, "")
	case status != http.StatusOK:
		return failed(broker.ReasonDiscoveryFailed, "and not 200")
	}
	body, err := readBody(res)
	if err != nil {
		if a.limited.Err() != nil {
			return nil, a.failed(err)
		}
		return failed(broker.ReasonDiscoveryFailed, "with a body over 1 MiB or that broke off")
	}
	members, err := parseMembers(body)
	if err != nil {
		return failed(broker.ReasonDiscoveryFailed, fmt.Sprintf("with %v", err))
	}
	if named, _ := members.text("issuer", maxURI); named != issuer {
		return failed(broker.ReasonDiscoveryFailed, "with metadata of another issuer: "+a.scrub(document{}).clean(named, maxDescription))
	}
	return members, nil
}

// readMetadata takes what may be taken.
func (c *Client) readMetadata(members object, issuer *url.URL, bound []string) broker.Metadata {
	m := broker.Metadata{
		GrantTypes:           members.texts("grant_types_supported", maxListedText, maxListed),
		Scopes:               members.texts("scopes_supported", maxListedText, maxListed),
		CodeChallengeMethods: members.texts("code_challenge_methods_supported", maxListedText, maxListed),
	}
	m.Issuer, _ = members.text("issuer", maxURI)
	m.IssuerInAnswer, _ = members.flag("authorization_response_iss_parameter_supported")
	for _, method := range members.texts("token_endpoint_auth_methods_supported", maxListedText, maxListed) {
		if known := broker.AuthenticationMethod(method); slices.Contains(broker.AuthenticationMethods(), known) && !slices.Contains(m.AuthenticationMethods, known) {
			m.AuthenticationMethods = append(m.AuthenticationMethods, known)
		}
	}
	aliases, _ := parseMembers(members["mtls_endpoint_aliases"])
	for _, endpoint := range []struct {
		into *string
		from object
		name string
	}{
		{&m.TokenEndpoint, members, "token_endpoint"},
		{&m.AuthorizationEndpoint, members, "authorization_endpoint"},
		{&m.DeviceAuthorizationEndpoint, members, "device_authorization_endpoint"},
		{&m.RevocationEndpoint, members, "revocation_endpoint"},
		{&m.IntrospectionEndpoint, members, "introspection_endpoint"},
		{&m.MTLSTokenEndpoint, aliases, "token_endpoint"},
		{&m.MTLSDeviceAuthorizationEndpoint, aliases, "device_authorization_endpoint"},
		{&m.MTLSRevocationEndpoint, aliases, "revocation_endpoint"},
		{&m.MTLSIntrospectionEndpoint, aliases, "introspection_endpoint"},
	} {
		if _, there := endpoint.from[endpoint.name]; !there {
			continue
		}
		raw, problem := c.acceptEndpoint(endpoint.from, endpoint.name, issuer, bound)
		if *endpoint.into = raw; problem != "" {
			m.Ignored = append(m.Ignored, endpoint.name+": "+problem)
		}
	}
	return m
}

// acceptEndpoint returns an endpoint if it is where the issuer may have it, else what
// the matter is: the origin at most.
func (c *Client) acceptEndpoint(from object, name string, issuer *url.URL, bound []string) (raw, problem string) {
	raw, ok := from.text(name, maxURI)
	if !ok {
		return "", "not a URL"
	}
	u, err := c.parseEndpoint(name, raw)
	if err != nil {
		return "", scrubber{}.clean(broker.AsError(err).Detail, maxDescription)
	}
	origin, err := broker.Origin((&url.URL{Scheme: u.Scheme, Host: u.Host}).String())
	if err != nil {
		return "", "not a URL"
	}
	sameHost := strings.EqualFold(u.Hostname(), issuer.Hostname()) && u.Scheme == issuer.Scheme
	if !sameHost && !slices.Contains(bound, origin) {
		return "", scrubber{}.clean(origin, maxDescription)
	}
	if u.RawQuery != "" && name != "authorization_endpoint" {
		return "", "has a query"
	}
	return raw, ""
}
