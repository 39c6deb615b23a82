package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// network is how much a turn takes that a check makes, beside what loopback takes.
const network = 20 * time.Millisecond

func sweptClient(i int) string { return fmt.Sprintf("bench-swept-%05d", i) }

// measureCheck compares how long a check down to the token takes with the round trips
// that it makes: resolving and connecting, the handshake, a request without and one with
// credentials.
func measureCheck(ctx context.Context, w *world, p plan, measured figures) (err error) {
	server, roots, err := w.serveTLS()
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, server.close) }()
	trips, err := newRoundTrips(server.address, network)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, trips.close) }()
	store, err := embedded.Open(embedded.Config{File: w.files.path("checks.db"), Create: true})
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, store.Close) }()
	upstream := oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: roots, Proxy: noProxy})
	defer upstream.Close()
	b, err := broker.New(broker.Config{
		Store: store, RequestToken: upstream.RequestToken, CheckSecret: oauth.CheckSecret, CheckEndpoint: upstream.CheckEndpoint, Prober: upstream,
	})
	if err != nil {
		return err
	}
	defer b.Close()
	client := w.newClient("bench-checked")
	client.Upstream.TokenEndpoint = "https://" + trips.listener.Addr().String() + "/token"
	if _, err := b.CreateClient(ctx, client); err != nil {
		return err
	}
	var beyond []float64
	for range p.rounds {
		_, _ = trips.take()
		began := time.Now()
		report, err := b.CheckLookup(ctx, broker.LookupCheck{ClientID: "bench-checked", Depth: broker.DepthToken, Permitted: broker.DepthToken, Fresh: true})
		took := time.Since(began)
		if err != nil {
			return err
		}
		if cause, failed := report.RootCause(); failed {
			return fmt.Errorf("the check of a healthy client names %s", cause.Reason)
		}
		waited, turns := trips.take()
		p.printf("check: %v, of which %d round trips %v", took.Round(time.Microsecond), turns, waited.Round(time.Microsecond))
		beyond = append(beyond, float64(took-waited)/float64(time.Millisecond))
	}
	measured["check_token_ms_beyond_round_trips"] = median(beyond)
	return nil
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// tlsServer is the authorization server over TLS.
type tlsServer struct {
	http    *http.Server
	address string
	served  chan error
}

// serveTLS serves the authorization server over TLS too.
func (w *world) serveTLS() (*tlsServer, *x509.CertPool, error) {
	authority, err := devpki.New("bench")
	if err != nil {
		return nil, nil, err
	}
	certificate, key, err := authority.Server("127.0.0.1")
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	s := &tlsServer{address: listener.Addr().String(), served: make(chan error, 1), http: &http.Server{
		Handler: w.upstream, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true},
		// HTTP/2 acknowledges, as session tickets come, while nobody waits.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}}
	go func() { s.served <- s.http.ServeTLS(listener, "", "") }()
	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate())
	return s, roots, nil
}

func (s *tlsServer) close() error {
	err := s.http.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// measureSweep times a sweep over the clients of an embedded store, down to the secret.
func measureSweep(ctx context.Context, w *world, p plan, measured figures) (err error) {
	file := w.files.path("swept.db")
	if err := w.fill(ctx, file, p.swept, sweptClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	store, err := embedded.Open(embedded.Config{File: file})
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, store.Close) }()
	measured["sweep_10k_s"], err = sweepSeconds(ctx, store, p)
	return err
}

// measureSweepInVault is measureSweep on a real Vault.
func measureSweepInVault(ctx context.Context, w *world, p plan, measured figures) (err error) {
	store, _, closeVault, err := w.openVault(p)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, closeVault) }()
	if err := w.fillStore(ctx, store, p.swept, sweptClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	measured["sweep_10k_vault_s"], err = sweepSeconds(ctx, store, p)
	return err
}

// sweepSeconds has brokers that know no client yet sweep the store, and returns the
// median of how long it took.
func sweepSeconds(ctx context.Context, store broker.Store, p plan) (float64, error) {
	var took []float64
	for range p.sweeps {
		upstream, b, err := newBroker(store, telemetry.New("bench"), childConfig{Alone: true})
		if err != nil {
			return 0, err
		}
		began := time.Now()
		end, err := b.SweepLookups(ctx, broker.SweepQuery{Depth: broker.DepthSecret},
			func(broker.LookupReport) error { return nil }, func(broker.SweepProgress) error { return nil })
		seconds := time.Since(began).Seconds()
		b.Close()
		upstream.Close()
		switch {
		case err != nil:
			return 0, err
		case end.Checked != int64(p.swept) || end.Healthy != end.Checked:
			return 0, fmt.Errorf("%d clients were checked and %d are well, of %d", end.Checked, end.Healthy, p.swept)
		}
		p.printf("sweep: %d clients in %.2f s", end.Checked, seconds)
		took = append(took, seconds)
	}
	return median(took), nil
}
