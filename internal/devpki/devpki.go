// Package devpki makes certificates for development set-ups and tests: an
// authority whose key stays in memory, authorities below it, leaves for servers and
// callers, and revocation lists.
//
// It is no certificate authority for production: it keeps no record of what it
// issued, and is gone with the process.
package devpki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Lifetime of the certificates; they are meant to be made anew at each start.
const Lifetime = 30 * 24 * time.Hour

// Authority signs certificates. Make one with [New]. Safe for concurrent use.
type Authority struct {
	certificate *x509.Certificate
	der         []byte
	key         *ecdsa.PrivateKey
}

// New returns an authority with a new P-256 key.
func New(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := authorityTemplate(name)
	template.SerialNumber = big.NewInt(1)
	return newAuthority(template, template, key, key)
}

// Intermediate returns an authority with a new key that a vouches for.
func (a *Authority) Intermediate(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := authorityTemplate(name)
	if template.SerialNumber, err = newSerialNumber(); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return newAuthority(template, a.certificate, key, a.key)
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(Lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func newAuthority(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*Authority, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return &Authority{certificate, der, key}, nil
}

func newSerialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

// Certificate returns the authority's certificate, which must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// RevocationList returns a list, DER. The template says what is on it and how long it
// holds; what is zero is as of now, for an hour, and number 1.
func (a *Authority) RevocationList(template x509.RevocationList) ([]byte, error) {
	if template.Number == nil {
		template.Number = big.NewInt(1)
	}
	if template.ThisUpdate.IsZero() {
		template.ThisUpdate = time.Now().Add(-time.Minute)
	}
	if template.NextUpdate.IsZero() {
		template.NextUpdate = time.Now().Add(time.Hour)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &template, a.certificate, a.key)
	if err != nil {
		return nil, fmt.Errorf("make revocation list: %w", err)
	}
	return der, nil
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.der) }

// Server returns a server's certificate and key, PEM, for DNS names and IP addresses.
func (a *Authority) Server(names ...string) (certificate, key []byte, err error) {
	leaf := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Subject: pkix.Name{CommonName: "server"}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	return a.Issue(leaf)
}

// Caller returns a caller's certificate and key, PEM, with identity, such as
// "spiffe://example.org/crm", as its URI SAN.
func (a *Authority) Caller(identity string) (certificate, key []byte, err error) {
	uri, err := url.Parse(identity)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	return a.Issue(&x509.Certificate{
		URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Subject: pkix.Name{CommonName: "caller"},
	})
}

// Issue returns a certificate with a new key, PEM. Of the template, which it changes,
// the serial number, the validity and the key usage may be left out.
func (a *Authority) Issue(leaf *x509.Certificate) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	if leaf.SerialNumber == nil {
		if leaf.SerialNumber, err = newSerialNumber(); err != nil {
			return nil, nil, fmt.Errorf("make certificate: %w", err)
		}
	}
	if leaf.NotBefore.IsZero() {
		leaf.NotBefore = a.certificate.NotBefore
	}
	if leaf.NotAfter.IsZero() {
		leaf.NotAfter = a.certificate.NotAfter
	}
	if leaf.KeyUsage == 0 {
		leaf.KeyUsage = x509.KeyUsageDigitalSignature
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
