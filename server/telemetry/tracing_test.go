package telemetry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

const (
	callersTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersParent = "00f067aa0ba902b7"
)

// traced is a whole server that is traced, over fakes.
type traced struct {
	conn     *grpc.ClientConn
	upstream *brokertest.Upstream
	store    *brokertest.Faulty
	logs     *syncBuffer
	tracing  *telemetry.Tracing
	stop     func() // ends the server, once
}

type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newTraced(t *testing.T, tracing *telemetry.Tracing) *traced {
	t.Helper()
	w := &traced{upstream: brokertest.NewUpstream(), store: brokertest.NewFaulty(brokertest.NewMemory()), logs: &syncBuffer{}, tracing: tracing}
	b, err := broker.New(broker.Config{
		Store: tracing.Store(w.store), RequestToken: tracing.RequestToken(w.upstream.RequestToken), CarryTrace: tracing.CarryTrace,
		CheckSecret:   func(broker.Authentication, secret.Value) error { return nil },
		CheckEndpoint: func(string) error { return nil }, Logger: w.logs.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	s, err := server.New(server.Config{
		Broker: b, Plaintext: true, Tracing: tracing, Logger: w.logs.logger(),
		Callers: []server.Caller{{Name: "tester", Identity: server.InsecureIdentity, Role: server.RoleOperator}},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(64 << 10)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	w.conn, err = grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	w.stop = sync.OnceFunc(func() {
		_ = w.conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// finish stops the server and sends what was traced: a call's span ends after its caller
// has the answer.
func (w *traced) finish(t *testing.T) {
	t.Helper()
	w.stop()
	flush(t, w.tracing)
}

// create registers a client with a secret that the authorization server knows.
func (w *traced) create(t *testing.T, ctx context.Context, id, value string) error {
	t.Helper()
	w.upstream.Register("app", value)
	_, err := pb.NewClientServiceClient(w.conn).CreateClient(ctx, &pb.CreateClientRequest{
		Client: &pb.Client{
			Name: "clients/" + id, TokenEndpoint: "https://login.example.com/path-of-" + id, ClientId: "app", DefaultScopes: []string{"a-scope"},
			AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC,
		},
		Secret: &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value}},
	})
	return err
}

func (w *traced) token(ctx context.Context, id string) (*pb.GetTokenResponse, error) {
	return pb.NewTokenServiceClient(w.conn).GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + id})
}

func withParent(ctx context.Context, flags string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+callersTrace+"-"+callersParent+"-"+flags)
}

// TestSpansOfACall follows a token from the call to the authorization server.
func TestSpansOfACall(t *testing.T) {
	c := newCollector(t)
	tracing := c.tracing(t, func(cfg *telemetry.TracingConfig) { cfg.SampleRatio = 0 })
	w := newTraced(t, tracing)
	if err := w.create(t, t.Context(), "acme", "s3cr3t"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.token(withParent(t.Context(), "01"), "acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.token(withParent(t.Context(), "01"), "absent"); err == nil {
		t.Fatal("a token of a client that is not there")
	}
	if _, err := healthpb.NewHealthClient(w.conn).Check(withParent(t.Context(), "01"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	_ = w.conn.Invoke(withParent(t.Context(), "01"), "/made.up/Name", &pb.GetTokenRequest{}, &pb.GetTokenResponse{})
	w.finish(t)

	spans, resource := c.spans()
	if resource["service.name"] != "tokenbroker" || resource["service.version"] != "v1" {
		t.Errorf("resource %v", resource)
	}
	byName := map[string][]span{}
	for _, s := range spans {
		byName[s.GetName()] = append(byName[s.GetName()], s)
		if got := fmt.Sprintf("%x", s.GetTraceId()); got != callersTrace {
			t.Errorf("%s: trace %s, want the caller's", s.GetName(), got)
		}
	}
	calls := byName["tokenbroker.v1.TokenService/GetToken"]
	if len(calls) != 2 || len(byName["token request"]) != 1 || len(byName["store read"]) == 0 {
		t.Fatalf("spans %v, want those of two calls, a token request and reads of the store", byName)
	}
	served, failed := calls[0], calls[1]
	if served.attributes["tokenbroker.reason"] != "" { // a span ends after its caller has the answer: the second may end first
		served, failed = failed, served
	}
	for name := range byName {
		if !strings.HasPrefix(name, "store ") && name != "token request" && name != "tokenbroker.v1.TokenService/GetToken" {
			t.Errorf("a span %q", name)
		}
	}
	if got := fmt.Sprintf("%x", served.GetParentSpanId()); got != callersParent {
		t.Errorf("the call's parent is %s, want the caller's span", got)
	}
	request := byName["token request"][0]
	if string(request.GetParentSpanId()) != string(served.GetSpanId()) {
		t.Error("the token request is not part of the call")
	}
	want := map[string]string{
		"tokenbroker.operation": "request_token",
		"tokenbroker.grant":     "client_credentials", "tokenbroker.reason": "OK", "tokenbroker.authorization_server": "login.example.com",
	}
	if fmt.Sprint(request.attributes) != fmt.Sprint(want) {
		t.Errorf("the token request has %v, want %v", request.attributes, want)
	}
	if got := failed.attributes; got["tokenbroker.reason"] != "CLIENT_NOT_FOUND" || got["rpc.response.status_code"] != "NOT_FOUND" {
		t.Errorf("the failed call has %v", got)
	}
	if !strings.Contains(w.logs.String(), `"trace_id":"`+callersTrace+`"`) {
		t.Error("the log has no trace_id")
	}
}

// TestSampling counts the traces of calls by what their caller decided.
func TestSampling(t *testing.T) {
	tests := []struct {
		name           string
		ratio, most    float64
		parent         string // the caller's flags; "" sends no header
		wantAll, wantN int
	}{
		{name: "the caller samples", ratio: 0, most: 1000, parent: "01", wantAll: 20, wantN: 20},
		{name: "the caller does not sample", ratio: 1, most: 1000, parent: "00", wantAll: 20},
		{name: "no caller's decision, never", ratio: 0, most: 1000, wantAll: 20},
		{name: "no caller's decision, always", ratio: 1, most: 1000, wantAll: 20, wantN: 20},
		{name: "the caller samples more than there is room for", ratio: 1, most: 0.001, parent: "01", wantAll: 20, wantN: 1},
		{name: "more calls than there is room for", ratio: 1, most: 0.001, wantAll: 20, wantN: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCollector(t)
			tracing := c.tracing(t, func(cfg *telemetry.TracingConfig) { cfg.SampleRatio, cfg.MaxTracesPerSecond = test.ratio, test.most })
			w := newTraced(t, tracing)
			ctx := t.Context()
			if test.parent != "" {
				ctx = withParent(ctx, test.parent)
			}
			for range test.wantAll {
				_, _ = pb.NewDiagnosticsServiceClient(w.conn).CheckLookup(ctx, &pb.CheckLookupRequest{Client: "clients/absent"})
			}
			w.finish(t)
			calls := 0
			spans, _ := c.spans()
			for _, s := range spans {
				if strings.HasSuffix(s.GetName(), "/CheckLookup") {
					calls++
				}
			}
			if calls != test.wantN {
				t.Errorf("%d of %d calls were traced, want %d", calls, test.wantAll, test.wantN)
			}
			if calls == 0 && len(spans) > 0 {
				t.Errorf("there are %d spans of no call", len(spans))
			}
		})
	}
}

// TestNoSecretInSpans marks everything that a caller, a store or an authorization
// server can say, and looks for it in what the collector received.
func TestNoSecretInSpans(t *testing.T) {
	const mark = "cAnArY"
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x="+mark)
	c := newCollector(t)
	tracing := c.tracing(t, nil)
	w := newTraced(t, tracing)
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"traceparent", "00-"+callersTrace+"-"+callersParent+"-01", "tracestate", "v="+mark, "baggage", "b="+mark, "authorization", mark, "x-request-id", mark, "user-agent", mark)
	if err := w.create(t, ctx, "acme", mark+"-secret"); err != nil {
		t.Fatal(err)
	}
	_ = w.create(t, ctx, "lower-"+strings.ToLower(mark), mark+"-secret-2")
	answer, err := w.token(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	tokens := pb.NewTokenServiceClient(w.conn)
	for _, req := range []*pb.GetTokenRequest{
		{Client: mark}, {Client: "clients/acme", Scopes: []string{mark}}, {Client: "clients/acme", Audience: mark},
	} {
		if _, err := tokens.GetToken(ctx, req); err == nil {
			t.Errorf("%v: no error", req)
		}
	}
	fails := &broker.Error{Reason: broker.ReasonUpstreamMalformed, Err: errors.New(mark + " in the cause")}
	w.upstream.Always(brokertest.Step{Err: fails})
	if _, err := w.token(ctx, "lower-"+strings.ToLower(mark)); err == nil {
		t.Error("a token although the authorization server fails")
	}
	bare := func(context.Context, broker.TokenRequest) (broker.TokenResponse, error) {
		return broker.TokenResponse{}, status.Error(codes.Internal, mark)
	}
	if _, err := tracing.RequestToken(bare)(ctx, broker.TokenRequest{
		Endpoint: "https://" + mark + ":" + mark + "@login.example.com/" + mark + "?" + mark + "#" + mark, ClientID: mark, Scopes: []string{mark}, Secret: secret.NewString(mark),
	}); err == nil {
		t.Error("the error is lost")
	}
	_ = w.conn.Invoke(ctx, "/"+mark+"/"+mark, &pb.GetTokenRequest{}, &pb.GetTokenResponse{})
	w.finish(t)

	spans, _ := c.spans()
	if len(spans) < 10 {
		t.Fatalf("only %d spans", len(spans))
	}
	failed := 0
	for _, s := range spans {
		if s.GetStatus().GetMessage() != "" || len(s.GetEvents()) > 0 || len(s.GetLinks()) > 0 || s.GetTraceState() != "" {
			t.Errorf("%s has a text, events, links or a state: %v", s.GetName(), s.Span)
		}
		if s.attributes["tokenbroker.reason"] == string(broker.ReasonUpstreamMalformed) {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no span has the reason of the failure")
	}
	received := c.wire(t)
	for _, forbidden := range []string{mark, strings.ToLower(mark), answer.GetAccessToken(), "a-scope", "path-of", "127.0.0.1"} {
		if strings.Contains(strings.ReplaceAll(received, c.address, ""), forbidden) {
			t.Errorf("the collector received %q", forbidden)
		}
	}
}

// TestCollectorThatFails loses spans, says so once, and holds nothing up.
func TestCollectorThatFails(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*collector)
		want    string
	}{
		{"away", func(c *collector) { c.stop() }, "Unavailable"},
		{"refuses", func(c *collector) { c.setRefuse(status.Error(codes.PermissionDenied, "a text of the collector's")) }, "PermissionDenied"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, logs := newCollector(t), &syncBuffer{}
			test.prepare(c)
			tracing := c.tracing(t, func(cfg *telemetry.TracingConfig) { cfg.Logger = logs.logger() })
			w := newTraced(t, tracing)
			const calls = 3000 // more than one batch and more than the queue holds
			for range calls {
				_, _ = pb.NewDiagnosticsServiceClient(w.conn).CheckLookup(t.Context(), &pb.CheckLookupRequest{})
			}
			w.finish(t)
			log := logs.String()
			if strings.Count(log, "\n") != 1 || !strings.Contains(log, test.want) || !strings.Contains(log, "traces cannot be exported") {
				t.Errorf("the log is %q, want one line with %s", log, test.want)
			}
			if strings.Contains(log, "a text of") {
				t.Error("the collector's text is in the log")
			}
		})
	}
}

// TestCollectorOverTLS verifies the collector by the authorities that were given.
func TestCollectorOverTLS(t *testing.T) {
	authority, err := devpki.New("collector")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{true, false} {
		c, logs := newCollector(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair))), &syncBuffer{}
		tracing := c.tracing(t, func(cfg *telemetry.TracingConfig) {
			cfg.Endpoint, cfg.InsecureLoopback, cfg.Logger = "https://"+c.address, false, logs.logger()
			cfg.RootCAs = x509.NewCertPool()
			if trusted {
				cfg.RootCAs.AppendCertsFromPEM(authority.PEM())
			}
		})
		_, _ = tracing.RequestToken(brokertest.NewUpstream().RequestToken)(t.Context(), broker.TokenRequest{Endpoint: "https://a.example/t"})
		flush(t, tracing)
		spans, _ := c.spans()
		if got := len(spans) == 1; got != trusted {
			t.Errorf("trusted %t: received %t; log %s", trusted, got, logs)
		}
	}
}

func TestTracingConfig(t *testing.T) {
	sound := telemetry.TracingConfig{Endpoint: "https://collector:4317", SampleRatio: 0.01, MaxTracesPerSecond: 10}
	tests := []struct {
		name string
		edit func(*telemetry.TracingConfig)
		want string // of the error; "" for none
	}{
		{"sound", func(*telemetry.TracingConfig) {}, ""},
		{"no port", func(c *telemetry.TracingConfig) { c.Endpoint = "https://collector" }, "otlp_endpoint: must be https://HOST:PORT"},
		{"a path", func(c *telemetry.TracingConfig) { c.Endpoint = "https://collector:4317/v1/traces" }, "otlp_endpoint: must be"},
		{"a password", func(c *telemetry.TracingConfig) { c.Endpoint = "https://u:pw@collector:4317" }, "otlp_endpoint: must be"},
		{"no scheme", func(c *telemetry.TracingConfig) { c.Endpoint = "collector:4317" }, "otlp_endpoint: must be"},
		{"plain http", func(c *telemetry.TracingConfig) { c.Endpoint = "http://127.0.0.1:4317" }, "otlp_endpoint: plain http needs"},
		{"plain http on loopback", func(c *telemetry.TracingConfig) { c.Endpoint, c.InsecureLoopback = "http://[::1]:4317", true }, ""},
		{"plain http elsewhere", func(c *telemetry.TracingConfig) { c.Endpoint, c.InsecureLoopback = "http://10.0.0.1:4317", true }, "otlp_endpoint: plain http needs"},
		{"ratio", func(c *telemetry.TracingConfig) { c.SampleRatio = 1.5 }, "sample_ratio: is 1.5; it must be between 0 and 1"},
		{"rate", func(c *telemetry.TracingConfig) { c.MaxTracesPerSecond = 0 }, "max_traces_per_second: is 0; it must be above 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := sound
			test.edit(&cfg)
			err := cfg.Validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "pw") {
				t.Error("the error shows the password")
			}
		})
	}
}

func TestTracedStorePassesTheSuite(t *testing.T) {
	c := newCollector(t)
	tracing := c.tracing(t, nil)
	brokertest.TestStore(t, func(*testing.T) broker.Store { return tracing.Store(brokertest.NewMemory()) })
}
