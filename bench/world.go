package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// The registered clients.
const (
	warmClient = "bench-warm"
	herdClient = "bench-herd"
)

func coldClient(i int) string  { return fmt.Sprintf("bench-cold-%04d", i) }
func stormClient(i int) string { return fmt.Sprintf("bench-storm-%04d", i) }

// each returns the first n items.
func each[T any](n int, item func(int) T) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = item(i)
	}
	return list
}

// upstreamClientID is what the authorization server calls all of them. It is long
// because it stands in the token twice, which makes that about 1 KB, as many are.
var upstreamClientID = "bench-" + strings.Repeat("0123456789", 21)

// world is the broker's server with all that is behind it, and connections to it.
type world struct {
	p     plan
	files files
	// upstream and its listener are in this process, which is idle while GetToken is
	// measured: only cold tokens get that far.
	upstream *authserver.Server
	http     *http.Server
	served   chan error
	// pause is how long the authorization server thinks before it answers, in
	// nanoseconds.
	pause  atomic.Int64
	secret secret.Value

	broker *process
	conns  []*grpc.ClientConn
	// tls is how the caller connects.
	tls *tls.Config
}

func newWorld(ctx context.Context, p plan) (_ *world, err error) {
	w := &world{p: p, served: make(chan error, 1), secret: secret.NewString("bench+secret/with=signs")}
	dir, err := os.MkdirTemp("", "tokenbroker-bench-")
	if err != nil {
		return nil, err
	}
	w.files = files{dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if p.profiles != "" {
		if err := os.MkdirAll(p.profiles, 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.files.writeCertificates(); err != nil {
		return nil, err
	}
	if w.tls, err = w.files.clientTLS("caller"); err != nil {
		return nil, err
	}
	if err := w.startUpstream(); err != nil {
		return nil, err
	}
	if err := w.register(ctx); err != nil {
		return nil, fmt.Errorf("register clients: %w", err)
	}
	cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: w.files.store()}
	if w.broker, err = startProcess(ctx, "broker", cfg, p.progress); err != nil {
		return nil, err
	}
	w.conns, err = w.connect(w.broker.address)
	return w, err
}

// startUpstream starts the authorization server. It is served from here and not by
// its own Start so that it can be made to pause.
func (w *world) startUpstream() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.upstream, err = authserver.New(authserver.Config{
		Issuer: "http://" + listener.Addr().String(), TokenLifetime: ordinaryLifetime,
		Clients: []authserver.Client{{ID: upstreamClientID, Secrets: []secret.Value{w.secret}, Scopes: []string{"contacts.read"}}},
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	w.http = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(w.pause.Load()))
		w.upstream.ServeHTTP(rw, r)
	})}
	go func() { w.served <- w.http.Serve(listener) }()
	return nil
}

// register puts the clients into the store before the server opens it, so that
// the server has none of them in memory.
func (w *world) register(ctx context.Context) (err error) {
	store, err := embedded.Open(embedded.Config{File: w.files.store(), Create: true})
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, store.Close) }()
	upstream, b, err := newBroker(store, telemetry.New("bench"), childConfig{})
	if err != nil {
		return err
	}
	defer upstream.Close()
	defer b.Close()
	if err := b.Ready(ctx); err != nil {
		return err
	}
	names := append([]string{warmClient, herdClient}, each(w.p.coldTokens, coldClient)...)
	names = append(names, each(w.p.stormClients, stormClient)...)
	return w.create(ctx, b, names)
}

// create registers clients of those names.
func (w *world) create(ctx context.Context, b *broker.Broker, names []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64) // writes that arrive together are committed together
	for _, name := range names {
		group.Go(func() error {
			_, err := b.CreateClient(ctx, w.newClient(name))
			return err
		})
	}
	return group.Wait()
}

func (w *world) newClient(name string) broker.NewClient {
	return broker.NewClient{
		ID: name, Upstream: broker.Upstream{
			TokenEndpoint: w.upstream.TokenEndpoint(), ClientID: upstreamClientID,
			Authentication: broker.Authentication{Method: broker.ClientSecretBasic}, DefaultScopes: []string{"contacts.read"},
		},
		Secret: broker.SecretInput{Value: w.secret},
	}
}

// connect makes connections, which are the caller's to close also when there is an
// error. Each is dialled with its first call.
func (w *world) connect(address string) ([]*grpc.ClientConn, error) {
	return w.connectAs("caller", address, w.p.connections)
}

// connectAs is connect with the certificate of that name, n times.
func (w *world) connectAs(name, address string, n int) ([]*grpc.ClientConn, error) {
	creds, err := w.files.credentials(name)
	if err != nil {
		return nil, err
	}
	var conns []*grpc.ClientConn
	for range n {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
		if err != nil {
			return conns, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// close ends and removes everything.
func (w *world) close() error {
	var errs []error
	for _, conn := range w.conns {
		errs = append(errs, conn.Close())
	}
	if w.broker != nil {
		errs = append(errs, w.broker.stop())
	}
	if w.http != nil {
		errs = append(errs, w.http.Close())
		if err := <-w.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.files.dir))...)
}

// joinClose joins err with what closing returns.
func joinClose(err error, closers ...func() error) error {
	for _, closer := range closers {
		err = errors.Join(err, closer())
	}
	return err
}

// files is the folder of one run.
type files struct{ dir string }

func (f files) path(name string) string { return filepath.Join(f.dir, name) }
func (f files) store() string           { return f.path("store.db") }
