// Package oauth speaks to authorization servers: it makes the one request for an
// access token that package broker asks for, whatever its grant, and says precisely
// what became of it. How a server departs from the standards it takes from a profile
// (package profile), by the name that the request has; where the server is, never.
//
// It guards three invariants. A secret goes to no origin that it is not bound to,
// and to no address that a public name should not have, so that neither an edited
// setting, a redirect, nor a DNS answer can carry it elsewhere. Each request
// carries exactly one way of client authentication. And nothing that an
// authorization server sends reaches an error unscrubbed: servers echo what they
// were given.
//
// It does not retry, cache, or decide what an error means for later requests:
// that is broker's. And it cannot keep net/http from writing to package log, of all
// things bytes that a server sent unasked; whoever owns the process discards that
// output.
package oauth

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/outbound"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// defaultTimeout leaves room for two attempts in the 20 s that broker gives a mint.
const defaultTimeout = 8 * time.Second

// op is what [broker.Error] calls the work of this package, unless a request says
// otherwise.
const op = "request token"

// Config says what a [Client] may connect to. The zero value is the strictest
// useful one: https to public addresses, certificates checked against the
// system's authorities, proxies taken from the environment.
type Config struct {
	// RootCAs are the authorities that certificates are checked against; nil takes
	// the system's. Not changed by this package; the caller must not change it either.
	RootCAs *x509.CertPool
	// AllowHTTPLoopback permits loopback addresses, and plain http to them. Meant
	// for development: whoever can listen on this host then gets what is sent there.
	AllowHTTPLoopback bool
	// AllowedAddresses are ranges that may be connected to although they are
	// private, link-local or otherwise not public. An address in one of them is
	// not looked at any further: allowing 64:ff9b::/96 (NAT64) allows the IPv4
	// addresses behind it.
	AllowedAddresses []netip.Prefix
	// Proxy chooses the proxy for a URL as [http.Transport.Proxy] does; the request
	// that it gets has a method and a URL and nothing else. nil takes
	// [http.ProxyFromEnvironment].
	//
	// The proxy is the operator's choice, so its own address is not checked; and it
	// is the proxy that resolves the token endpoint's name, so the check of resolved
	// addresses is then the proxy's to make. Addresses that stand in the URL itself
	// are refused either way. Plain http is never proxied.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout bounds one attempt from name resolution to the answer's last byte;
	// 0 means 8 s. Connecting and the TLS handshake may each take half of it.
	Timeout time.Duration
	// Profiles say how the servers of clients with a provider depart from the standards;
	// nil knows none.
	Profiles *profile.Set
}

// Client requests tokens. It is safe for concurrent use and keeps connections
// open between requests until [Client.Close].
type Client struct {
	door     *outbound.Door
	timeout  time.Duration
	profiles *profile.Set // nil if there are none
	// plainLoopback says that plain http to loopback is spoken.
	plainLoopback bool
}

// New returns a Client. It makes no connection.
func New(cfg Config) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	return &Client{timeout: cfg.Timeout, profiles: cfg.Profiles, plainLoopback: cfg.AllowHTTPLoopback, door: outbound.New(outbound.Config{
		RootCAs: cfg.RootCAs, AllowHTTPLoopback: cfg.AllowHTTPLoopback, AllowedAddresses: cfg.AllowedAddresses,
		Proxy: cfg.Proxy, Timeout: cfg.Timeout,
	})}
}

// Close closes the connections that are kept open and not in use. It does not
// wait for requests; whoever made them cancels their contexts.
func (c *Client) Close() { c.door.Close() }

// RequestToken is a [broker.RequestToken]: one request to the token endpoint
// (RFC 6749 §3.2), a POST unless the profile says otherwise, never repeated once a
// byte of it was written.
//
// All checks that need no connection come first: DESTINATION_NOT_BOUND,
// UPSTREAM_ADDRESS_REFUSED, PROVIDER_UNKNOWN, SECRET_UNUSABLE, INVALID_REQUEST for a
// parameter that is the broker's own and for a grant that lacks what it presents.
// Then each way in which the exchange can fail has its UPSTREAM_ reason, and each
// OAuth error code its rejection, which depends on the grant that was presented. When
// ctx was cancelled the error is DEADLINE_EXCEEDED and wraps [context.Canceled]; when
// time was up, be it ctx's or the Client's, UPSTREAM_TIMEOUT and it wraps
// [context.DeadlineExceeded].
//
// Errors about a grant that one request may use up (a code, a device code, a refresh
// token) are wrapped in *[broker.UnsentError] where surely no byte of it was written.
func (c *Client) RequestToken(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
	seen := new(progress)
	response, err := c.requestToken(ctx, req, seen)
	switch req.Grant.Type {
	case broker.AuthorizationCode, broker.DeviceCode, broker.RefreshToken:
		if err != nil && seen.stage() < stageSending {
			return broker.TokenResponse{}, &broker.UnsentError{Err: err}
		}
	}
	return response, err
}

func (c *Client) requestToken(ctx context.Context, req broker.TokenRequest, seen *progress) (broker.TokenResponse, error) {
	endpoint, err := c.boundEndpoint(tokenEndpoint, req.Endpoint, req.Destinations)
	if err != nil {
		return broker.TokenResponse{}, err
	}
	spoken, err := c.dialectOf(req)
	if err != nil {
		return broker.TokenResponse{}, err
	}
	var response broker.TokenResponse
	build := func(ctx context.Context) (*request, error) { return newRequest(ctx, endpoint, req, spoken) }
	err = c.exchange(ctx, hop{endpoint, req.Authentication, req.Secret, req.Grant.DPoPProof}, seen, build, func(a *attempt, res *http.Response) (err error) {
		response, err = a.read(res)
		return err
	})
	return response, err
}

// hop is where a request goes, to an endpoint that was checked, and what it brings beside
// its form.
type hop struct {
	endpoint       *url.URL
	authentication broker.Authentication
	secret         secret.Value
	proof          string // of DPoP; "" if none is sent
}

// exchange sends what build makes, and has read judge the answer. How far it got stands
// in seen.
func (c *Client) exchange(ctx context.Context, to hop, seen *progress, build func(context.Context) (*request, error), read func(*attempt, *http.Response) error) error {
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, err := build(httptrace.WithClientTrace(limited, seen.trace(limited)))
	if err != nil {
		return err
	}
	certificate, err := presented(to.authentication, to.secret)
	if err != nil {
		return err
	}
	transport, proxied, err := c.route(to.endpoint, certificate)
	if err != nil {
		own := *broker.AsError(err)
		own.Op = cmp.Or(out.op, op)
		return &own
	}
	a := &attempt{
		op: cmp.Or(out.op, op), origin: originOf(to.endpoint), parent: ctx, limited: limited, timeout: c.timeout, progress: seen,
		proxied: proxied, certified: certificate != nil, proved: to.proof != "", target: to.endpoint, basic: out.basic, credentials: out.credentials, dialect: out.dialect, sent: time.Now(),
	}
	// RoundTrip and not Client.Do: it follows no redirect, keeps no cookie, and its
	// errors do not quote the URL.
	res, err := transport.RoundTrip(out.Request)
	if err != nil {
		return a.failed(err)
	}
	defer func() { _ = res.Body.Close() }() // nothing depends on how the end of an answer went
	return read(a, res)
}

// route returns the transport to an endpoint: one that presents certificate if it is not
// nil.
func (c *Client) route(endpoint *url.URL, certificate *tls.Certificate) (*http.Transport, bool, error) {
	var transport *http.Transport
	var proxied bool
	var err error
	if certificate == nil {
		transport, proxied, err = c.door.Route(endpoint)
	} else {
		transport, proxied, err = c.door.RoutePresenting(endpoint, certificate)
	}
	switch {
	case errors.Is(err, outbound.ErrNotTLS):
		return nil, false, refusedEndpoint("%v", err)
	case err != nil:
		return nil, false, &broker.Error{Reason: broker.ReasonUpstreamProxy, Op: op, Detail: err.Error()}
	}
	return transport, proxied, nil
}

// attempt is what the parts that judge an answer, or the lack of one, need to know.
type attempt struct {
	op       string
	origin   string
	parent   context.Context // the caller's
	limited  context.Context // parent with the attempt's own timeout
	timeout  time.Duration
	progress *progress
	proxied  bool
	basic    bool // HTTP Basic credentials were sent
	// certified says that the connection presents a client certificate, proved that a
	// DPoP proof for target was sent.
	certified, proved bool
	target            *url.URL
	// credentials are all spellings in which the request held its credentials.
	credentials []string
	dialect     dialect
	sent        time.Time
}

// fail returns an error about the attempt. Server-provided text among args must
// have gone through a scrubber.
func (a *attempt) fail(reason broker.Reason, err error, format string, args ...any) *broker.Error {
	return &broker.Error{Reason: reason, Op: a.op, Detail: a.origin + ": " + fmt.Sprintf(format, args...), Err: err}
}
