package zoo_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"
)

// pool trusts an authority alone.
func pool(t *testing.T, ca []byte) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the authority's certificate is not PEM")
	}
	return roots
}

// trusting returns a client that trusts an authority, keeps no connection and follows no redirect.
func trusting(t *testing.T, ca []byte) *http.Client {
	t.Helper()
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool(t, ca), MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
