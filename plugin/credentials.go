package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// fileCredentials read their files for each handshake. Files that cannot be read, or a
// certificate that does not fit its key because only one of them is written yet, leave
// what was read last in force.
type fileCredentials struct {
	config Config
	last   atomic.Pointer[tls.Config] // that could be read
}

func newFileCredentials(cfg Config) (*fileCredentials, error) {
	c := &fileCredentials{config: cfg}
	loaded, err := c.load()
	if err != nil {
		return nil, err
	}
	c.last.Store(loaded)
	return c, nil
}

func (c *fileCredentials) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.config.CertificateFile, c.config.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate for the rotator: %w", err)
	}
	authorities, err := os.ReadFile(c.config.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the rotator's authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("read the rotator's authorities: no certificate in %s", c.config.CAFile)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: c.config.ServerName, RootCAs: roots,
		// Shown whatever authorities the rotator asks for: its refusal says more than its
		// surprise that there is no certificate.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *fileCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if loaded, err := c.load(); err == nil {
		c.last.Store(loaded)
	}
	return credentials.NewTLS(c.last.Load()).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *fileCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are the broker's credentials as a client")
}

// Info implements credentials.TransportCredentials.
func (c *fileCredentials) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(c.last.Load()).Info()
}

// Clone implements credentials.TransportCredentials. What there is to share is safe to.
func (c *fileCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials, where it is
// deprecated.
func (c *fileCredentials) OverrideServerName(string) error {
	return errors.New("the configuration has the rotator's name")
}

// localCredentials look at the connection and not at the target's name, which a
// resolver could turn into any address.
type localCredentials struct {
	credentials.TransportCredentials
}

func newLocalCredentials() localCredentials { return localCredentials{insecure.NewCredentials()} }

// ClientHandshake refuses peers that are not on this machine.
func (c localCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	switch a := conn.RemoteAddr().(type) {
	case *net.UnixAddr:
	case *net.TCPAddr:
		if !a.IP.IsLoopback() {
			return nil, nil, fmt.Errorf("%v is not a loopback address: TLS is required", a)
		}
	default:
		return nil, nil, fmt.Errorf("a peer of network %s may be on another machine: TLS is required", a.Network())
	}
	return c.TransportCredentials.ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials; the embedded one would lose the check.
func (c localCredentials) Clone() credentials.TransportCredentials { return c }
