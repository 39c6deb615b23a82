package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TLSFiles are PEM files. They are read again for each new connection, of which there
// is one at least every half hour: a renewed file needs no restart. A file that cannot
// be read, or a certificate that does not fit its key because only one of them is
// written yet, leaves what was read last in force.
type TLSFiles struct {
	// Certificate and Key say who this caller is; both or none. None where a bearer
	// token says it.
	Certificate string
	Key         string
	// CA holds the authorities that the broker's certificate may come from; "" takes
	// the system's.
	CA string
	// ServerName is the name that must stand in the broker's certificate; "" takes the
	// target's host.
	ServerName string
}

func (f TLSFiles) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: f.ServerName}
	if (f.Certificate == "") != (f.Key == "") {
		return nil, errors.New("tokenbroker: Certificate and Key go together")
	}
	if f.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return nil, fmt.Errorf("tokenbroker: read certificate: %w", err)
		}
		// Shown whatever authorities the broker asks for: its refusal says more than
		// its surprise that there is no certificate.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("tokenbroker: read authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tokenbroker: read authorities: no certificate in %s", f.CA)
		}
	}
	return config, nil
}

// tlsCredentials reads its files for each handshake.
type tlsCredentials struct {
	files TLSFiles
	last  atomic.Pointer[tls.Config] // that could be read
}

func newTLSCredentials(files TLSFiles) (*tlsCredentials, error) {
	config, err := files.load()
	if err != nil {
		return nil, err
	}
	c := &tlsCredentials{files: files}
	c.last.Store(config)
	return c, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *tlsCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if config, err := c.files.load(); err == nil {
		c.last.Store(config)
	}
	return credentials.NewTLS(c.last.Load()).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *tlsCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("tokenbroker: these are a caller's credentials")
}

// Info implements credentials.TransportCredentials.
func (c *tlsCredentials) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(c.last.Load()).Info()
}

// Clone implements credentials.TransportCredentials. What there is to share is safe to.
func (c *tlsCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials, where it is
// deprecated.
func (c *tlsCredentials) OverrideServerName(string) error {
	return errors.New("tokenbroker: TLSFiles.ServerName says it")
}

// loopbackCredentials look at the connection and not at the target's name, which a
// resolver could turn into any address.
type loopbackCredentials struct {
	credentials.TransportCredentials
}

func newLoopbackCredentials() loopbackCredentials {
	return loopbackCredentials{insecure.NewCredentials()}
}

// ClientHandshake refuses peers that are not on this machine.
func (c loopbackCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !isLoopback(conn.RemoteAddr()) {
		return nil, nil, fmt.Errorf("tokenbroker: %v is not a loopback address: TLS is required", conn.RemoteAddr())
	}
	return c.TransportCredentials.ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials; the embedded one would lose the check.
func (c loopbackCredentials) Clone() credentials.TransportCredentials { return c }

func isLoopback(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return addr.Network() == "bufconn" // within the process
	}
}

// bearerFile are per-RPC credentials from a file. A look at the file's metadata is
// cheap beside a call, and a token that was replaced is used at once.
type bearerFile struct {
	path string

	mu     sync.Mutex // guards what follows
	seen   os.FileInfo
	header Secret
}

func newBearerFile(path string) (*bearerFile, error) {
	b := &bearerFile{path: path}
	if err := b.readLocked(); err != nil {
		return nil, fmt.Errorf("tokenbroker: read bearer token: %w", err)
	}
	return b, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b *bearerFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.readLocked() // what was read last may still be good: the broker says
	return map[string]string{"authorization": b.header.Reveal()}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b *bearerFile) RequireTransportSecurity() bool { return true }

func (b *bearerFile) readLocked() error {
	info, err := os.Stat(b.path)
	if err != nil {
		return err
	}
	if b.seen != nil && os.SameFile(info, b.seen) && info.ModTime().Equal(b.seen.ModTime()) && info.Size() == b.seen.Size() {
		return nil
	}
	content, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the file does not hold a token")
	}
	b.seen, b.header = info, newSecret("Bearer "+token)
	return nil
}
