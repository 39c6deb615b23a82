package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/callback"
)

// authorizationConfig says where browsers come back to after a user's consent.
type authorizationConfig struct {
	// CallbackURL is what authorization servers send browsers to: the public URL, whose
	// path is served; no callback is hosted if it is "".
	CallbackURL string `yaml:"callback_url"`
	// CallbackListen is host:port.
	CallbackListen string `yaml:"callback_listen"`
	// CertificateFile and KeyFile are PEM; those of listen by default. They are read
	// again when they change.
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"`
	// InsecurePlaintext serves without TLS, on a loopback address only, and lets the URL be
	// http there.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
}

// files returns the certificate and key to serve with; "" without TLS.
func (c authorizationConfig) files(listen listenConfig) (certificate, key string) {
	switch {
	case c.InsecurePlaintext:
		return "", ""
	case c.CertificateFile != "":
		return c.CertificateFile, c.KeyFile
	case listen.tls() != nil:
		return listen.CertificateFile, listen.KeyFile
	}
	return "", ""
}

func (c authorizationConfig) validate(add func(key, format string, args ...any), listen listenConfig) {
	if c.CallbackURL == "" {
		if c != (authorizationConfig{}) {
			add("authorization.callback_url", "is empty: no callback is hosted, and what else stands below authorization has no effect")
		}
		return
	}
	c.validateURL(add)
	host, _, err := net.SplitHostPort(c.CallbackListen)
	if err != nil {
		add("authorization.callback_listen", "is %q; it must be host:port", c.CallbackListen)
	}
	certificate, _ := c.files(listen)
	switch {
	case (c.CertificateFile == "") != (c.KeyFile == ""):
		add("authorization.certificate_file", "goes together with authorization.key_file")
	case c.InsecurePlaintext && c.CertificateFile != "":
		add("authorization.insecure_plaintext", "cannot be combined with certificate files; remove one or the other")
	case c.InsecurePlaintext:
		if err == nil && !loopback(host) {
			add("authorization.insecure_plaintext", "plaintext is served on loopback only, and %s is not: whoever listens takes the codes", c.CallbackListen)
		}
	case certificate == "":
		add("authorization.certificate_file", "is required, because listen has none")
	}
	mustRead(add, "authorization.certificate_file", c.CertificateFile)
	mustRead(add, "authorization.key_file", c.KeyFile)
}

func (c authorizationConfig) validateURL(add func(key, format string, args ...any)) {
	u, err := url.Parse(c.CallbackURL)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		add("authorization.callback_url", "is no absolute URL without user, query and fragment")
	case u.EscapedPath() == "" || u.EscapedPath() == "/":
		add("authorization.callback_url", "has no path, such as /authorization/callback")
	case u.Scheme == "https":
	case u.Scheme == "http" && c.InsecurePlaintext && loopback(u.Hostname()):
	default:
		add("authorization.callback_url", "must be https; http is for this machine only, with authorization.insecure_plaintext")
	}
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// openCallback makes what hosts the callback; nothing if none is hosted.
func (s *service) openCallback(cfg *config) (err error) {
	if cfg.Authorization.CallbackURL == "" {
		return nil
	}
	certificate, key := cfg.Authorization.files(cfg.Listen)
	s.callbackAddress = cfg.Authorization.CallbackListen
	s.callback, err = callback.New(callback.Config{
		Complete: s.broker.CompleteAuthorization, URL: cfg.Authorization.CallbackURL, CertificateFile: certificate, KeyFile: key,
		Record: s.recordCallback, Answered: s.metrics.CallbackAnswered, Logger: s.log,
	})
	return err
}

// callbackMethod is what audit entries call the callback, which is no RPC.
const callbackMethod = "callback"

// recordCallback writes what became of a consent into the audit log.
func (s *service) recordCallback(done callback.Done) error {
	if s.audit == nil {
		return nil
	}
	outcome := audit.Allowed
	if done.Reason != "" {
		outcome = audit.Failed
	}
	return s.audit.Log.Append(&audit.Entry{
		Time: time.Now(), RequestID: done.RequestID, Method: callbackMethod, Client: "clients/" + done.Client, Subject: done.Subject,
		Outcome: outcome, Reason: string(done.Reason),
	})
}

// listenCallback returns nil where no callback is hosted.
func (s *service) listenCallback() (net.Listener, error) {
	if s.callback == nil {
		return nil, nil
	}
	listener, err := net.Listen("tcp", s.callbackAddress)
	if err != nil {
		return nil, fmt.Errorf("authorization.callback_listen: %w", err)
	}
	s.log.Info("serving the callback of authorizations", "address", listener.Addr().String())
	return listener, nil
}

// serveCallback serves until ctx ends. A failure is logged at once and ends nothing else:
// users are kept from consent, not callers from tokens.
func (s *service) serveCallback(ctx context.Context, listener net.Listener) {
	if err := s.callback.Serve(ctx, listener); err != nil {
		s.log.Error("the listener of the callback failed; users cannot come back from consent", "cause", err)
	}
}
