package client_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// subject is a broker that TestConformance asks: the fake, or the real one.
type subject struct {
	dial     func(context.Context, string) (net.Conn, error)
	minted   func() int
	setDelay func(time.Duration) // of new tokens
	down     func()              // for good
}

func fakeSubject(t *testing.T) subject {
	f := newFake(t)
	return subject{
		dial: f.dial, minted: f.mints, down: f.server.Stop,
		setDelay: func(d time.Duration) { f.set(func() { f.delay = d }) },
	}
}

// realSubject is package server on package broker, with a store in memory, where
// clients/acme is registered.
func realSubject(t *testing.T) subject {
	upstream := brokertest.NewUpstream()
	upstream.Register("acme-at-provider", "secret of acme")
	b, err := broker.New(broker.Config{
		Store: brokertest.NewMemory(), RequestToken: upstream.RequestToken,
		CheckSecret:   func(broker.Authentication, secret.Value) error { return nil },
		CheckEndpoint: func(string) error { return nil },
	})
	if err != nil {
		t.Fatalf("make broker: %v", err)
	}
	t.Cleanup(b.Close)
	s, err := server.New(server.Config{
		Broker: b, Plaintext: true, Limits: server.Limits{ShutdownGrace: time.Second},
		Callers: []server.Caller{{Name: "tester", Identity: server.InsecureIdentity, Role: server.RoleOperator}},
	})
	if err != nil {
		t.Fatalf("make server: %v", err)
	}
	listener := bufconn.Listen(64 << 10)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(ctx, listener) }()
	down := func() { cancel(); <-served }
	t.Cleanup(down)
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }
	register(t, dial)
	return subject{
		dial: dial, down: down, minted: upstream.Count,
		setDelay: func(d time.Duration) { upstream.Always(brokertest.Step{Delay: d}) },
	}
}

func register(t *testing.T, dial func(context.Context, string) (net.Conn, error)) {
	conn, err := grpc.NewClient("passthrough:///broker", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer func() { _ = conn.Close() }()
	_, err = pb.NewClientServiceClient(conn).CreateClient(t.Context(), &pb.CreateClientRequest{
		Client: &pb.Client{
			Name: "clients/acme", TokenEndpoint: "https://auth.example.com/token", ClientId: "acme-at-provider",
			AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
			DefaultScopes:        []string{"read"}, AllowedScopes: []string{"read", "write"},
		},
		Secret: &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: "secret of acme"}},
	})
	if err != nil {
		t.Fatalf("register: %v", err)
	}
}
