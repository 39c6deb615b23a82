package outbound

import (
	"crypto/tls"
	"net"
	"net/url"
)

// Dialer returns a dialler for connections to a URL that [Door.Parse] returned, with the
// check of addresses that requests to it have. For whoever walks the way stage by stage;
// not for a URL that [Door.Route] takes through a proxy.
func (d *Door) Dialer(to *url.URL) *net.Dialer {
	if to.Scheme == "http" {
		return d.newDialer(onlyLoopback)
	}
	return d.newDialer(d.CheckAddress)
}

// TLSConfig returns the settings of a handshake with a URL's host, which are the caller's:
// made anew, for a transport changes its own when it is first used.
func (d *Door) TLSConfig(to *url.URL) *tls.Config {
	config := newTLSConfig(d.roots)
	config.ServerName = to.Hostname()
	config.NextProtos = []string{"h2", "http/1.1"} // as requests offer
	return config
}
