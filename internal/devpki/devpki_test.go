package devpki_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

func TestCertificatesVerify(t *testing.T) {
	authority, err := devpki.New("test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority.PEM()) {
		t.Fatal("the authority's PEM holds no certificate")
	}
	server := parse(t)(authority.Server("localhost", "127.0.0.1"))
	caller := parse(t)(authority.Caller("spiffe://example.org/crm"))
	tests := []struct {
		name    string
		leaf    *x509.Certificate
		options x509.VerifyOptions
		good    bool
	}{
		{"server by name", server, x509.VerifyOptions{DNSName: "localhost"}, true},
		{"server by address", server, x509.VerifyOptions{DNSName: "127.0.0.1"}, true},
		{"server by another name", server, x509.VerifyOptions{DNSName: "example.org"}, false},
		{"server as a caller", server, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
		{"caller", caller, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.options.Roots = roots
			_, err := test.leaf.Verify(test.options)
			if got := err == nil; got != test.good {
				t.Errorf("verified = %v (%v), want %v", got, err, test.good)
			}
		})
	}
	if got, want := caller.URIs[0].String(), "spiffe://example.org/crm"; got != want {
		t.Errorf("identity = %q, want %q", got, want)
	}
}

func parse(t *testing.T) func(certificate, key []byte, err error) *x509.Certificate {
	return func(certificate, key []byte, err error) *x509.Certificate {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
}
