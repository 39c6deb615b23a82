package harness

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
)

// Authority is a certificate authority that lives as long as one test's folder. Its key is never written.
type Authority struct {
	// CAFile is the PEM file of the authority's own certificate: what a client must trust.
	CAFile string

	dir       string
	authority *devpki.Authority
}

// NewAuthority makes an authority that writes into dir.
func NewAuthority(dir string) (*Authority, error) {
	authority, err := devpki.New("tokenbroker tests")
	if err != nil {
		return nil, err
	}
	a := &Authority{CAFile: filepath.Join(dir, "ca.pem"), dir: dir, authority: authority}
	return a, writePrivate(a.CAFile, authority.PEM())
}

// Loopback issues a server's certificate for 127.0.0.1, ::1 and localhost, and returns its PEM files.
func (a *Authority) Loopback(name string) (certFile, keyFile string, err error) {
	certificate, key, err := a.authority.Server("localhost", "127.0.0.1", "::1")
	if err != nil {
		return "", "", fmt.Errorf("issuing the certificate of %s: %w", name, err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+"-key.pem")
	if err := writePrivate(certFile, certificate); err != nil {
		return "", "", err
	}
	return certFile, keyFile, writePrivate(keyFile, key)
}

// Client issues a client's certificate with that common name, and returns its PEM and that of its key.
func (a *Authority) Client(name string) (certificate, key []byte, err error) {
	certificate, key, err = a.authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("issuing the certificate of %s: %w", name, err)
	}
	return certificate, key, nil
}

// Pool returns the pool that trusts this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.authority.PEM())
	return pool
}

// writePrivate writes a file that only its owner may read.
func writePrivate(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
