package server

import (
	"errors"
	"fmt"
	"net"

	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/identity"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// TLSFiles names the files of a TLS listener; see [identity.TLS].
type TLSFiles = identity.TLS

func (cfg *Config) credentials() (*identity.Credentials, error) {
	if cfg.TLS == nil {
		return &identity.Credentials{Plaintext: cfg.Plaintext}, nil
	}
	files := *cfg.TLS
	files.Observe = func(failing, stale bool) {
		cfg.Metrics.ReloadFailing(telemetry.TLSFiles, failing)
		cfg.Metrics.ReloadFailing(telemetry.RevocationLists, stale)
	}
	reloader, err := identity.NewReloader(files, cfg.Logger)
	if err != nil {
		return nil, err
	}
	return &identity.Credentials{TLS: reloader}, nil
}

// presents returns an error for an identity that no peer of this server can have.
func (cfg *Config) presents(listed string) error {
	switch source := access.SourceOf(listed); {
	case source == access.FromPlaintext && !cfg.Plaintext:
		return fmt.Errorf("identity %s is for a plaintext listener only", listed)
	case source == access.FromUNIX && !cfg.UNIX:
		return fmt.Errorf("identity %s is for a UNIX socket only", listed)
	case source == access.FromCommonName && (cfg.TLS == nil || !cfg.TLS.CommonNames):
		return fmt.Errorf("identity %s is for a TLS listener with CommonNames only", listed)
	}
	return nil
}

// mayServe returns why a listener must not be served.
func (s *Server) mayServe(listeners []net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("refusing to serve without a listener")
	}
	for _, listener := range listeners {
		switch addr := listener.Addr(); {
		case s.identities.Plaintext && !isLoopback(addr):
			return fmt.Errorf("refusing to serve plaintext on %s: only loopback is allowed", addr)
		case s.identities.TLS == nil && !s.identities.Plaintext && addr.Network() != "unix":
			return fmt.Errorf("refusing to serve on %s without TLS: only UNIX sockets are configured", addr)
		}
	}
	return nil
}

// ReloadIdentities reads the files of the TLS listener at once, as on SIGHUP, and
// returns what is wrong with them; the last good ones stay in force then.
func (s *Server) ReloadIdentities() error {
	if s.identities.TLS == nil {
		return nil
	}
	return s.identities.TLS.Reload()
}

func isLoopback(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return addr.Network() == "bufconn" // in memory, used by tests
	}
}
