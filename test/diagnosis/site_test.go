package diagnosis_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// patience is how long an authorization server may take; short, because some here never
// answer, and long enough for two busy cores.
const patience = 12 * time.Second

// wrongTries is how many a day each client has, here.
const wrongTries = 3

// site is a broker on a store, and its border, with everything real but the wire between
// caller and border, which is memory.
type site struct {
	store  broker.Store
	broker *broker.Broker

	clients     pb.ClientServiceClient
	tokens      pb.TokenServiceClient
	rotations   pb.RotationServiceClient
	diagnostics pb.DiagnosticsServiceClient

	authorizations pb.AuthorizationServiceClient
}

// settings say how a site differs from the usual one.
type settings struct {
	// table is the access table; "" lets the tester do everything.
	table string
	// upstream changes what the broker may connect to.
	upstream func(*oauth.Config)
	// broker changes the rest.
	broker func(*broker.Config)
}

// operatorTable lets the tester do everything, and knows a caller who may do little.
const operatorTable = `
callers:
  - name: tester
    identities: [insecure-loopback]
  - name: reports
    identities: ["dns:reports.example.org"]
rules:
  - callers: [tester]
    permissions: ["role:operator"]
    subjects: ["*"]
    clients: ["*"]
  - callers: [reports]
    permissions: [token.get]
    clients: ["prefix:reports-"]
    scopes: {allowed: [read]}
...
`

// strangerTable lets the tester check, and look no deeper than the secret.
const strangerTable = `
callers:
  - name: tester
    identities: [insecure-loopback]
rules:
  - callers: [tester]
    permissions: [lookup.check]
    clients: ["*"]
...
`

// newSite serves a broker over store until the test ends.
func newSite(t *testing.T, store broker.Store, s settings) *site {
	t.Helper()
	profiles, err := profile.Load("testdata/providers")
	if err != nil {
		t.Fatal(err)
	}
	upstream := oauth.Config{RootCAs: roots(), AllowHTTPLoopback: true, Timeout: patience, Profiles: profiles}
	if s.upstream != nil {
		s.upstream(&upstream)
	}
	client := oauth.New(upstream)
	t.Cleanup(client.Close)
	cfg := broker.Config{
		Store: store, RequestToken: client.RequestToken, RevokeToken: client.RevokeToken, Prober: client, WrongTries: wrongTries,
		CheckSecret: oauth.CheckSecret, CheckEndpoint: client.CheckEndpoint, PublicKey: oauth.PublicKey,
		Providers: profiles, AuthorizationServer: client,
	}
	if s.broker != nil {
		s.broker(&cfg)
	}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	conn := newBorder(t, b, s.table)
	return &site{
		store: store, broker: b, clients: pb.NewClientServiceClient(conn), tokens: pb.NewTokenServiceClient(conn),
		rotations: pb.NewRotationServiceClient(conn), diagnostics: pb.NewDiagnosticsServiceClient(conn),
		authorizations: pb.NewAuthorizationServiceClient(conn),
	}
}

// newBorder serves b to callers of an access table, and connects.
func newBorder(t *testing.T, b *broker.Broker, table string) *grpc.ClientConn {
	t.Helper()
	if table == "" {
		table = operatorTable
	}
	file := filepath.Join(t.TempDir(), "access.yaml")
	if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	reloader, err := access.NewReloader(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	border, err := server.New(server.Config{Broker: b, Plaintext: true, Access: reloader, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- border.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///border", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// embeddedStore opens a store in a new file.
func embeddedStore(t *testing.T) broker.Store {
	t.Helper()
	store, err := embedded.Open(embedded.Config{File: filepath.Join(t.TempDir(), "store.db"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// record returns what lies at a key, as somebody sees it who looks by hand.
func (s *site) record(t *testing.T, key string) (map[string]any, uint64) {
	t.Helper()
	found, err := s.store.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(found.Data.Reveal(), &fields); err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return fields, found.Version
}

// put writes a record by hand.
func (s *site) put(t *testing.T, key string, fields map[string]any, version uint64) {
	t.Helper()
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Write(t.Context(), key, secret.New(data), version); err != nil {
		t.Fatalf("write %s: %v", key, err)
	}
}

// edit changes a record by hand.
func (s *site) edit(t *testing.T, key string, change func(map[string]any)) {
	t.Helper()
	fields, version := s.record(t, key)
	change(fields)
	s.put(t, key, fields, version)
}

// at returns the object at a path of fields.
func at(fields map[string]any, path ...string) map[string]any {
	for _, name := range path {
		fields, _ = fields[name].(map[string]any)
	}
	return fields
}
