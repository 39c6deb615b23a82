package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// maxHeaderBytes bounds an answer's header; real ones have a few KiB.
	maxHeaderBytes = 64 << 10
	// idleTimeout is below the 60 s after which common load balancers drop idle
	// connections: a request must not be the one to find that out.
	idleTimeout = 50 * time.Second
)

// newTransport returns a transport that dials only addresses that check accepts.
//
// The check sits in the dialler's Control function, where the address is the one
// of the connection about to be made: a name that resolves to something else a
// moment later (DNS rebinding) gains nothing.
func (c *Client) newTransport(roots *x509.CertPool, check func(netip.Addr) error) *http.Transport {
	dialer := &net.Dialer{
		Timeout: c.timeout / 2,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("read the address to dial: %w", err)
			}
			return check(target.Addr())
		},
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    c.timeout / 2,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleTimeout,
		ForceAttemptHTTP2:      true, // a custom dialler turns it off otherwise
		// Without pings a dead HTTP/2 connection is used again and again: a timeout
		// ends a request, not its connection.
		HTTP2: &http.HTTP2Config{SendPingTimeout: c.timeout / 2, PingTimeout: c.timeout / 4},
		// A token is smaller than what compressing it saves, and what is not
		// decompressed is no decompression bomb.
		DisableCompression: true,
	}
}

// route returns the transport for the endpoint. A plain http request, which goes
// to loopback, is never proxied: the proxy would read the secret.
func (c *Client) route(endpoint *url.URL) (*http.Transport, error) {
	if endpoint.Scheme == "http" {
		return c.loopback, nil
	}
	proxy, err := c.askProxy(endpoint)
	switch {
	case err != nil:
		// The error quotes the setting, which may hold the proxy's password.
		return nil, &broker.Error{Reason: broker.ReasonUpstreamProxy, Op: op, Detail: "the proxy setting is not a usable URL"}
	case proxy == nil:
		return c.direct, nil
	default:
		return c.proxied, nil
	}
}

// askProxy shows the proxy function the URL and nothing of the request beside it.
func (c *Client) askProxy(endpoint *url.URL) (*url.URL, error) {
	return c.proxy(&http.Request{Method: http.MethodPost, URL: endpoint, Host: endpoint.Host})
}

// proxyAgain is the proxy function of the transport whose dialler checks nothing,
// which therefore must not dial directly even if the setting changed just now.
func (c *Client) proxyAgain(req *http.Request) (*url.URL, error) {
	proxy, err := c.askProxy(req.URL)
	if err == nil && proxy == nil {
		err = errors.New("the proxy setting changed during a request")
	}
	return proxy, err
}

// proxyError says that the proxy answered CONNECT with something else than 200.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// refuseProxyAnswer replaces the transport's error, which is the proxy's own text.
func refuseProxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return &proxyError{res.StatusCode}
	}
	return nil
}
