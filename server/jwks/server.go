// Package jwks serves the public keys of clients with private_key_jwt to authorization
// servers (jwks_uri, RFC 7591 §2): /clients/{client}/jwks.json, without access control,
// since public keys are public.
//
// It guards one invariant: nobody learns here more than the keys. What is not a client
// with keys that is in use, whatever it is, gets one and the same answer, and there is
// no list.
package jwks

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/certificate"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

const (
	// mostLookups bounds the requests that may be waiting for the store: strangers must
	// not slow down those who want tokens.
	mostLookups = 16
	// mostConnections and mostPerPeer bound what is open at once.
	mostConnections, mostPerPeer = 512, 64
	lookupTimeout                = 5 * time.Second
	// notFoundAfter is when a request is answered that there is nothing: a client that
	// is in memory and has no keys would else be told from one that there is not, for
	// which the store must be read.
	notFoundAfter = 250 * time.Millisecond
	logInterval   = time.Minute
)

// Keys says which keys a client has; see [broker.Broker.PublicKeys].
type Keys func(ctx context.Context, client string) (broker.JWKS, error)

// Config is what a [Server] is made of. Keys and MaxAge are required.
type Config struct {
	Keys Keys
	// MaxAge is how long an authorization server may keep the keys of a client.
	MaxAge time.Duration
	// CertificateFile and KeyFile are PEM, read again when they change. Without them
	// plain HTTP is served, on loopback only.
	CertificateFile, KeyFile string
	// Answered is told of the status of each answer; nil tells nobody.
	Answered func(status int)
	// Logger gets why keys could not be served; nil discards.
	Logger *slog.Logger
}

// Server serves the keys. It is safe for concurrent use.
type Server struct {
	config      Config
	certificate *certificate.Files // nil without TLS
	lookups     chan struct{}
	logged      atomic.Int64 // when a failure was last logged, Unix nanoseconds
}

// New returns a Server. Its error is about the files.
func New(cfg Config) (*Server, error) {
	if cfg.Keys == nil || cfg.MaxAge < time.Second {
		return nil, errors.New("jwks: Keys and MaxAge are required")
	}
	if cfg.Answered == nil {
		cfg.Answered = func(int) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: cfg, lookups: make(chan struct{}, mostLookups)}
	if cfg.CertificateFile != "" {
		var err error
		if s.certificate, err = certificate.Open(cfg.CertificateFile, cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("read the certificate for public keys: %w", err)
		}
	}
	return s, nil
}

// Serve serves on listener, which it closes, until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if addr, ok := listener.Addr().(*net.TCPAddr); s.certificate == nil && (!ok || !addr.IP.IsLoopback()) {
		return errors.Join(fmt.Errorf("refusing to serve public keys without TLS on %s: whoever changes them on the way takes the clients", listener.Addr()), listener.Close())
	}
	bounds := identity.Connections{Max: mostConnections, MaxPerPeer: mostPerPeer}
	listener = bounds.Listen(listener)
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // strangers fill no log
	}
	if s.certificate != nil {
		listener = tls.NewListener(listener, &tls.Config{GetCertificate: s.certificate.Get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listener of public keys: %w", err)
	}
	return nil
}

// ServeHTTP answers GET and HEAD of a client's keys.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		s.refuse(w, http.StatusMethodNotAllowed)
		return
	}
	begun := time.Now()
	client, ok := clientOf(r)
	if !ok {
		s.nothing(w, r, begun)
		return
	}
	set, err := s.lookup(r.Context(), client)
	switch {
	case err == nil:
		s.answer(w, r, set)
	case hidden(err):
		s.nothing(w, r, begun)
	default:
		s.refuse(w, http.StatusServiceUnavailable)
	}
}

// clientOf returns the client whose keys are asked for.
func clientOf(r *http.Request) (string, bool) {
	client, found := strings.CutPrefix(r.URL.Path, "/clients/")
	client, ends := strings.CutSuffix(client, "/jwks.json")
	return client, found && ends && broker.CheckID("client", client) == nil && r.URL.RawPath == ""
}

var errTooMany = errors.New("too many requests wait for the store")

// lookup asks for a client's keys unless too many do.
func (s *Server) lookup(ctx context.Context, client string) (broker.JWKS, error) {
	select {
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	default:
		return broker.JWKS{}, errTooMany
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	set, err := s.config.Keys(ctx, client)
	if err != nil && !hidden(err) {
		s.logFailure(ctx, client, err)
	}
	return set, err
}

// nothing answers that there are no such keys, at a time that does not tell why.
func (s *Server) nothing(w http.ResponseWriter, r *http.Request, begun time.Time) {
	wait := time.NewTimer(time.Until(begun.Add(notFoundAfter)))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.Context().Done():
	}
	s.refuse(w, http.StatusNotFound)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, set broker.JWKS) {
	body, err := json.Marshal(set)
	if err != nil {
		s.logFailure(r.Context(), "", err)
		s.refuse(w, http.StatusServiceUnavailable)
		return
	}
	sum := sha256.Sum256(body)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	header := w.Header()
	header.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(s.config.MaxAge/time.Second)))
	header.Set("ETag", etag)
	if matches(r.Header.Get("If-None-Match"), etag) {
		s.config.Answered(http.StatusNotModified)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", "application/jwk-set+json") // RFC 7517 §8.5.2
	header.Set("Content-Length", strconv.Itoa(len(body)))
	s.config.Answered(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // a peer that has left is nobody's loss
	}
}

// matches reports whether a peer has the keys already (RFC 9110 §13.1.2).
func matches(ifNoneMatch, etag string) bool {
	for candidate := range strings.SplitSeq(ifNoneMatch, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == etag || candidate == "*" {
			return true
		}
	}
	return false
}

func (s *Server) refuse(w http.ResponseWriter, status int) {
	s.config.Answered(status)
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	http.Error(w, http.StatusText(status), status)
}

// hidden reports whether err says that there is no client with keys in use.
func hidden(err error) bool {
	switch broker.ReasonOf(err) {
	case broker.ReasonClientNotFound, broker.ReasonClientDeleted, broker.ReasonClientDisabled, broker.ReasonSecretNotSet, broker.ReasonInvalidRequest:
		return true
	}
	return false
}

// logFailure writes at most one line a minute: what strangers ask for must not fill a
// log, and the metric counts them all.
func (s *Server) logFailure(ctx context.Context, client string, cause error) {
	now, last := time.Now().UnixNano(), s.logged.Load()
	if (last == 0 || now-last > int64(logInterval)) && s.logged.CompareAndSwap(last, now) {
		s.config.Logger.WarnContext(ctx, "public keys could not be served; logged once a minute", "client", client, "reason", string(broker.ReasonOf(cause)), "cause", cause)
	}
}
