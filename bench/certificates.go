package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tokenbroker/tokenbroker/server"
)

// What the clients' certificates say.
const (
	callerIdentity = "spiffe://tokenbroker.bench/caller"
	noisyIdentity  = "spiffe://tokenbroker.bench/noisy"
)

// writeCertificates makes an authority, and certificates of a server and a caller.
func (f files) writeCertificates() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := template("tokenbroker bench")
	authority.IsCA, authority.BasicConstraintsValid, authority.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		return err
	}
	if err := f.writePEM("ca.pem", "CERTIFICATE", der); err != nil {
		return err
	}
	serving := template("server")
	serving.IPAddresses, serving.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaves := []*x509.Certificate{serving}
	for name, text := range map[string]string{"caller": callerIdentity, "noisy": noisyIdentity} {
		identity, err := url.Parse(text)
		if err != nil {
			return err
		}
		calling := template(name)
		calling.URIs, calling.ExtKeyUsage = []*url.URL{identity}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		leaves = append(leaves, calling)
	}
	for _, leaf := range leaves {
		if err := f.writeLeaf(leaf, authority, key); err != nil {
			return fmt.Errorf("certificate of %s: %w", leaf.Subject.CommonName, err)
		}
	}
	return nil
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func (f files) writeLeaf(leaf, authority *x509.Certificate, authorityKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	name := leaf.Subject.CommonName
	if err := f.writePEM(name+"-key.pem", "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return f.writePEM(name+".pem", "CERTIFICATE", der)
}

func (f files) writePEM(name, kind string, der []byte) error {
	return os.WriteFile(f.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// tlsFiles is how both servers are configured.
func (f files) tlsFiles() server.TLSFiles {
	return server.TLSFiles{CertificateFile: f.path("server.pem"), KeyFile: f.path("server-key.pem"), ClientCAFile: f.path("ca.pem")}
}

// credentials are how a gRPC client connects, with the certificate of that name.
func (f files) credentials(name string) (credentials.TransportCredentials, error) {
	settings, err := f.clientTLS(name)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(settings), nil
}

// clientTLS is how a client connects, with the certificate of that name.
func (f files) clientTLS(name string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(f.path(name+".pem"), f.path(name+"-key.pem"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(f.path("ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", f.path("ca.pem"))
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, RootCAs: roots}, nil
}
