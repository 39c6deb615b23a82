package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
	"github.com/tokenbroker/tokenbroker/vault"
)

// keepSecret is how long a secret that was read stays in memory to get tokens with
// while the store is away.
const keepSecret = time.Hour

// service is a broker with all that it stands on, made from a configuration.
type service struct {
	store    broker.Store
	runStore func(context.Context) error // nil if the store needs no looking after
	upstream *oauth.Client
	broker   *broker.Broker
	server   *server.Server
	metrics  *telemetry.Metrics
	admin    string           // address; "" for none
	access   *access.Reloader // nil if roles are all there is
	log      *slog.Logger
	closers  []func() error // in the order of making
}

func newLogger(cfg logConfig, w io.Writer) *slog.Logger {
	level, _ := cfg.level() // validated with the configuration
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// newService makes a service; on an error nothing is left open.
func newService(cfg *config, log *slog.Logger) (_ *service, err error) {
	s := &service{log: log, metrics: telemetry.New(version), admin: cfg.Admin.Address}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.openStore(cfg.Store); err != nil {
		return nil, err
	}
	roots, err := upstreamRoots(cfg.Upstream.CAFile)
	if err != nil {
		return nil, err
	}
	s.upstream = oauth.New(oauth.Config{
		RootCAs: roots, AllowHTTPLoopback: cfg.Upstream.InsecureHTTPLoopback,
		AllowedAddresses: cfg.Upstream.prefixes(func(string, string, ...any) {}), // validated with the configuration
	})
	s.closers = append(s.closers, func() error { s.upstream.Close(); return nil })
	s.broker, err = broker.New(broker.Config{
		Store: s.metrics.Store(s.store), RequestToken: s.metrics.RequestToken(s.upstream.RequestToken), RevokeToken: s.upstream.RevokeToken,
		CheckSecret:   oauth.CheckSecret,
		CheckEndpoint: s.upstream.CheckEndpoint, Logger: log, KeepSecret: keepSecret, Feed: true,
	})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.broker.Close(); return nil })
	s.metrics.ObserveSecretExpiry(s.broker.SoonestSecretExpiry)
	if cfg.Access.File != "" {
		if s.access, err = access.NewReloader(cfg.Access.File, s.tableReloaded); err != nil {
			return nil, err
		}
	}
	s.server, err = server.New(server.Config{
		Broker: s.broker, TLS: cfg.Listen.tlsFiles(), Plaintext: cfg.Listen.InsecurePlaintext,
		Callers: cfg.Callers, Access: s.access, Limits: cfg.Limits, Metrics: s.metrics, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.server.Close(); return nil })
	return s, nil
}

// tableReloaded logs what became of a changed access table.
func (s *service) tableReloaded(table *access.Table, err error) {
	if err != nil {
		s.log.Error("access table not taken; the last good one stays in force", "cause", err)
		return
	}
	s.log.Info("access table in force", "file", table.File(), "generation", table.Generation())
}

// reloadOnHangup reads the access table at once on SIGHUP, until ctx ends.
func (s *service) reloadOnHangup(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			_ = s.access.Reload() // tableReloaded was told
		}
	}
}

func (l listenConfig) tlsFiles() *server.TLSFiles {
	if l.InsecurePlaintext {
		return nil
	}
	return &server.TLSFiles{CertificateFile: l.CertificateFile, KeyFile: l.KeyFile, ClientCAFile: l.ClientCAFile}
}

func (s *service) openStore(cfg storeConfig) error {
	if cfg.Embedded != nil {
		store, err := embedded.Open(embedded.Config{File: cfg.Embedded.File, KeyFile: cfg.Embedded.KeyFile, Create: true})
		if err != nil {
			return fmt.Errorf("open the embedded store: %w", err)
		}
		s.store, s.closers = store, append(s.closers, store.Close)
		return nil
	}
	settings := *cfg.Vault
	settings.Logger = s.log
	store, err := vault.New(settings)
	if err != nil {
		return fmt.Errorf("set up the Vault store: %w", err)
	}
	s.store, s.runStore, s.closers = store, store.Run, append(s.closers, store.Close)
	return nil
}

// upstreamRoots returns the system's authorities and those of file; nil, which
// means the system's, if there is no file.
func upstreamRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("upstream.ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("upstream.ca_file %s: holds no certificate", file)
	}
	return roots, nil
}

// close closes what was opened, last first.
func (s *service) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// run serves on listener until ctx ends, then closes everything. The store is
// looked after, and metrics are served, until the last call has been answered.
func (s *service) run(ctx context.Context, listener net.Listener) error {
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLooking()
	var owned sync.WaitGroup
	var storeErr, adminErr error
	if s.admin != "" {
		pages, err := net.Listen("tcp", s.admin)
		if err != nil {
			return errors.Join(fmt.Errorf("admin listener: %w", err), listener.Close(), s.close())
		}
		admin := &telemetry.Admin{Metrics: s.metrics, Ready: s.server.Ready}
		owned.Go(func() { adminErr = admin.Serve(looking, pages) })
		s.log.Info("serving metrics", "address", pages.Addr().String())
	}
	if s.access != nil {
		owned.Go(func() { _ = s.access.Run(looking) }) // ends with looking, in no other way
		owned.Go(func() { s.reloadOnHangup(looking) })
	}
	owned.Go(func() { _ = s.broker.Run(looking) }) // ends with looking, in no other way
	if s.runStore != nil {
		owned.Go(func() { storeErr = s.runStore(looking) })
	}
	s.log.Info("serving", "address", listener.Addr().String(), "version", version)
	err := s.server.Serve(ctx, listener)
	stopLooking()
	owned.Wait()
	return errors.Join(err, storeErr, adminErr, s.close())
}
