package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/tokenbroker/tokenbroker/server/access"
)

// TLSFiles names the PEM files of a listener. They are read again when they change.
type TLSFiles struct {
	// CertificateFile and KeyFile are the server's own chain and key.
	CertificateFile, KeyFile string
	// ClientCAFile holds the authorities that callers' certificates must come from.
	ClientCAFile string
}

// tlsReloader makes a TLS configuration from files and makes it anew when they
// change. Files that do not fit together are reported and the last good ones
// stay in use: a half-copied renewal must not take the service down.
type tlsReloader struct {
	files TLSFiles
	log   *slog.Logger

	mu        sync.Mutex // guards the rest
	config    *tls.Config
	stamps    [3]stamp
	lastCheck time.Time
}

// stamp tells whether a file changed. The size catches what is written within one
// tick of the file system's clock.
type stamp struct {
	modified time.Time
	size     int64
}

func newTLSReloader(files TLSFiles, log *slog.Logger) (*tlsReloader, error) {
	r := &tlsReloader{files: files, log: log}
	// Stamps first: files that change while they are read are read again.
	stamps, err := r.stat()
	if err != nil {
		return nil, err
	}
	config, err := r.read()
	if err != nil {
		return nil, err
	}
	r.config, r.stamps = config, stamps
	return r, nil
}

func (r *tlsReloader) paths() [3]string {
	return [3]string{r.files.CertificateFile, r.files.KeyFile, r.files.ClientCAFile}
}

func (r *tlsReloader) stat() (stamps [3]stamp, err error) {
	for i, path := range r.paths() {
		info, err := os.Stat(path)
		if err != nil {
			return stamps, fmt.Errorf("TLS file: %w", err)
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (r *tlsReloader) read() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(r.files.CertificateFile, r.files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	bundle, err := os.ReadFile(r.files.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("client CA: %w", err)
	}
	pool, err := poolOf(bundle)
	if err != nil {
		return nil, fmt.Errorf("client CA %s: %w", r.files.ClientCAFile, err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		ClientCAs:    pool,
		// Not required, because health checks come without one; access refuses the
		// rest. A certificate that is presented must verify.
		ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"h2"},
		// A resumed session would skip a client CA that was removed since.
		SessionTicketsDisabled: true,
	}, nil
}

// poolOf reads a bundle to its end. x509.CertPool.AppendCertsFromPEM skips what it
// cannot read, and half a bundle would lock out the callers of the other half.
func poolOf(bundle []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", found+1, err)
		}
		pool.AddCert(certificate)
		found++
	}
	if begun := bytes.Count(bundle, []byte("-----BEGIN ")); found == 0 || found != begun {
		return nil, fmt.Errorf("holds %d certificates, of which %d are whole", begun, found)
	}
	return pool, nil
}

// current returns the configuration for one handshake, looking at the files at
// most once a second.
func (r *tlsReloader) current() *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.lastCheck) < time.Second {
		return r.config
	}
	r.lastCheck = time.Now()
	stamps, err := r.stat()
	if err == nil && stamps == r.stamps {
		return r.config
	}
	if err == nil {
		var config *tls.Config
		if config, err = r.read(); err == nil {
			r.config, r.stamps = config, stamps
			r.log.Info("TLS files reloaded")
			return r.config
		}
	}
	r.log.Error("TLS files cannot be reloaded; the last good ones stay in use", "cause", err)
	return r.config
}

// identityInfo is the AuthInfo of a connection: who the peer is was worked out once,
// at the handshake.
type identityInfo struct {
	credentials.AuthInfo
	peer     *access.Peer // nil if not identified
	notAfter time.Time
}

// identityCredentials works out who the peer of each connection is from its
// verified certificate.
type identityCredentials struct {
	credentials.TransportCredentials
}

func newTLSCredentials(r *tlsReloader) credentials.TransportCredentials {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.current(), nil },
	}
	return &identityCredentials{credentials.NewTLS(config)}
}

func newInsecureCredentials() credentials.TransportCredentials {
	return &identityCredentials{insecure.NewCredentials()}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *identityCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	info := &identityInfo{AuthInfo: auth}
	if secured, ok := auth.(credentials.TLSInfo); !ok {
		info.peer = access.NewPeer(InsecureIdentity)
	} else if chains := secured.State.VerifiedChains; len(chains) > 0 {
		info.peer = peerOf(chains[0][0])
		info.notAfter = chains[0][0].NotAfter
	}
	return conn, info, nil
}

// ClientHandshake refuses: these credentials are a server's.
func (c *identityCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

// Clone implements credentials.TransportCredentials.
func (c *identityCredentials) Clone() credentials.TransportCredentials {
	return &identityCredentials{c.TransportCredentials.Clone()}
}

// peerOf returns who a verified certificate names. One with a SPIFFE id and any
// other URI is nobody's (SPIFFE X.509-SVID §2).
func peerOf(leaf *x509.Certificate) *access.Peer {
	var identities []string
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" && len(leaf.URIs) > 1 {
			return nil
		}
		if identity, ok := access.URIIdentity(uri); ok {
			identities = append(identities, identity)
		}
	}
	for _, name := range leaf.DNSNames {
		identities = append(identities, access.DNSIdentity(name))
	}
	return access.NewPeer(identities...)
}

// identify finds out who calls, by the table that is in force, and who the peer was
// verified to be. A certificate that expired since the handshake identifies nobody.
func (v *visit) identify(ctx context.Context, table *access.Table) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	info, ok := p.AuthInfo.(*identityInfo)
	if !ok || !info.notAfter.IsZero() && time.Now().After(info.notAfter) {
		return
	}
	v.peer, v.notAfter = info.peer, info.notAfter
	v.caller, _ = info.peer.Caller(table)
}
