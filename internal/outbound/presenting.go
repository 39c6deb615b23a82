package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
)

// RoutePresenting is [Door.Route] for a request whose connection authenticates by a
// client certificate (RFC 8705). Its transport is for this one request: the connection
// ends with the answer's body, so that none is ever there for another client, and
// there are never more of them than requests. It costs a handshake for each request,
// which are few: a token is had about once an hour.
//
// The certificate is presented to the server alone, never to a proxy on the way there.
// Plain http, which has no certificates, is ErrNotTLS.
func (d *Door) RoutePresenting(to *url.URL, certificate *tls.Certificate) (transport *http.Transport, proxied bool, err error) {
	if to.Scheme != "https" {
		return nil, false, ErrNotTLS
	}
	proxy, err := d.askProxy(to)
	if err != nil {
		return nil, false, ErrProxy
	}
	check := d.CheckAddress
	if proxy != nil {
		check = anyAddress
	}
	t := d.newTransport(d.roots, check)
	// HTTP/1.1: one connection, one request.
	t.DisableKeepAlives, t.ForceAttemptHTTP2, t.HTTP2 = true, false, nil
	// Presented whatever authorities the server hints at: crypto/tls would hold back one
	// that is self-signed (RFC 8705 §2.2), and say nothing of it.
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	if proxy != nil {
		t.Proxy, t.OnProxyConnectResponse = d.proxyAgain, refuseProxyAnswer
		t.DialTLSContext = d.dialProxy(check)
	}
	return t, proxy != nil, nil
}

// dialProxy is how an https proxy is connected to; what is inside of the tunnel gets the
// transport's own TLS configuration, and with it the certificate.
func (d *Door) dialProxy(check func(netip.Addr) error) func(context.Context, string, string) (net.Conn, error) {
	dialer := &tls.Dialer{NetDialer: d.newDialer(check), Config: newTLSConfig(d.roots)}
	return dialer.DialContext
}

func newTLSConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
