package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/heap"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// features are what the cost figures are about. Access cannot be turned off: without
// it there is one role instead of a table of many rows.
var features = []string{"audit", "access", "metrics"}

// serveBroker is the measured server: the real one, with nothing left out but a
// log that is written somewhere, and cfg.Without.
func serveBroker(ctx context.Context, cfg childConfig, listener net.Listener, calls *storeCalls) (err error) {
	store, closeStore, err := cfg.openStore()
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, closeStore) }()
	metrics := telemetry.New("bench")
	upstream, b, err := newBroker(counted{store, calls}, metrics, cfg)
	if err != nil {
		return err
	}
	defer upstream.Close()
	defer b.Close()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- b.Run(running) }()
	pace := make(chan error, 1)
	go func() { pace <- heap.Run(running) }() // as cmd/tokenbroker does
	defer func() { stop(); <-pace }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	settings := server.Config{Broker: b, TLS: &cfg.TLS, Limits: server.Limits{MaxConcurrentRequestsPerCaller: 8192, MaxWatchesPerCaller: 16384}}
	if cfg.Without != "metrics" {
		settings.Metrics = metrics
	}
	if cfg.Without == "access" {
		settings.Callers = []server.Caller{{Name: "bench", Identity: cfg.Caller, Role: server.RoleCaller}}
	} else if settings.Access, err = manyRows(cfg); err != nil {
		return err
	}
	if cfg.Without != "audit" {
		var end func() error
		if settings.Audit, end, err = auditFile(cfg); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	s, err := server.New(settings)
	if err != nil {
		return err
	}
	return s.Serve(ctx, listener)
}

// manyRows returns an access table as a large company may have: hundreds of callers
// with rows of their own, by id, prefix and label, and limits on them.
func manyRows(cfg childConfig) (*access.Reloader, error) {
	var callers, rules strings.Builder
	for i := range 500 {
		fmt.Fprintf(&callers, "  - {name: caller-%d, identities: [\"spiffe://tokenbroker.bench/%d\"]}\n", i, i)
		fmt.Fprintf(&rules, "  - {callers: [caller-%d], permissions: [token.get], clients: [\"prefix:team%d-\", \"label:team=t%d\"], limits: {requests_per_second: 100}}\n", i, i, i)
	}
	text := "callers:\n" + callers.String() + "  - {name: bench, identities: [\"" + cfg.Caller + "\"]}\n  - {name: noisy, identities: [\"" + noisyIdentity + "\"]}\nrules:\n" + rules.String() +
		"  - {callers: [bench], permissions: [token.get, token.watch, client.read], clients: [\"prefix:bench-\"], scopes: {default: [contacts.read]}, limits: {requests_per_second: 1000000, burst: 1000000, concurrent: 20000}}\n" +
		fmt.Sprintf("  - {callers: [noisy], permissions: [token.get], clients: [\"prefix:bench-\"], limits: {requests_per_second: %d}}\n...\n", noisyAllowed)
	path := cfg.StoreFile + ".access.yaml"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return access.NewReloader(path, nil)
}

// auditFile returns an audit log in a file, and what ends it.
func auditFile(cfg childConfig) (_ *audit.Log, end func() error, err error) {
	if err := audit.CreateKey(cfg.StoreFile + ".audit.key"); err != nil {
		return nil, nil, err
	}
	key, err := audit.LoadKey(cfg.StoreFile + ".audit.key")
	if err != nil {
		return nil, nil, err
	}
	file, err := audit.OpenFile(cfg.StoreFile+".audit.log", 256<<20)
	if err != nil {
		return nil, nil, err
	}
	log, err := audit.New(audit.Config{Key: key, Sinks: []audit.Sink{file}})
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	return log, func() error { cancel(); return <-ended }, nil
}

// newBroker returns a broker that asks authorization servers on loopback. The
// caller closes the broker, then the client.
func newBroker(store broker.Store, metrics *telemetry.Metrics, cfg childConfig) (*oauth.Client, *broker.Broker, error) {
	upstream := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	requestToken := upstream.RequestToken
	if cfg.LocalTokens {
		requestToken = localToken
	}
	b, err := broker.New(broker.Config{
		Store: metrics.Store(store), RequestToken: metrics.RequestToken(requestToken),
		CheckSecret: oauth.CheckSecret, CheckEndpoint: upstream.CheckEndpoint, Feed: !cfg.Alone,
		CachedClients: cfg.Cached, CachedTokens: cfg.Cached, Unshared: cfg.LocalTokens,
	})
	return upstream, b, err
}

// The names are as long as those of GetToken, so that the headers are equal too.
const (
	echoService = "tokenbroker.v1.PlainService"
	echoMethod  = "/" + echoService + "/EchoBack"
)

// serveEcho is what the broker is compared with: grpc-go as it comes, and a
// handler that does nothing. Its messages have the encoded sizes of GetToken's but
// a single field, so that the parts of a real message count on the broker's side.
func serveEcho(ctx context.Context, cfg childConfig, listener net.Listener) error {
	creds, err := echoCredentials(cfg.TLS)
	if err != nil {
		return err
	}
	content, err := contentOf(cfg.EchoBytes)
	if err != nil {
		return err
	}
	answers := map[string][]byte{}
	for i := range cfg.EchoKeys {
		answers[keyName(i)] = slices.Clone(content)
	}
	handle := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request wrapperspb.BytesValue
		if err := decode(&request); err != nil {
			return nil, err
		}
		if cfg.EchoKeys == 0 {
			return &wrapperspb.BytesValue{Value: content}, nil
		}
		own, ok := answers[string(request.GetValue())]
		if !ok {
			return nil, status.Error(codes.NotFound, "nobody's answer")
		}
		return &wrapperspb.BytesValue{Value: own}, nil
	}
	s := grpc.NewServer(grpc.Creds(creds))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "EchoBack", Handler: handle}},
	}, struct{}{})
	stop := context.AfterFunc(ctx, s.GracefulStop)
	defer stop()
	if err := s.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// echoCredentials are TLS settings equal to those of package server.
func echoCredentials(files server.TLSFiles) (credentials.TransportCredentials, error) {
	certificate, err := tls.LoadX509KeyPair(files.CertificateFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	authorities, err := os.ReadFile(files.ClientCAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s holds no certificate", files.ClientCAFile)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, ClientCAs: pool,
		ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	}), nil
}

// contentOf returns the content of a BytesValue that is size bytes when encoded.
func contentOf(size int) ([]byte, error) {
	const mostFraming = 12 // a tag and the longest varint
	for n := max(0, size-mostFraming); n < size; n++ {
		if protowire.SizeTag(1)+protowire.SizeBytes(n) == size {
			return make([]byte, n), nil
		}
	}
	return nil, fmt.Errorf("no bytes field is %d bytes when encoded", size)
}
