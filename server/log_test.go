package server_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// TestOneLinePerCall calls every method once in success and counts its lines.
func TestOneLinePerCall(t *testing.T) {
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		t.Run(m.full, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				w.stage(t, w.peer, "acme", "secret-2 of acme")
				prepareFor(t, w, m)
				request := confirmed(t, w, sample(t, m))
				before := len(w.logs.lines(t, "rpc"))
				_, err := w.invoke(t.Context(), m, request)
				must(t, err)
				synctest.Wait()
				lines := w.logs.lines(t, "rpc")[before:]
				if quiet := strings.HasPrefix(m.full, "/grpc.health.") || forCallers(m) || m.full == pb.RotationService_WatchRotation_FullMethodName; quiet {
					if len(lines) != 0 {
						t.Errorf("got the lines %v, want none", lines)
					}
					return
				}
				if len(lines) != 1 {
					t.Fatalf("got %d lines %v, want 1", len(lines), lines)
				}
				checkLine(t, lines[0], m.full, "OK", "INFO")
				if strings.Contains(m.full, "Client/") && lines[0]["client"] == "" {
					t.Errorf("got the line %v, want one that names the client", lines[0])
				}
			})
		})
	}
}

// prepareFor makes the state in which m's sample succeeds.
func prepareFor(t *testing.T, w *world, m method) {
	t.Helper()
	switch {
	case strings.HasSuffix(m.full, "/PromoteSecret"):
		must(t, verify("acme", 2)(t, w))
	case strings.HasSuffix(m.full, "/UndeleteClient"), strings.HasSuffix(m.full, "/PurgeClient"):
		remove(t, w)
	case strings.HasSuffix(m.full, "/AdoptSecret"):
		changeSecret(t, w)
	case strings.HasPrefix(m.full, "/tokenbroker.v1.AuthorizationService/"):
		asksUsers(t, w)
		if strings.HasSuffix(m.full, "/GetAuthorization") || strings.HasSuffix(m.full, "/RevokeAuthorization") {
			w.startAuthorization(t, "acme")
		}
	}
}

func checkLine(t *testing.T, line map[string]any, method, code, level string) {
	t.Helper()
	if line["method"] != method || line["code"] != code || line["level"] != level || line["caller"] != "tester" {
		t.Errorf("got the line %v, want method %s, code %s, level %s, caller tester", line, method, code, level)
	}
	if id, _ := line["request_id"].(string); id == "" {
		t.Errorf("got the line %v, want one with a request_id", line)
	}
	if took, ok := line["duration"].(float64); !ok || took < 0 {
		t.Errorf("got the line %v, want one with a duration", line)
	}
	known := []string{"time", "level", "msg", "method", "client", "request_id", "duration", "caller", "code", "reason", "cause"}
	for key := range line {
		if !slices.Contains(known, key) {
			t.Errorf("the line has %s=%v, want none but %q", key, line[key], known)
		}
	}
}

// TestLevels: what the peer did wrong is info, what a client's settings or its
// provider did is warn, what is ours is error with its cause.
func TestLevels(t *testing.T) {
	tests := []struct {
		name    string
		reason  broker.Reason
		level   string
		prepare func(t *testing.T, w *world)
		act     act
	}{
		{"malformed", broker.ReasonInvalidRequest, "INFO", nil, getToken("acme", nil)},
		{"unknown client", broker.ReasonClientNotFound, "INFO", nil, getToken("clients/nobody", nil)},
		{"scope", broker.ReasonScopeNotAllowed, "INFO", nil, getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Scopes = []string{"admin"} })},
		{"taken", broker.ReasonClientAlreadyExists, "INFO", nil, create(func(r *pb.CreateClientRequest) { r.Client.Name = "clients/acme" })},
		{"race", broker.ReasonConcurrentChange, "INFO", race, stage("acme", "new")},
		{"disabled", broker.ReasonClientDisabled, "WARN", disable, getToken("clients/acme", nil)},
		{"rejected", broker.ReasonClientRejected, "WARN", withdraw, getToken("clients/acme", nil)},
		{"secret gone", broker.ReasonSecretDestroyed, "WARN", takeSecret(broker.AbsentDestroyed), getToken("clients/acme", nil)},
		{"store down", broker.ReasonStoreUnreachable, "ERROR", storeFails(broker.ReasonStoreUnreachable), getToken("clients/acme", nil)},
		{"store denies", broker.ReasonStorePermissionDenied, "ERROR", storeFails(broker.ReasonStorePermissionDenied), getToken("clients/acme", nil)},
		{"store key", broker.ReasonStoreTokenDead, "ERROR", storeFails(broker.ReasonStoreTokenDead), lookupClient("acme")},
		{"newer schema", broker.ReasonRecordSchemaNewer, "ERROR", damage(`{"schema": 99}`), lookupClient("acme")},
		{"record corrupt", broker.ReasonRecordCorrupt, "ERROR", damage(`[]`), lookupClient("acme")},
		{"upstream down", broker.ReasonUpstreamTLS, "ERROR", upstreamFails(broker.ReasonUpstreamTLS, 0), getToken("clients/acme", nil)},
		{"upstream limits", broker.ReasonUpstreamRateLimited, "INFO", upstreamFails(broker.ReasonUpstreamRateLimited, time.Minute), getToken("clients/acme", nil)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				do := test.act
				if test.prepare != nil {
					do = after(test.prepare, do)
				}
				p := problemOf(do(t, w))
				line := w.logs.last(t)
				if p.reason != test.reason || line["reason"] != string(test.reason) || line["level"] != test.level {
					t.Errorf("got %s and the line %v, want %s at %s", p.reason, line, test.reason, test.level)
				}
				if line["request_id"] != p.metadata["request_id"] || line["code"] != p.code.String() {
					t.Errorf("got the line %v, want the request id %s and code %v of the answer", line, p.metadata["request_id"], p.code)
				}
				if cause, _ := line["cause"].(string); !strings.Contains(cause, string(test.reason)) {
					t.Errorf("got the cause %q, want one", cause)
				}
			})
		})
	}
}

func lookupClient(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/" + id})
		return err
	})
}

func damage(record string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.memory.Put(w.recordKey(t, "acme"), record) }
}

func TestStrangersAreLoggedWithoutAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		files := a.serverFiles(t)
		w := newWorld(t, setup{tls: &files})
		requireProblem(t, lookup(t, w.connectTLS(t, a, nil)), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		line := w.logs.last(t)
		if _, named := line["caller"]; named || line["level"] != "INFO" || line["reason"] != "CALLER_UNAUTHENTICATED" {
			t.Errorf("got the line %v, want one at info without a caller", line)
		}
	})
}

// TestNamesInTheLogAreBounded sends names as long as a message may be.
func TestNamesInTheLogAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		for _, name := range []string{strings.Repeat("é", 100_000), "clients/" + strings.Repeat("x", 1<<20), "clients/a\nlevel=ERROR msg=forged"} {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: name})
			requireProblem(t, err, codes.InvalidArgument, broker.ReasonInvalidRequest)
			_, err = w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: name})
			requireProblem(t, err, codes.InvalidArgument, broker.ReasonInvalidRequest)
			_, err = w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: &pb.Client{Name: name}})
			requireProblem(t, err, codes.InvalidArgument, broker.ReasonInvalidRequest)
		}
		for line := range strings.Lines(w.logs.String()) {
			if len(line) > 4096 || !strings.HasPrefix(line, `{"time"`) {
				t.Errorf("got a line of %d bytes: %.200s", len(line), line)
			}
		}
		if got, want := len(w.logs.lines(t, "rpc")), 9; got != want {
			t.Errorf("got %d lines, want %d", got, want)
		}
	})
}

func TestRequestID(t *testing.T) {
	w := newWorld(t, setup{})
	longest := strings.Repeat("x", 64)
	tests := []struct {
		name string
		sent []string
		want string // "" is one made by the server
	}{
		{"none", nil, ""},
		{"sound", []string{"b7a3-1/x"}, "b7a3-1/x"},
		{"as long as may be", []string{longest}, longest},
		{"too long", []string{longest + "x"}, ""},
		{"empty", []string{""}, ""},
		{"with a space", []string{"a b"}, ""},
		{"first sound one", []string{"a b", "second", "third"}, "second"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			for _, id := range test.sent {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", id)
			}
			_, err := w.clients.GetClient(ctx, &pb.GetClientRequest{Name: "clients/nobody"})
			p := requireProblem(t, err, codes.NotFound, broker.ReasonClientNotFound)
			got := p.metadata["request_id"]
			if test.want != "" && got != test.want || slices.Contains(test.sent, got) && test.want == "" {
				t.Errorf("got request id %q, want %q", got, test.want)
			}
			if test.want == "" && len(got) < 20 {
				t.Errorf("got request id %q, want a random one", got)
			}
			if logged := w.logs.last(t)["request_id"]; logged != got {
				t.Errorf("got %q in the log, want %q", logged, got)
			}
		})
	}
}

// TestRequestIDWithControlCharacters speaks HTTP/2 by hand, because gRPC clients
// refuse to send such a header.
func TestRequestIDWithControlCharacters(t *testing.T) {
	for name, id := range map[string]string{"newline": "a\nforged", "carriage return": "a\rb", "NUL": "a\x00b", "delete": "a\x7fb", "not ASCII": "é"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{})
			conn, err := w.dial(t.Context())
			must(t, err)
			defer func() { _ = conn.Close() }()
			_, err = conn.Write([]byte(http2.ClientPreface))
			must(t, err)
			var header bytes.Buffer
			encoder := hpack.NewEncoder(&header)
			for _, field := range [][2]string{
				{":method", "POST"},
				{":scheme", "http"},
				{":path", pb.ClientService_GetClient_FullMethodName},
				{":authority", "x"},
				{"content-type", "application/grpc"},
				{"te", "trailers"},
				{"x-request-id", id},
			} {
				must(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
			}
			framer := http2.NewFramer(conn, conn)
			must(t, framer.WriteSettings())
			must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header.Bytes(), EndHeaders: true}))
			must(t, framer.WriteData(1, true, make([]byte, 5))) // an empty message
			for ended := false; !ended; {
				frame, err := framer.ReadFrame()
				must(t, err)
				switch f := frame.(type) {
				case *http2.RSTStreamFrame:
					ended = true // refused before it came to us
				case *http2.HeadersFrame:
					ended = f.StreamEnded()
				}
			}
			for _, line := range w.logs.lines(t, "rpc") {
				if got := fmt.Sprint(line["request_id"]); got == id || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
					t.Errorf("got request id %q in the log", got)
				}
			}
		})
	}
}

// TestOnlyOperatorsReadTheDetail compares what an operator and a caller are told
// of the same failure.
func TestOnlyOperatorsReadTheDetail(t *testing.T) {
	for _, role := range []server.Role{server.RoleOperator, server.RoleCaller} {
		t.Run(string(role), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				must(t, w.stop())
				w.start(t, setup{role: role})
				w.upstream.Always(brokertest.Step{Err: &broker.Error{
					Reason: broker.ReasonUpstreamTLS, Detail: "detail " + mark, RetryAfter: 7 * second, Err: fmt.Errorf("cause of the %s kind", mark),
				}})
				_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
				p := requireProblem(t, err, codes.Unavailable, broker.ReasonUpstreamTLS)
				detail, told := p.metadata["detail"]
				if operator := role == server.RoleOperator; told != operator || strings.Contains(p.message, "detail "+mark) != operator || operator && detail != "detail "+mark {
					t.Errorf("role %s: got the detail %q and the message %q", role, detail, p.message)
				}
				if strings.Contains(p.message+fmt.Sprint(p.metadata), "cause of") {
					t.Errorf("the cause got out: %v", err)
				}
				if p.metadata["client"] != "clients/acme" || p.retry != 7*second {
					t.Errorf("got client %q and RetryInfo %v, want clients/acme and 7 s", p.metadata["client"], p.retry)
				}
				info := broker.ReasonUpstreamTLS.Info()
				if !strings.HasPrefix(p.message, "UPSTREAM_TLS: clients/acme: "+info.Summary) || !strings.HasSuffix(p.message, info.Remedy) {
					t.Errorf("got the message %q, want reason, client, summary and remedy", p.message)
				}
			})
		})
	}
}
