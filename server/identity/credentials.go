package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/gather"
)

// Credentials are a gRPC server's: they find out who each connection is by its kind.
// A connection of a UNIX socket is the user at its other end. Any other is secured by
// TLS, or served in plaintext where that is said.
type Credentials struct {
	// TLS says whom to trust; nil if there is no listener with TLS.
	TLS *Reloader
	// Plaintext serves without TLS: everybody is [access.InsecureIdentity]. The listener
	// must be on loopback.
	Plaintext bool
}

var _ credentials.TransportCredentials = (*Credentials)(nil)

// ServerHandshake implements credentials.TransportCredentials; the AuthInfo is an [*Info].
// The connection gathers what is written to it, see [gather.Conn].
func (c *Credentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.handshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return gather.Conn(conn), info, nil
}

func (c *Credentials) handshake(raw net.Conn) (net.Conn, *Info, error) {
	if socket, ok := underlying(raw).(*net.UnixConn); ok {
		uid, err := peerUID(socket)
		if err != nil {
			return nil, nil, fmt.Errorf("UNIX socket: %w", err)
		}
		return raw, &Info{kind: "unix", own: access.NewPeer(access.UserIdentity(uid))}, nil
	}
	switch {
	case c.Plaintext:
		return raw, &Info{kind: "insecure", own: access.NewPeer(access.InsecureIdentity)}, nil
	case c.TLS == nil:
		return nil, nil, errors.New("only UNIX sockets are served")
	}
	return c.handshakeTLS(raw)
}

func (c *Credentials) handshakeTLS(raw net.Conn) (net.Conn, *Info, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.TLS.config.Load(), nil },
	}
	conn, auth, err := credentials.NewTLS(config).ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	info := &Info{kind: auth.AuthType(), err: &Error{Cause: CauseNoCertificate}}
	// gRPC's credentials also fill in names of certificates that were not verified:
	// only a verified chain counts.
	if secured, ok := auth.(credentials.TLSInfo); ok && len(secured.State.VerifiedChains) > 0 {
		info.reloader, info.presented = c.TLS, secured.State.PeerCertificates
	}
	return conn, info, nil
}

// ClientHandshake refuses: these credentials are a server's.
func (c *Credentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

// Info implements credentials.TransportCredentials.
func (c *Credentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (c *Credentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName implements credentials.TransportCredentials; servers have no use for it.
func (c *Credentials) OverrideServerName(string) error {
	return errors.New("server credentials have no server name")
}

// underlying returns the connection that the ones of [Connections] stand around.
func underlying(conn net.Conn) net.Conn {
	if c, ok := conn.(*counted); ok {
		return c.Conn
	}
	return conn
}
