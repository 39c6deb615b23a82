// Package authserver is a small, strict, real authorization server: the
// client_credentials grant of RFC 6749 with client_secret_basic,
// client_secret_post and private_key_jwt, and a protected resource that tells a
// bad token from a missing scope. `tokenbroker dev` shows the broker against it,
// and tests run against it.
//
// It guards one invariant: whatever a specification forbids is refused, so that a
// client that works here works elsewhere. It keeps everything in memory, forgets
// it when it stops, and is not for production.
package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// TokenPath is the path of the token endpoint.
	TokenPath = "/token"
	// ResourcePath is the path of the protected resource.
	ResourcePath = "/resource"

	defaultLifetime = 5 * time.Minute
	// maxForm bounds a token request's body.
	maxForm = 64 << 10
)

// Config says how a [Server] answers.
type Config struct {
	// Issuer is the server's own URL without a path, such as
	// "https://as.example.com"; assertions must be meant for it or for its token
	// endpoint. [Start] fills it in when empty; [New] requires it.
	Issuer string
	// TokenLifetime is how long tokens live, in whole seconds; 0 means 5 min.
	TokenLifetime time.Duration
	// ResourceScope is what a token must have for the protected resource; "" is
	// satisfied by any valid token.
	ResourceScope string
	// Clients are registered from the start.
	Clients []Client
	// Logger gets one line per token request, without secrets, tokens or anything
	// else that the request brought and that is not registered; nil discards.
	Logger *slog.Logger
}

// Server is an authorization server and its protected resource, as an
// [http.Handler]. It is safe for concurrent use.
type Server struct {
	issuer        string
	resourceScope string
	lifetime      atomic.Int64 // nanoseconds
	requests      atomic.Int64 // to the token endpoint
	signingKey    *ecdsa.PrivateKey
	log           *slog.Logger
	mux           *http.ServeMux

	mu      sync.RWMutex              // guards clients and what they point to
	clients map[string]*registration  // client_id → what is registered
	spent   map[assertionID]time.Time // assertions seen → when they may be forgotten
}

// New returns a Server for the caller to serve under cfg.Issuer.
func New(cfg Config) (*Server, error) {
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil || issuer.Host == "" || issuer.Path != "" || issuer.RawQuery != "" {
		return nil, errors.New("authserver: issuer must be an absolute URL without path and query")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("authserver: generate signing key: %w", err)
	}
	s := &Server{
		issuer: cfg.Issuer, resourceScope: cfg.ResourceScope, signingKey: key, log: cfg.Logger,
		mux: http.NewServeMux(), clients: make(map[string]*registration), spent: make(map[assertionID]time.Time),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.SetTokenLifetime(cfg.TokenLifetime)
	for _, client := range cfg.Clients {
		if err := s.AddClient(client); err != nil {
			return nil, err
		}
	}
	s.mux.HandleFunc(TokenPath, s.serveToken)
	s.mux.HandleFunc(ResourcePath, s.serveResource)
	return s, nil
}

// ServeHTTP answers [TokenPath] and [ResourcePath], and 404 to all else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Requests returns how many requests reached the token endpoint, refused ones included.
func (s *Server) Requests() int64 { return s.requests.Load() }

// SetTokenLifetime changes how long tokens issued from now on live, in whole
// seconds; below one second means the default.
func (s *Server) SetTokenLifetime(lifetime time.Duration) {
	if lifetime < time.Second {
		lifetime = defaultLifetime
	}
	s.lifetime.Store(int64(lifetime.Truncate(time.Second)))
}

// TokenEndpoint returns the token endpoint's URL.
func (s *Server) TokenEndpoint() string { return s.issuer + TokenPath }

// ResourceURL returns the protected resource's URL.
func (s *Server) ResourceURL() string { return s.issuer + ResourcePath }

// Running is a [Server] that listens.
type Running struct {
	*Server
	http *http.Server
	done chan struct{} // closed when the accept loop has ended
}

// Start listens on address, a loopback address and port such as "127.0.0.1:0", and
// serves until Close; ctx is for the listening only. With certificates it speaks
// https, else plain http.
func Start(ctx context.Context, address string, cfg Config, certificates ...tls.Certificate) (*Running, error) {
	// Secrets travel here without TLS, and everything is made up: never beyond this host.
	if target, err := netip.ParseAddrPort(address); err != nil || !target.Addr().IsLoopback() {
		return nil, fmt.Errorf("authserver: %q is not a loopback address and port", address)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("authserver: listen: %w", err)
	}
	scheme := "http"
	if len(certificates) > 0 {
		scheme = "https"
	}
	if cfg.Issuer == "" {
		cfg.Issuer = scheme + "://" + listener.Addr().String()
	}
	server, err := New(cfg)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	r := &Running{Server: server, done: make(chan struct{}), http: &http.Server{
		Handler:           server,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // it quotes what clients send
		TLSConfig:         &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12},
	}}
	go func() {
		defer close(r.done)
		if scheme == "https" {
			_ = r.http.ServeTLS(listener, "", "") // ends with ErrServerClosed
			return
		}
		_ = r.http.Serve(listener)
	}()
	return r, nil
}

// Close stops listening and closes all connections.
func (r *Running) Close() error {
	err := r.http.Close()
	<-r.done
	return err
}
