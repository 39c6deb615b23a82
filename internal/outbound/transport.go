package outbound

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

const (
	// MaxHeaderBytes bounds an answer's header; real ones have a few KiB.
	MaxHeaderBytes = 64 << 10
	// idleTimeout is below the 60 s after which common load balancers drop idle
	// connections: a request must not be the one to find that out.
	idleTimeout = 50 * time.Second
)

// newDialer returns a dialler that dials only addresses that check accepts.
//
// The check sits in the dialler's Control function, where the address is the one
// of the connection about to be made: a name that resolves to something else a
// moment later (DNS rebinding) gains nothing.
func (d *Door) newDialer(check func(netip.Addr) error) *net.Dialer {
	return &net.Dialer{
		Timeout: d.timeout / 2,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("read the address to dial: %w", err)
			}
			return check(target.Addr())
		},
	}
}

// newTransport returns a transport that dials only addresses that check accepts.
func (d *Door) newTransport(roots *x509.CertPool, check func(netip.Addr) error) *http.Transport {
	return &http.Transport{
		DialContext:            d.newDialer(check).DialContext,
		TLSClientConfig:        newTLSConfig(roots),
		TLSHandshakeTimeout:    d.timeout / 2,
		MaxResponseHeaderBytes: MaxHeaderBytes,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleTimeout,
		ForceAttemptHTTP2:      true, // a custom dialler turns it off otherwise
		// Without pings a dead HTTP/2 connection is used again and again: a timeout
		// ends a request, not its connection.
		HTTP2: &http.HTTP2Config{SendPingTimeout: d.timeout / 2, PingTimeout: d.timeout / 4},
		// A token is smaller than what compressing it saves, and what is not
		// decompressed is no decompression bomb.
		DisableCompression: true,
	}
}

// Route returns the transport for a URL that [Door.Parse] returned, and whether it goes
// through a proxy. A plain http request, which goes to loopback, is never proxied: the
// proxy would read the secret. ErrProxy.
func (d *Door) Route(to *url.URL) (transport *http.Transport, proxied bool, err error) {
	if to.Scheme == "http" {
		return d.loopback, false, nil
	}
	proxy, err := d.askProxy(to)
	switch {
	case err != nil:
		return nil, false, ErrProxy
	case proxy == nil:
		return d.direct, false, nil
	default:
		return d.proxied, true, nil
	}
}

// ErrProxy says that there is a setting for a proxy that is not a usable URL. It does
// not quote the setting, which may hold the proxy's password.
var ErrProxy = errors.New("the proxy setting is not a usable URL")

// ErrNotTLS says that a certificate was to be presented where there is no TLS.
var ErrNotTLS = errors.New("a client certificate can be presented over https only")

// askProxy shows the proxy function the URL and nothing of the request beside it.
func (d *Door) askProxy(to *url.URL) (*url.URL, error) {
	return d.proxy(&http.Request{Method: http.MethodPost, URL: to, Host: to.Host})
}

// proxyAgain is the proxy function of the transport whose dialler checks nothing,
// which therefore must not dial directly even if the setting changed just now.
func (d *Door) proxyAgain(req *http.Request) (*url.URL, error) {
	proxy, err := d.askProxy(req.URL)
	if err == nil && proxy == nil {
		err = errors.New("the proxy setting changed during a request")
	}
	return proxy, err
}

// ProxyError says that the proxy answered CONNECT with something else than 200.
type ProxyError struct{ status int }

// Error names the status.
func (e *ProxyError) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// refuseProxyAnswer replaces the transport's error, which is the proxy's own text.
func refuseProxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return &ProxyError{res.StatusCode}
	}
	return nil
}
