// Package callback is where browsers come back to after a user's consent: one path of
// one HTTPS listener, which takes what the authorization server sent and answers with a
// page for the user.
//
// It guards these invariants: nothing of a request is reflected in a page, a log or an
// audit entry; what was not made here costs no call to the store; and whoever floods it
// takes nothing from those who want tokens.
package callback

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/certificate"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

const (
	// mostConnections and mostPerPeer bound what is open at once.
	mostConnections, mostPerPeer = 512, 64
	// mostCompletions bounds the answers that are worked on at once.
	mostCompletions   = 32
	completionTimeout = 30 * time.Second
	// maxQuery bounds the query: a code may have 8 KiB, percent-encoded.
	maxQuery = 24 << 10
)

// Complete takes an answer; see [broker.Broker.CompleteAuthorization].
type Complete func(ctx context.Context, answer broker.AuthorizationAnswer) (*broker.Authorization, error)

// Done is what became of one answer.
type Done struct {
	// RequestID stands on the user's page.
	RequestID string
	// Client and Subject are whose consent it was; "" if that was not found out, as for
	// whatever strangers send.
	Client, Subject string
	// Reason is why nothing came of it; "" if it was granted.
	Reason broker.Reason
}

// Config is what a [Server] is made of. Complete and URL are required.
type Config struct {
	Complete Complete
	// URL is what authorization servers send browsers to. Its path is the only one that is
	// served.
	URL string
	// CertificateFile and KeyFile are PEM, read again when they change. Without them plain
	// HTTP is served, on loopback only.
	CertificateFile, KeyFile string
	// Record writes an entry into the audit log before the page is sent; nil writes none.
	// After an error the user is told that it did not work.
	Record func(Done) error
	// Answered is told of the reason of each answer, "" for a grant; nil tells nobody.
	Answered func(broker.Reason)
	// Logger gets a line for each answer to a consent that was asked for; nil discards.
	Logger *slog.Logger
}

// Server serves the callback. It is safe for concurrent use.
type Server struct {
	config      Config
	path        string
	certificate *certificate.Files // nil without TLS
	pages       *pages
	limits      *limits
	room        chan struct{}

	mu sync.Mutex // guards underway
	// underway are hashes of the states that are being worked on.
	underway map[[sha256.Size]byte]bool
}

// New returns a Server. Its error is about URL or the files.
func New(cfg Config) (*Server, error) {
	if cfg.Complete == nil {
		return nil, errors.New("callback: Complete is required")
	}
	parsed, err := url.Parse(cfg.URL)
	if err != nil || !parsed.IsAbs() || parsed.EscapedPath() == "" {
		return nil, fmt.Errorf("callback: %q is no absolute URL with a path", cfg.URL)
	}
	if cfg.Record == nil {
		cfg.Record = func(Done) error { return nil }
	}
	if cfg.Answered == nil {
		cfg.Answered = func(broker.Reason) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		config: cfg, path: parsed.EscapedPath(), pages: newPages(), limits: newLimits(),
		room: make(chan struct{}, mostCompletions), underway: map[[sha256.Size]byte]bool{},
	}
	if cfg.CertificateFile != "" {
		if s.certificate, err = certificate.Open(cfg.CertificateFile, cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("read the certificate of the callback: %w", err)
		}
	}
	return s, nil
}

// Serve serves on listener, which it closes, until ctx ends; then answers under way have
// a moment to be sent.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if addr, ok := listener.Addr().(*net.TCPAddr); s.certificate == nil && (!ok || !addr.IP.IsLoopback()) {
		return errors.Join(fmt.Errorf("refusing to serve the callback without TLS on %s: whoever listens takes the codes", listener.Addr()), listener.Close())
	}
	bounds := identity.Connections{Max: mostConnections, MaxPerPeer: mostPerPeer}
	listener = bounds.Listen(listener)
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: completionTimeout + 10*time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: maxQuery + 8<<10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // strangers fill no log
	}
	if s.certificate != nil {
		listener = tls.NewListener(listener, &tls.Config{GetCertificate: s.certificate.Get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		const moment = 5 * time.Second
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listener of the callback: %w", err)
	}
	return nil
}

// ServeHTTP answers GET of the one path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.pages.head(w.Header())
	switch {
	case r.URL.EscapedPath() != s.path:
		http.Error(w, http.StatusText(http.StatusNotFound), http.StatusNotFound)
		return
	case r.Method != http.MethodGet: // also HEAD: who only looks uses no code up
		w.Header().Set("Allow", "GET")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	done := Done{RequestID: rand.Text()}
	if !s.limits.allow(r.RemoteAddr, time.Now()) {
		done.Reason = broker.ReasonTooManyRequests
	} else {
		done = s.complete(r, done)
	}
	s.config.Answered(done.Reason)
	s.pages.send(w, done)
}

// complete has an answer taken and notes what became of it.
func (s *Server) complete(r *http.Request, done Done) Done {
	answer, ok := answerOf(r.URL)
	if !ok {
		done.Reason = broker.ReasonInvalidRequest
		return done
	}
	leave, err := s.enter(answer.State)
	if err != nil {
		done.Reason = broker.ReasonOf(err)
		return done
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), completionTimeout)
	defer cancel()
	granted, err := s.config.Complete(ctx, answer)
	done.Reason = broker.ReasonOf(err)
	if err != nil {
		done.Client = broker.AsError(err).Client
	} else {
		done.Client, done.Subject = granted.ClientID, granted.Subject
	}
	if done.Client == "" {
		return done // a state that was not made here, or is too old: strangers write no log
	}
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
	}
	s.config.Logger.LogAttrs(ctx, level, "authorization answered", slog.String("client", done.Client), slog.String("reason", string(done.Reason)),
		slog.String("request_id", done.RequestID), slog.Any("cause", err))
	if err := s.config.Record(done); err != nil {
		s.config.Logger.ErrorContext(ctx, "an authorization is not in the audit log", "request_id", done.RequestID, "cause", err)
		done.Reason = broker.ReasonAuditUnavailable
	}
	return done
}

// answerOf takes the parameters out of a query in which each is there once at most (RFC
// 6749 §3.1); what else is in it is passed over.
func answerOf(u *url.URL) (broker.AuthorizationAnswer, bool) {
	answer := broker.AuthorizationAnswer{AtCallback: true}
	if len(u.RawQuery) > maxQuery {
		return answer, false
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return answer, false
	}
	for name, into := range map[string]*string{
		"state": &answer.State, "code": &answer.Code, "iss": &answer.Issuer, "error": &answer.Error, "error_description": &answer.ErrorDescription,
	} {
		if len(query[name]) > 1 {
			return answer, false
		}
		*into = query.Get(name)
	}
	return answer, true
}

// enter lets one answer to a state be worked on at a time, and not too many in all.
func (s *Server) enter(state string) (leave func(), err error) {
	select {
	case s.room <- struct{}{}:
	default:
		return nil, &broker.Error{Reason: broker.ReasonTooManyRequests}
	}
	key := sha256.Sum256([]byte(state))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underway[key] {
		<-s.room
		return nil, &broker.Error{Reason: broker.ReasonStateInvalid}
	}
	s.underway[key] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.underway, key)
		<-s.room
	}, nil
}
