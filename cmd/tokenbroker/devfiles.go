package main

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
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server"
)

// Identities of the development set-up.
const (
	devCaller   = "spiffe://tokenbroker.dev/caller"
	devOperator = "spiffe://tokenbroker.dev/operator"
	// devCertificateLife is short: the files are made anew at each start.
	devCertificateLife = 30 * 24 * time.Hour
)

// devFiles is the folder of a development set-up.
type devFiles struct{ dir string }

func (f devFiles) path(name string) string { return filepath.Join(f.dir, name) }

// writeCertificates makes an authority, whose key is thrown away, and certificates
// of the server, a caller and an operator.
func (f devFiles) writeCertificates() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tokenbroker development CA"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(devCertificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path("ca.pem"), encodePEM("CERTIFICATE", der), 0o644); err != nil {
		return err
	}
	for name, leaf := range map[string]*x509.Certificate{
		"server":   {DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		"caller":   {URIs: []*url.URL{mustURL(devCaller)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		"operator": {URIs: []*url.URL{mustURL(devOperator)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		if err := f.writeLeaf(name, leaf, authority, key); err != nil {
			return fmt.Errorf("certificate of %s: %w", name, err)
		}
	}
	return nil
}

func (f devFiles) writeLeaf(name string, leaf, authority *x509.Certificate, authorityKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	leaf.SerialNumber, leaf.Subject = serial, pkix.Name{CommonName: name}
	leaf.NotBefore, leaf.NotAfter, leaf.KeyUsage = authority.NotBefore, authority.NotAfter, x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePrivate(f.path(name+"-key.pem"), encodePEM("PRIVATE KEY", keyDER)); err != nil {
		return err
	}
	return os.WriteFile(f.path(name+".pem"), encodePEM("CERTIFICATE", der), 0o644)
}

// writePrivate writes a file that only its owner may read, also where an older one
// was open to more.
func writePrivate(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err) // a constant of this file
	}
	return u
}

// writeConfig writes a configuration file that `serve` takes too.
func (f devFiles) writeConfig(address string) error {
	cfg := map[string]any{
		"listen": map[string]any{
			"address": address, "certificate_file": f.path("server.pem"), "key_file": f.path("server-key.pem"), "client_ca_file": f.path("ca.pem"),
		},
		"callers": []map[string]any{
			{"name": "dev-caller", "identity": devCaller, "role": string(server.RoleCaller)},
			{"name": "dev-operator", "identity": devOperator, "role": string(server.RoleOperator)},
		},
		"store":    map[string]any{"embedded": map[string]any{"file": f.path("store.db"), "key_file": f.path("store.key")}},
		"upstream": map[string]any{"insecure_http_loopback": true},
		"log":      map[string]any{"level": "warn", "format": "text"},
	}
	encoded, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	header := "# Written by `tokenbroker dev` at each start. Not for production: the authorization\n# server is a demonstration and token requests go over plain http on loopback.\n"
	return os.WriteFile(f.path("config.yaml"), append([]byte(header), encoded...), 0o644)
}

// newSecret returns a random client secret with the characters that providers use
// and that naive encodings break.
func newSecret() secret.Value {
	return secret.NewString("s3cr3t~" + rand.Text() + "+/=%")
}
