// Package outbound is the way out to servers whose address somebody configured: which
// URLs and addresses are connected to, and by which transport.
//
// It guards one invariant: nothing goes to an address that a public name should not
// have, so that neither an edited setting nor a DNS answer carries a request into the
// network that the broker stands in, unless the configuration allows that address.
//
// It makes no request and judges no answer, and its errors quote no URL.
package outbound

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config says what may be connected to. Only Timeout is required: the zero value of the
// rest is the strictest useful one.
type Config struct {
	// RootCAs are the authorities that certificates are checked against; nil takes the
	// system's. Not changed by this package; the caller must not change it either.
	RootCAs *x509.CertPool
	// AllowHTTPLoopback permits loopback addresses, and plain http to them.
	AllowHTTPLoopback bool
	// AllowedAddresses are ranges that may be connected to although they are not public.
	// An address in one of them is not looked at any further.
	AllowedAddresses []netip.Prefix
	// Proxy chooses the proxy for a URL as [http.Transport.Proxy] does; the request that
	// it gets has a method and a URL and nothing else. nil takes
	// [http.ProxyFromEnvironment]. The address of a proxy is not checked, and the proxy
	// resolves names in our place. Plain http is never proxied.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout is what the user of a transport gives one request; connecting and the TLS
	// handshake may each take half of it.
	Timeout time.Duration
}

// Door has a transport for each policy of what may be dialled, so that a dialler never
// has to find out on whose behalf it dials. It is safe for concurrent use and keeps
// connections open until [Door.Close].
type Door struct {
	allowLoopback bool
	allowed       []netip.Prefix
	proxy         func(*http.Request) (*url.URL, error)
	timeout       time.Duration
	roots         *x509.CertPool // nil for the system's

	direct   *http.Transport // https, addresses checked
	proxied  *http.Transport // https through a proxy, whose address is not checked
	loopback *http.Transport // http, loopback only
}

// New returns a Door. It makes no connection.
func New(cfg Config) *Door {
	d := &Door{
		allowLoopback: cfg.AllowHTTPLoopback, allowed: slices.Clone(cfg.AllowedAddresses), proxy: cfg.Proxy, timeout: cfg.Timeout,
		roots: cfg.RootCAs,
	}
	if d.proxy == nil {
		d.proxy = http.ProxyFromEnvironment
	}
	d.direct = d.newTransport(cfg.RootCAs, d.CheckAddress)
	d.proxied = d.newTransport(cfg.RootCAs, anyAddress)
	d.proxied.Proxy = d.proxyAgain
	d.proxied.OnProxyConnectResponse = refuseProxyAnswer
	d.loopback = d.newTransport(cfg.RootCAs, onlyLoopback)
	return d
}

// Close closes the connections that are kept open and not in use. It does not wait for
// requests.
func (d *Door) Close() {
	for _, t := range []*http.Transport{d.direct, d.proxied, d.loopback} {
		t.CloseIdleConnections()
	}
}

// Parse returns the URL if a request to it would be tried at all: https to a host that
// is not refused, or, where that is allowed, http to loopback. It resolves no names: an
// address that only a resolver knows is checked when it is dialled, each time. Its
// errors call the URL "the" and what.
func (d *Door) Parse(what, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("the %s is not a URL", what) // the error would quote it
	}
	host := strings.ToLower(u.Hostname())
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("the %s has a user or password in its URL", what)
	case u.Fragment != "":
		return nil, fmt.Errorf("the %s has a fragment (RFC 6749 §3.2)", what)
	case host == "" || u.Opaque != "":
		return nil, fmt.Errorf("the %s is not an absolute https URL", what)
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("the %s's host name is not in ASCII form", what)
	case u.Scheme == "http" && !d.allowLoopback:
		return nil, errors.New(origin(u) + " is plain http; only https is spoken")
	case u.Scheme == "http" && !isLoopbackHost(host):
		return nil, errors.New(origin(u) + " is plain http, which is allowed to loopback addresses only")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the %s's scheme is not https", what)
	}
	return u, d.checkHost(host)
}

// checkHost refuses what the URL itself says about the address. Dialling checks
// again; this comes before, so that a setting is refused when it is made and a
// proxy is never asked for such an address.
func (d *Door) checkHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return d.CheckAddress(addr)
	}
	// "0x7f.1" and "2130706433" are no addresses to us, but to many resolvers; no
	// top-level domain ends in a number (WHATWG URL, "ends in a number").
	name := strings.TrimSuffix(host, ".")
	if endsInNumber(name) {
		return fmt.Errorf("the host %q is neither a name nor an address in the usual form", host)
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761 §6.3
		if d.CheckAddress(netip.MustParseAddr("127.0.0.1")) != nil && d.CheckAddress(netip.IPv6Loopback()) != nil {
			return fmt.Errorf("the host %q is this machine", host)
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

// origin is scheme, host and port: all that an error may say of a URL.
func origin(u *url.URL) string {
	if u.Port() == "" {
		return u.Scheme + "://" + strings.ToLower(u.Host)
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), u.Port())
}
