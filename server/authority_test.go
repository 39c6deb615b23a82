package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server"
)

// serverName is the name that certificates of servers in these tests carry.
const serverName = "tokenbroker.test"

// authority is a certificate authority made for one test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// names are what a certificate is issued for.
type names struct {
	uris, dns []string
	// lifetime counts from now; 0 is a day, and less than 0 is over already.
	lifetime time.Duration
	// usage is what the certificate is for; 0 is a client.
	usage x509.ExtKeyUsage
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of " + t.Name()[:min(len(t.Name()), 40)]},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatalf("make authority: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse authority: %v", err)
	}
	return &authority{certificate, key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate key: %v", err)
	}
	return key
}

// issue returns a certificate for n.
func (a *authority) issue(t *testing.T, n names) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	lifetime, usage := n.lifetime, n.usage
	if lifetime == 0 {
		lifetime = 24 * time.Hour
	}
	if usage == 0 {
		usage = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "subject"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: n.dns,
	}
	for _, raw := range n.uris {
		uri, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("parse %q: %v", raw, err)
		}
		template.URIs = append(template.URIs, uri)
	}
	if usage == x509.ExtKeyUsageServerAuth {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatalf("issue certificate: %v", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse certificate: %v", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// caller returns a certificate for one identity as server.Caller spells it.
func (a *authority) caller(t *testing.T, identity string) *tls.Certificate {
	t.Helper()
	const dns = "dns:"
	if len(identity) > len(dns) && identity[:len(dns)] == dns {
		return a.issue(t, names{dns: []string{identity[len(dns):]}})
	}
	return a.issue(t, names{uris: []string{identity}})
}

// pool returns a pool that trusts a alone.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) pem() []byte { return certificatePEM(a.certificate.Raw) }

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serverFiles writes the files of a server whose certificate a issues and which
// trusts callers of a.
func (a *authority) serverFiles(t *testing.T) server.TLSFiles {
	t.Helper()
	dir := t.TempDir()
	files := server.TLSFiles{
		CertificateFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server.key"), ClientCAFile: filepath.Join(dir, "ca.pem"),
	}
	writeFile(t, files.ClientCAFile, a.pem())
	a.writeServerCertificate(t, files)
	return files
}

// writeServerCertificate puts a new certificate and key in the place of those there.
func (a *authority) writeServerCertificate(t *testing.T, files server.TLSFiles) *tls.Certificate {
	t.Helper()
	certificate := a.issue(t, names{dns: []string{serverName}, usage: x509.ExtKeyUsageServerAuth})
	writeFile(t, files.CertificateFile, certificatePEM(certificate.Certificate[0]))
	writeFile(t, files.KeyFile, keyPEM(t, certificate.PrivateKey.(*ecdsa.PrivateKey)))
	return certificate
}

func keyPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encode key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// writeFile replaces a file and makes sure that its modification time changes,
// whatever the resolution of the file system's clock.
func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	var last time.Time
	if info, err := os.Stat(path); err == nil {
		last = info.ModTime()
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
	if !last.IsZero() {
		if err := os.Chtimes(path, time.Time{}, last.Add(time.Second)); err != nil {
			t.Fatalf("touch %s: %v", path, err)
		}
	}
}
