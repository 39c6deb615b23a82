package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/tokenbroker/tokenbroker/server/jwks"
)

// jwksConfig says where authorization servers get the public keys of clients.
type jwksConfig struct {
	// Address is host:port; nothing is served if it is "".
	Address string `yaml:"address"`
	// CertificateFile and KeyFile are PEM; those of listen by default. They are read
	// again when they change.
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"`
	// InsecurePlaintext serves without TLS, on a loopback address only.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// MaxAge is how long authorization servers may keep what they fetched; 5 min by
	// default.
	MaxAge time.Duration `yaml:"max_age"`
}

const (
	defaultJWKSMaxAge = 5 * time.Minute
	// leastJWKSMaxAge is what some authorization servers take at least, whatever they
	// are told; with less, a rotation would not wait for them.
	leastJWKSMaxAge = time.Minute
	mostJWKSMaxAge  = 24 * time.Hour
)

func (c jwksConfig) maxAge() time.Duration {
	if c.MaxAge == 0 {
		return defaultJWKSMaxAge
	}
	return c.MaxAge
}

// files returns the certificate and key to serve with; "" without TLS.
func (c jwksConfig) files(listen listenConfig) (certificate, key string) {
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

func (c jwksConfig) validate(add func(key, format string, args ...any), listen listenConfig) {
	if c.Address == "" {
		if c != (jwksConfig{}) {
			add("jwks.address", "is empty: no public keys are served, and what else stands below jwks has no effect")
		}
		return
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		add("jwks.address", "is %q; it must be host:port", c.Address)
	}
	if c.MaxAge != 0 && (c.MaxAge < leastJWKSMaxAge || c.MaxAge > mostJWKSMaxAge) {
		add("jwks.max_age", "is %v; it must lie between %v and %v", c.MaxAge, leastJWKSMaxAge, mostJWKSMaxAge)
	}
	certificate, _ := c.files(listen)
	switch {
	case (c.CertificateFile == "") != (c.KeyFile == ""):
		add("jwks.certificate_file", "goes together with jwks.key_file")
	case c.InsecurePlaintext && c.CertificateFile != "":
		add("jwks.insecure_plaintext", "cannot be combined with certificate files; remove one or the other")
	case c.InsecurePlaintext:
		if ip := net.ParseIP(host); err == nil && host != "localhost" && !ip.IsLoopback() {
			add("jwks.insecure_plaintext", "plaintext is served on loopback only, and %s is not: whoever changes keys on the way takes the clients", c.Address)
		}
	case certificate == "":
		add("jwks.certificate_file", "is required, because listen has none")
	}
	mustRead(add, "jwks.certificate_file", c.CertificateFile)
	mustRead(add, "jwks.key_file", c.KeyFile)
}

// openJWKS makes what serves public keys; nothing if they are not served.
func (s *service) openJWKS(cfg *config) (err error) {
	if cfg.JWKS.Address == "" {
		return nil
	}
	certificate, key := cfg.JWKS.files(cfg.Listen)
	s.jwksAddress = cfg.JWKS.Address
	s.jwks, err = jwks.New(jwks.Config{
		Keys: s.broker.PublicKeys, MaxAge: cfg.JWKS.maxAge(), CertificateFile: certificate, KeyFile: key,
		Answered: s.metrics.JWKSAnswered, Logger: s.log,
	})
	return err
}

// listenJWKS returns nil where no public keys are served.
func (s *service) listenJWKS() (net.Listener, error) {
	if s.jwks == nil {
		return nil, nil
	}
	listener, err := net.Listen("tcp", s.jwksAddress)
	if err != nil {
		return nil, fmt.Errorf("jwks.address: %w", err)
	}
	s.log.Info("serving public keys", "address", listener.Addr().String())
	return listener, nil
}

// serveJWKS serves until ctx ends. A failure is logged at once and ends nothing else:
// authorization servers keep the keys that they have.
func (s *service) serveJWKS(ctx context.Context, listener net.Listener) {
	if err := s.jwks.Serve(ctx, listener); err != nil {
		s.log.Error("the listener of public keys failed; they are no longer served", "cause", err)
	}
}
