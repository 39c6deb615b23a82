package diagnosis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// elsewhere has the same authorization server answer at another listener, which the
// client then names.
func (s *scene) elsewhere(l listening) {
	s.at(serve(s.t, http.HandlerFunc(s.as.serveHTTP), l))
}

// leaf is a good certificate but for what edit changes.
func leaf(edit func(*x509.Certificate)) *x509.Certificate {
	certificate := goodLeaf()
	edit(certificate)
	return certificate
}

// many gives a name n addresses of which those that are not alive take no connection.
func (s *scene) many(host string, n int, alive bool) {
	for i := range n {
		names.set(host, fmt.Sprintf("127.0.9.%d", i+1))
	}
	if alive {
		names.set(host, "127.0.0.1")
	}
	s.at("https://" + net.JoinHostPort(host, portOf(s.t, s.as.origin)))
}

// behind puts the broker behind a proxy.
func (s *scene) behind(proxy string) {
	s.then(func() {
		s.site = newSite(s.t, s.store, settings{upstream: func(cfg *oauth.Config) {
			cfg.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
		}})
	})
}

var wayFaults = []fault{
	{
		"a name that does not exist", connect,
		func(s *scene) { s.at("https://nowhere.test") },
		proven(broker.StageDNS, broker.ReasonUpstreamDNS, "nowhere.test: the host name does not exist", "asked the resolver at"),
	},
	{
		"a resolver that fails", connect,
		func(s *scene) { s.at("https://as.broken.test") },
		proven(broker.StageDNS, broker.ReasonUpstreamDNS, "the resolver failed"),
	},
	{
		"a name with a private address", connect,
		func(s *scene) {
			names.set("inside.test", "10.20.30.40")
			s.at("https://inside.test")
		},
		proven(broker.StageDNS, broker.ReasonUpstreamAddressRefused, "10.20.30.40 is private"),
	},
	{
		"a port that refuses", connect,
		func(s *scene) { s.at(unused(s.t)) },
		proven(broker.StageTCP, broker.ReasonUpstreamConnect, "connection refused"),
	},
	{
		"ten dead addresses", connect,
		func(s *scene) { s.many("dead.test", 10, false) },
		proven(broker.StageTCP, broker.ReasonUpstreamConnect, "127.0.9.1:", "127.0.9.10:"),
	},
	{
		"ten dead addresses and a good one", token,
		func(s *scene) { s.many("onegood.test", 10, true) },
		warned(broker.StageTCP, broker.ReasonUpstreamAddressDead, "connected to 127.0.0.1:", "127.0.9.7:"),
	},
	{
		"a port that never speaks", connect,
		func(s *scene) { s.at(silent(s.t, "")) },
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "the TLS handshake took too long"),
	},
	{
		"an SSH server", connect,
		func(s *scene) { s.at(speaking(s.t, "", "SSH-2.0-OpenSSH_9.2p1 "+canary+"\r\n")) },
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "does not speak TLS"),
	},
	{
		"plain HTTP on the https port", connect,
		func(s *scene) { s.elsewhere(listening{plain: true}) },
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "does not speak TLS"),
	},
	{
		"an expired certificate", connect,
		func(s *scene) {
			s.elsewhere(listening{leaf: leaf(func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
			})})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "the certificate expired at"),
	},
	{
		"a certificate that is not valid yet", connect,
		func(s *scene) {
			s.elsewhere(listening{leaf: leaf(func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
			})})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "valid only from"),
	},
	{
		"a certificate of another name", connect,
		func(s *scene) {
			s.elsewhere(listening{leaf: leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.test"} })})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "the certificate is for another name: other.test"),
	},
	{
		"a certificate of an unknown authority", connect,
		func(s *scene) { s.elsewhere(listening{signer: stranger}) },
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "unknown authority", "Stranger CA"),
	},
	{
		"a certificate for clients", connect,
		func(s *scene) {
			s.elsewhere(listening{leaf: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "not valid for this use"),
	},
	{
		"TLS 1.1 and nothing newer", connect,
		func(s *scene) {
			s.elsewhere(listening{tls: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "protocol version"),
	},
	{
		"a client certificate is wanted, in TLS 1.2", connect,
		func(s *scene) {
			s.elsewhere(listening{tls: func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "certificate"),
	},
	{
		"a client certificate is wanted, in TLS 1.3", connect,
		func(s *scene) {
			s.elsewhere(listening{tls: func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }})
		},
		proven(broker.StageTLS, broker.ReasonUpstreamTLS, "certificate"),
	},
	{
		"a certificate that ends tomorrow", token,
		func(s *scene) {
			s.elsewhere(listening{leaf: leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24 * time.Hour) })})
		},
		warned(broker.StageTLS, broker.ReasonUpstreamCertificateEnds, "24h"),
	},
	{
		"a proxy that refuses", connect,
		func(s *scene) {
			origin := serve(s.t, fixed(http.StatusForbidden, "text/plain", canary), listening{plain: true})
			s.behind("http" + origin[len("https"):])
		},
		proven(broker.StageHTTP, broker.ReasonUpstreamProxy, "403"),
	},
	{
		"a proxy that is not there", connect,
		func(s *scene) {
			origin := unused(s.t)
			s.behind("http" + origin[len("https"):])
		},
		proven(broker.StageHTTP, broker.ReasonUpstreamProxy, "could not be connected to"),
	},
	{
		"a proxy setting that is no URL", connect,
		func(s *scene) {
			s.then(func() {
				s.site = newSite(s.t, s.store, settings{upstream: func(cfg *oauth.Config) {
					cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, context.Canceled }
				}})
			})
		},
		proven(broker.StageDNS, broker.ReasonUpstreamProxy, "not a usable URL"),
	},
}
