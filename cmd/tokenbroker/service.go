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
	"github.com/tokenbroker/tokenbroker/internal/heap"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/callback"
	"github.com/tokenbroker/tokenbroker/server/jwks"
	"github.com/tokenbroker/tokenbroker/server/notify"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
	"github.com/tokenbroker/tokenbroker/vault"
)

// service is a broker with all that it stands on, made from a configuration.
type service struct {
	store    broker.Store
	runStore func(context.Context) error // nil if the store needs no looking after
	vault    *vault.Store                // nil for another store
	upstream *oauth.Client
	broker   *broker.Broker
	server   *server.Server
	metrics  *telemetry.Metrics
	tracing  *telemetry.Tracing // nil if nothing is traced
	admin    adminConfig
	access   *access.Reloader // nil if roles are all there is
	audit    *auditLog        // nil if there is none
	bearer   *bearer.Verifier // nil if callers show no tokens
	notifier *notify.Notifier
	jwks     *jwks.Server // nil if no public keys are served
	log      *slog.Logger
	closers  []func() error // in the order of making

	callback *callback.Server // nil if no callback is hosted
	// shutdownDelay is how long callers and browsers are still served after a stop.
	shutdownDelay time.Duration

	jwksAddress, callbackAddress string
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
	s := &service{log: log, metrics: telemetry.New(version), admin: cfg.Admin, shutdownDelay: cfg.Limits.ShutdownDelay}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.tracing, err = newTracing(cfg.Tracing, log); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.tracing.Close) // last of all, after the last span
	if err := s.openStore(cfg.Store); err != nil {
		return nil, err
	}
	roots, err := addedRoots("upstream.ca_file", cfg.Upstream.CAFile)
	if err != nil {
		return nil, err
	}
	profiles, err := cfg.Providers.load()
	if err != nil {
		return nil, err
	}
	s.upstream = oauth.New(oauth.Config{
		RootCAs: roots, Profiles: profiles, AllowHTTPLoopback: cfg.Upstream.InsecureHTTPLoopback,
		AllowedAddresses: cfg.Upstream.prefixes(func(string, string, ...any) {}), // validated with the configuration
	})
	s.closers = append(s.closers, func() error { s.upstream.Close(); return nil })
	webhooks := cfg.Notify
	webhooks.Logger = log
	if s.notifier, err = notify.New(webhooks); err != nil {
		return nil, err
	}
	s.metrics.ObserveWebhooks(s.notifier.Status)
	rotators, err := s.openRotators(cfg)
	if err != nil {
		return nil, err
	}
	settings := broker.Config{
		Store: s.tracing.Store(s.metrics.Store(s.store)), RequestToken: s.tracing.RequestToken(s.metrics.RequestToken(s.upstream.RequestToken)),
		RevokeToken: s.upstream.RevokeToken, CheckSecret: oauth.CheckSecret, CheckEndpoint: s.upstream.CheckEndpoint,
		AuthorizationServer: s.upstream, SecretExpiry: oauth.SecretExpiry, CheckDPoPProof: checkProof,
		PublicKey: oauth.PublicKey, Providers: profiles, Rotators: rotators, CarryTrace: s.tracing.CarryTrace, Logger: log, Feed: true, Notify: s.notifier.Notify,
		KeepSecret: cfg.Tokens.KeepSecret, Unshared: cfg.Tokens.Unshared, Prewarm: cfg.Tokens.Prewarm,
		Mints: cfg.Tokens.MaxRequests, MintsPerEndpoint: cfg.Tokens.MaxRequestsPerEndpoint,
		CachedClients: cfg.Tokens.CachedClients, CachedTokens: cfg.Tokens.CachedTokens, MaxBlind: cfg.Tokens.MaxBlind,
		PurgeDeletedAfter: cfg.Clients.PurgeDeletedAfter, Prober: s.upstream, WrongTries: cfg.Diagnosis.WrongTriesPerDay,
		CallbackURL: cfg.Authorization.CallbackURL,
	}
	s.addSources(&settings, cfg.Secrets)
	if s.broker, err = broker.New(settings); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.broker.Close(); return nil })
	if err := s.openJWKS(cfg); err != nil {
		return nil, err
	}
	s.metrics.ObserveSecretExpiry(s.broker.SoonestSecretExpiry)
	s.metrics.ObserveCensus(s.broker.Census)
	s.metrics.ObserveRotations(s.broker.RotationsEnded, s.broker.SecretValuesSwept)
	if cfg.Access.File != "" {
		if s.access, err = access.NewReloader(cfg.Access.File, s.tableReloaded); err != nil {
			return nil, err
		}
		s.metrics.ReloadFailing(telemetry.AccessTable, false)
	}
	border := server.Config{
		Broker: s.broker, TLS: cfg.Listen.tls(), Plaintext: cfg.Listen.InsecurePlaintext, UNIX: cfg.Listen.UNIXSocket.Path != "",
		Callers: cfg.Callers, Access: s.access, Limits: cfg.Limits, Version: version, Metrics: s.metrics, Tracing: s.tracing, Logger: log,
	}
	if cfg.JWT != nil {
		issuers := *cfg.JWT
		issuers.Logger = log
		if s.bearer, err = bearer.New(issuers); err != nil {
			return nil, err
		}
		border.Bearer = s.bearer
	}
	if s.audit, err = openAudit(cfg.Audit, log); err != nil {
		return nil, err
	}
	if s.audit != nil {
		s.closers = append(s.closers, s.audit.close)
		s.metrics.ObserveAudit(s.audit.Status)
		border.Audit = s.audit.Log
	}
	if err := s.openCallback(cfg); err != nil {
		return nil, err
	}
	s.server, err = server.New(border)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.server.Close(); return nil })
	s.metrics.ObserveReady(s.server.Ready)
	for _, warning := range cfg.warnings() {
		log.Warn(warning)
	}
	return s, nil
}

// tableReloaded logs what became of a changed access table.
func (s *service) tableReloaded(table *access.Table, err error) {
	s.metrics.ReloadFailing(telemetry.AccessTable, err != nil)
	if err != nil {
		s.log.Error("access table not taken; the last good one stays in force", "cause", err)
		return
	}
	s.log.Info("access table in force", "file", table.File(), "generation", table.Generation())
}

// reloadOnHangup does on SIGHUP what is asked of it then, until ctx ends: it reads the
// access table and the TLS files at once, what is wrong with them being logged, and
// lets go of an audit file that was moved away.
func (s *service) reloadOnHangup(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			_ = s.server.ReloadIdentities()
			if s.access != nil {
				_ = s.access.Reload() // tableReloaded was told
			}
			if s.audit != nil && s.audit.file != nil {
				s.audit.file.Reopen()
			}
		}
	}
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
	settings.Logger, settings.OnLogin = s.log, s.metrics.VaultLogin
	store, err := vault.New(settings)
	if err != nil {
		return fmt.Errorf("set up the Vault store: %w", err)
	}
	s.store, s.vault, s.runStore, s.closers = store, store, store.Run, append(s.closers, store.Close)
	s.metrics.ObserveVaultTokenExpiry(store.TokenExpiry)
	return nil
}

// addSources lets secrets come from where the configuration says.
func (s *service) addSources(settings *broker.Config, sources vault.Sources) {
	if s.vault != nil && len(sources.Wrapping.CreationPaths) > 0 {
		settings.Unwrap = s.vault.Unwrapper(sources.Wrapping)
	}
	if s.vault != nil && len(sources.References) > 0 {
		settings.References = s.vault.References(sources.References)
	}
}

// addedRoots returns the system's authorities and those of file, which key names;
// nil, which means the system's, if there is no file.
func addedRoots(key, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s %s: holds no certificate", key, file)
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

// listenBeside opens the listeners that are not for callers; nil where nothing is served,
// and none of them after an error.
func (s *service) listenBeside() (pages, keys, browsers net.Listener, err error) {
	pages, err = s.listenAdmin()
	if err == nil {
		keys, err = s.listenJWKS()
	}
	if err == nil {
		browsers, err = s.listenCallback()
	}
	if err == nil {
		return pages, keys, browsers, nil
	}
	for _, listener := range []net.Listener{pages, keys} {
		if listener != nil {
			err = errors.Join(err, listener.Close())
		}
	}
	return nil, nil, nil, err
}

// run serves on listeners until ctx ends, then closes everything. The store is
// looked after, and metrics are served, until the last call has been answered.
func (s *service) run(ctx context.Context, listeners ...net.Listener) error {
	pages, keys, browsers, err := s.listenBeside()
	if err != nil {
		for _, listener := range listeners {
			err = errors.Join(err, listener.Close())
		}
		return errors.Join(err, s.close())
	}
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLooking()
	var owned sync.WaitGroup
	var storeErr, auditErr error
	if pages != nil {
		owned.Go(func() { s.serveAdmin(looking, pages) })
	}
	if keys != nil {
		owned.Go(func() { s.serveJWKS(looking, keys) })
	}
	if browsers != nil {
		browsing, stopBrowsing := context.WithCancel(looking)
		defer stopBrowsing()
		defer context.AfterFunc(ctx, func() { // load balancers of browsers learn late too
			time.Sleep(s.shutdownDelay)
			stopBrowsing()
		})()
		owned.Go(func() { s.serveCallback(browsing, browsers) })
	}
	if s.access != nil {
		owned.Go(func() { _ = s.access.Run(looking) }) // ends with looking, in no other way
	}
	if s.bearer != nil {
		owned.Go(func() { _ = s.bearer.Run(looking) }) // ends with looking, in no other way
	}
	if s.audit != nil {
		owned.Go(func() { auditErr = s.audit.Run(looking) })
	}
	owned.Go(func() { s.reloadOnHangup(looking) })
	owned.Go(func() { _ = s.broker.Run(looking) }) // ends with looking, in no other way
	owned.Go(func() { _ = heap.Run(looking) })     // the same
	if s.runStore != nil {
		owned.Go(func() { storeErr = s.runStore(looking) })
	}
	telling, stopTelling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTelling()
	var told sync.WaitGroup
	told.Go(func() { _ = s.notifier.Run(telling) }) // ends with telling, in no other way
	for _, listener := range listeners {
		s.log.Info("serving", "address", listener.Addr().String(), "version", version)
	}
	err = s.server.Serve(ctx, listeners...)
	stopLooking()
	owned.Wait()
	stopTelling() // when nobody is left who could have something to tell
	told.Wait()
	return errors.Join(err, storeErr, auditErr, s.close())
}
