package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// setup says how a world differs from the usual one: plaintext in memory, whose
// only peer is an operator.
type setup struct {
	// role of whoever connects over plaintext; "" is operator.
	role server.Role
	// tls and callers make a TLS listener.
	tls     *server.TLSFiles
	callers []server.Caller
	limits  server.Limits
	// access is the table to take instead of a role.
	access *access.Reloader
	// unaudited has no audit log.
	unaudited bool
	// bearer verifies the tokens of callers.
	bearer *bearer.Verifier
	// maxBlind, if not 0, makes the broker follow the feed and bounds its blindness.
	maxBlind time.Duration
	// socket listens on loopback instead of in memory.
	socket bool
	// prepare changes the world before the server starts.
	prepare func(*world)
	// store and request stand between the broker and its fakes.
	store   func(broker.Store) broker.Store
	request func(broker.RequestToken) broker.RequestToken
}

// world is a server with all that is behind it.
type world struct {
	*peer    // of the plaintext listener; nil with TLS
	memory   *brokertest.Memory
	store    *brokertest.Faulty
	upstream *brokertest.Upstream
	users    *brokertest.Users
	broker   *broker.Broker
	// wrapping and references are where secrets come from besides requests.
	wrapping   *brokertest.Wrapping
	references *brokertest.References
	server     *server.Server
	logs       *logs
	audit      *auditSink

	listener net.Listener
	// stop ends Serve and returns what it returned; it may be called twice.
	stop func() error
}

// peer is one connection and the services behind it.
type peer struct {
	conn        *grpc.ClientConn
	tokens      pb.TokenServiceClient
	clients     pb.ClientServiceClient
	rotations   pb.RotationServiceClient
	diagnostics pb.DiagnosticsServiceClient
	consents    pb.AuthorizationServiceClient
	health      healthpb.HealthClient
	// seen is given the messages of streams that invoke does not return; nil for nobody.
	seen func(proto.Message)
}

func (p *peer) see(m proto.Message) {
	if p.seen != nil {
		p.seen(m)
	}
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{memory: brokertest.NewMemory(), upstream: brokertest.NewUpstream(), logs: &logs{}, audit: &auditSink{}}
	w.wrapping, w.references = brokertest.NewWrapping(), brokertest.NewReferences()
	w.store, w.users = brokertest.NewFaulty(w.memory), brokertest.NewUsers(w.upstream, usersIssuer)
	if s.prepare != nil {
		s.prepare(w)
	}
	w.start(t, s)
	return w
}

// start serves on a new broker over w's fakes.
func (w *world) start(t *testing.T, s setup) {
	t.Helper()
	var store broker.Store = w.store
	if s.store != nil {
		store = s.store(store)
	}
	request := broker.RequestToken(w.users.RequestToken)
	if s.request != nil {
		request = s.request(request)
	}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b, err := broker.New(broker.Config{
		Store: store, RequestToken: request, CheckSecret: checkSecret, CheckEndpoint: checkEndpoint, Logger: log,
		Unwrap: w.wrapping.Unwrap, References: w.references, Providers: profiles{}, AuthorizationServer: usersAndIssuers{w.users}, CallbackURL: usersCallback,
		Feed: s.maxBlind > 0, MaxBlind: s.maxBlind,
	})
	if err != nil {
		t.Fatalf("make broker: %v", err)
	}
	t.Cleanup(b.Close)
	w.broker = b
	if s.maxBlind > 0 {
		runBroker(t, b)
	}
	cfg := server.Config{Broker: b, TLS: s.tls, Callers: s.callers, Limits: s.limits, Logger: log, Audit: runAudit(t, w.audit)}
	if s.tls == nil {
		role := s.role
		if role == "" {
			role = server.RoleOperator
		}
		cfg.Plaintext, cfg.Callers = true, []server.Caller{{Name: "tester", Identity: server.InsecureIdentity, Role: role}}
	}
	if s.access != nil {
		cfg.Access, cfg.Callers = s.access, nil
	}
	cfg.Bearer = s.bearer
	if s.unaudited {
		cfg.Audit = nil
	}
	if w.server, err = server.New(cfg); err != nil {
		t.Fatalf("make server: %v", err)
	}
	w.listener = listen(t, s.socket)
	w.stop = serve(w.server, w.listener)
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	if s.tls == nil {
		w.peer = w.connect(t, plaintext())
	}
}

func plaintext() credentials.TransportCredentials { return insecure.NewCredentials() }

func listen(t *testing.T, socket bool) net.Listener {
	t.Helper()
	if !socket {
		return bufconn.Listen(64 << 10)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return listener
}

func serve(s *server.Server, listener net.Listener) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-served
	})
}

// connect makes a connection, which is dialled with the first call.
func (w *world) connect(t *testing.T, creds credentials.TransportCredentials, options ...grpc.DialOption) *peer {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.listener.Addr().String(), append(options,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return w.dial(ctx) }),
	)...)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return newPeer(conn)
}

func newPeer(conn *grpc.ClientConn) *peer {
	return &peer{
		conn: conn, tokens: pb.NewTokenServiceClient(conn), clients: pb.NewClientServiceClient(conn),
		rotations: pb.NewRotationServiceClient(conn), diagnostics: pb.NewDiagnosticsServiceClient(conn), consents: pb.NewAuthorizationServiceClient(conn), health: healthpb.NewHealthClient(conn),
	}
}

func (w *world) dial(ctx context.Context) (net.Conn, error) {
	if memory, ok := w.listener.(*bufconn.Listener); ok {
		return memory.DialContext(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, w.listener.Addr().Network(), w.listener.Addr().String())
}

// connectTLS connects to a server that a issued the certificate of; certificate
// may be nil.
func (w *world) connectTLS(t *testing.T, a *authority, certificate *tls.Certificate) *peer {
	t.Helper()
	config := &tls.Config{RootCAs: a.pool(), ServerName: serverName, MinVersion: tls.VersionTLS13}
	if certificate != nil {
		// Given whatever the server asks for: it must find out by itself that a
		// certificate is of another authority.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return w.connect(t, credentials.NewTLS(config))
}

// endpoint is the token endpoint of clients that [world.register] makes.
const endpoint = "https://auth.example.com/token"

func clientMessage(id string) *pb.Client {
	return &pb.Client{
		Name: "clients/" + id, TokenEndpoint: endpoint, ClientId: id + "-at-provider",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
	}
}

func clientSecret(value string) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value}}
}

// register creates a client that the authorization server knows, whose secret is
// "secret-1 of ID".
func (w *world) register(t *testing.T, p *peer, id string, edit ...func(*pb.Client)) *pb.Client {
	t.Helper()
	message := clientMessage(id)
	for _, e := range edit {
		e(message)
	}
	w.upstream.Register(message.GetClientId(), "secret-1 of "+id)
	response, err := p.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: message, Secret: clientSecret("secret-1 of " + id)})
	if err != nil {
		t.Fatalf("create client %s: %v", id, err)
	}
	return response.GetClient()
}

// stage makes secret pending and known to the authorization server.
func (w *world) stage(t *testing.T, p *peer, id, value string) *pb.SecretVersion {
	t.Helper()
	w.upstream.Register(id+"-at-provider", value)
	response, err := p.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/" + id, Secret: clientSecret(value)})
	if err != nil {
		t.Fatalf("stage secret of %s: %v", id, err)
	}
	return response.GetSecretVersion()
}

// recordKey returns the key of the record of a client.
func (w *world) recordKey(t *testing.T, id string) string {
	t.Helper()
	keys := w.memory.Keys()
	i := slices.IndexFunc(keys, func(key string) bool {
		return strings.HasPrefix(key, "clients/") && strings.HasSuffix(key, "/"+id)
	})
	if i < 0 {
		t.Fatalf("no record of client %s among %q", id, keys)
	}
	return keys[i]
}

// rewrite writes the record at key once more, as another writer does.
func (w *world) rewrite(t *testing.T, key string) {
	t.Helper()
	record, err := w.memory.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	w.memory.Put(key, record.Data.RevealString())
}

// checkSecret is a stand-in for what the real one finds by parsing.
func checkSecret(a broker.Authentication, value secret.Value) error {
	text := strings.TrimSpace(value.RevealString())
	isKey := strings.HasPrefix(text, "-----BEGIN ") || strings.HasPrefix(text, "{")
	if isKey != (a.Method == broker.PrivateKeyJWT) {
		return &broker.Error{Reason: broker.ReasonSecretUnusable, Detail: "it is not what " + string(a.Method) + " needs"}
	}
	return nil
}

func checkEndpoint(endpoint string) error {
	if strings.Contains(endpoint, "refused") {
		return &broker.Error{Reason: broker.ReasonUpstreamAddressRefused, Detail: "by order of the test"}
	}
	return nil
}

// logs is where a world's log goes.
type logs struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all that was logged.
func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns the lines whose message is msg.
func (l *logs) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// last returns the last line of a call.
func (l *logs) last(t *testing.T) map[string]any {
	t.Helper()
	lines := l.lines(t, "rpc")
	if len(lines) == 0 {
		t.Fatal("no call was logged")
	}
	return lines[len(lines)-1]
}

// second is a virtual one in a bubble of testing/synctest.
const second = time.Second

// runBroker runs a broker until the test ends.
func runBroker(t *testing.T, b *broker.Broker) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		must(t, <-ended)
	})
}
