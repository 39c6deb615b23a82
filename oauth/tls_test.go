package oauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// issue makes a certificate signed by an authority of its own.
func issue(t *testing.T, change func(*x509.Certificate)) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test canary-7f3a9c"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func TestTLSFailures(t *testing.T) {
	tests := []struct {
		name   string
		change func(*x509.Certificate)
		server func(*tls.Config)
		trust  bool
		text   string
	}{
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil, true, "the certificate expired at 20"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, nil, true, "valid only from 20"},
		{"another name", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"a.example", "b.example"} }, nil, true, "for another name: a.example, b.example"},
		{"name that echoes", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"canary-7f3a9c"} }, nil, true, "withheld"},
		{"no name", func(c *x509.Certificate) { c.IPAddresses = nil }, nil, true, "names no host"},
		{"unknown authority", func(c *x509.Certificate) { c.Subject.CommonName = "My CA" }, nil, false, "an unknown authority, issued by CN=My CA"},
		{"authority that echoes", func(*x509.Certificate) {}, nil, false, "withheld"},
		{"not for servers", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, nil, true, "not valid for this use"},
		{"TLS 1.1", func(*x509.Certificate) {}, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, true, "protocol version not supported"},
		{"wants a client certificate", func(*x509.Certificate) {}, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, true, "certificate required"},
		{"wants one by TLS 1.2", func(*x509.Certificate) {}, func(c *tls.Config) {
			c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}, true, "the server ended TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			certificate, roots := issue(t, tt.change)
			client, server := serve(t, answer(200, `{"access_token":"at"}`), func(s *httptest.Server, cfg *oauth.Config) {
				s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
				if tt.server != nil {
					tt.server(s.TLS)
				}
				if cfg.RootCAs = roots; !tt.trust {
					cfg.RootCAs = x509.NewCertPool()
				}
			})
			_, err := client.RequestToken(t.Context(), tokenRequest(server))
			wantReason(t, err, broker.ReasonUpstreamTLS, tt.text)
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		plain := httptest.NewServer(http.NotFoundHandler())
		defer plain.Close()
		client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
		defer client.Close()
		_, err := client.RequestToken(t.Context(), requestTo(strings.Replace(plain.URL, "http:", "https:", 1)+"/token"))
		wantReason(t, err, broker.ReasonUpstreamTLS, "does not speak TLS")
	})
	t.Run("closes in the handshake", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_ = conn.Close()
			}
		}()
		client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
		_, err = client.RequestToken(t.Context(), requestTo("https://"+listener.Addr().String()+"/token"))
		wantReason(t, err, broker.ReasonUpstreamTLS, "broke during the TLS handshake")
	})
}
