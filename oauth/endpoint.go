package oauth

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What an endpoint is called in an error.
const (
	tokenEndpoint      = "the token endpoint"
	revocationEndpoint = "the revocation endpoint"
	managementEndpoint = "the management endpoint"
)

// CheckEndpoint says whether a request to the token endpoint would be tried at
// all, with an UPSTREAM_ADDRESS_REFUSED error if not. It resolves no names: an
// address that only a resolver knows is checked when it is dialled, each time.
func (c *Client) CheckEndpoint(endpoint string) error {
	_, err := c.parseEndpoint(tokenEndpoint, endpoint)
	return err
}

// boundEndpoint returns the endpoint if the secret is bound to its origin. The
// binding is checked first: it holds whatever the Client's configuration allows.
func (c *Client) boundEndpoint(name, raw string, destinations []string) (*url.URL, error) {
	origin, err := broker.Origin(raw)
	if err != nil {
		return nil, refusedEndpoint("%s %v", name, err)
	}
	if !slices.Contains(destinations, origin) {
		return nil, &broker.Error{
			Reason: broker.ReasonDestinationNotBound, Op: op,
			Detail: fmt.Sprintf("the endpoint's origin is %s, the secret is bound to %s", origin, strings.Join(destinations, ", ")),
		}
	}
	return c.parseEndpoint(name, raw)
}

func (c *Client) parseEndpoint(name, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, refusedEndpoint("%s is not a URL", name) // the error would quote it
	}
	host := strings.ToLower(u.Hostname())
	switch {
	case u.User != nil:
		return nil, refusedEndpoint("%s has a user or password in its URL", name)
	case u.Fragment != "":
		return nil, refusedEndpoint("%s has a fragment (RFC 6749 §3.2)", name)
	case host == "" || u.Opaque != "":
		return nil, refusedEndpoint("%s is not an absolute https URL", name)
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, refusedEndpoint("%s's host name is not in ASCII form", name)
	case u.Scheme == "http" && !c.allowLoopback:
		return nil, refusedEndpoint("%s is plain http; only https is spoken", originOf(u))
	case u.Scheme == "http" && !isLoopbackHost(host):
		return nil, refusedEndpoint("%s is plain http, which is allowed to loopback addresses only", originOf(u))
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, refusedEndpoint("%s's scheme is not https", name)
	}
	return u, c.checkHost(host)
}

// checkHost refuses what the URL itself says about the address. Dialling checks
// again; this comes before, so that a setting is refused when it is made and a
// proxy is never asked for such an address.
func (c *Client) checkHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := c.checkAddress(addr); err != nil {
			return refusedEndpoint("%v", err)
		}
		return nil
	}
	// "0x7f.1" and "2130706433" are no addresses to us, but to many resolvers; no
	// top-level domain ends in a number (WHATWG URL, "ends in a number").
	name := strings.TrimSuffix(host, ".")
	if endsInNumber(name) {
		return refusedEndpoint("the host %q is neither a name nor an address in the usual form", host)
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761 §6.3
		if c.checkAddress(netip.MustParseAddr("127.0.0.1")) != nil && c.checkAddress(netip.IPv6Loopback()) != nil {
			return refusedEndpoint("the host %q is this machine", host)
		}
	}
	return nil
}

func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if digits, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func isLoopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// originOf returns scheme, host and port: all that an error may say of a URL.
func originOf(u *url.URL) string {
	origin, err := broker.Origin((&url.URL{Scheme: u.Scheme, Host: u.Host}).String())
	if err != nil {
		return "an unnamed origin"
	}
	return origin
}

func refusedEndpoint(format string, args ...any) *broker.Error {
	return &broker.Error{Reason: broker.ReasonUpstreamAddressRefused, Op: op, Detail: fmt.Sprintf(format, args...)}
}
