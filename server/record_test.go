package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

// auditSink keeps audit lines in memory, and fails from some entry on if told to.
type auditSink struct {
	mu     sync.Mutex // guards the rest
	text   bytes.Buffer
	takes  int  // how many more entries; only if failing
	fails  bool // once takes is used up
	onLine func(line string)
}

// Name implements audit.Sink.
func (s *auditSink) Name() string { return "memory" }

// Write implements audit.Sink.
func (s *auditSink) Write(lines []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails && s.takes == 0 {
		return errors.New("no space left on device")
	}
	if s.takes > 0 {
		s.takes--
	}
	if s.onLine != nil {
		s.onLine(string(lines))
	}
	s.text.Write(lines)
	return nil
}

// Sync implements audit.Sink.
func (s *auditSink) Sync() error { return nil }

// Check implements audit.Sink.
func (s *auditSink) Check() error { return nil }

// Close implements audit.Sink.
func (s *auditSink) Close() error { return nil }

// failAfter makes it take that many more writes.
func (s *auditSink) failAfter(takes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.takes = true, takes
}

// String returns all that was written.
func (s *auditSink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// entries returns the decisions, without starts and checkpoints.
func (s *auditSink) entries(t *testing.T) []map[string]any {
	t.Helper()
	var list []map[string]any
	for line := range strings.Lines(s.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("audit line %q: %v", line, err)
		}
		if fields["type"] == nil {
			list = append(list, fields)
		}
	}
	return list
}

// auditKey is one for all tests: making one writes a file.
var auditKey = sync.OnceValues(func() (audit.Key, error) {
	dir, err := os.MkdirTemp("", "audit-key-")
	if err != nil {
		return audit.Key{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "audit.key")
	if err := audit.CreateKey(path); err != nil {
		return audit.Key{}, err
	}
	return audit.LoadKey(path)
})

// runAudit runs a log into sink until the test ends.
func runAudit(t *testing.T, sink audit.Sink) *audit.Log {
	t.Helper()
	key, err := auditKey()
	must(t, err)
	log, err := audit.New(audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = log.Run(ctx) // a sink that fails to the end is some tests' purpose
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return log
}

// TestOneEntryPerDecision calls every method in success: one entry for what only
// looks, two for what changes something.
func TestOneEntryPerDecision(t *testing.T) {
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		t.Run(m.full, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				w.stage(t, w.peer, "acme", "secret-2 of acme")
				prepareFor(t, w, m)
				request := confirmed(t, w, sample(t, m))
				before := len(w.audit.entries(t))
				_, err := w.invoke(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "the-callers"), m, request)
				must(t, err)
				synctest.Wait()
				entries := w.audit.entries(t)[before:]
				var want []string
				switch name := m.full[strings.LastIndexByte(m.full, '/')+1:]; {
				case strings.HasPrefix(m.full, "/grpc.health."):
				case strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Check") || m.reports() || name == "ExplainError" || name == "ServerReflectionInfo" || name == "WhoAmI" || strings.HasPrefix(name, "Watch"):
					want = []string{"allowed"}
				case name == "ImportClients": // the stream, and its one client
					want = []string{"allowed", "begun", "allowed"}
				default:
					want = []string{"begun", "allowed"}
				}
				if len(entries) != len(want) {
					t.Fatalf("got the entries %v, want outcomes %v", entries, want)
				}
				for i, entry := range entries {
					if entry["outcome"] != want[i] || entry["method"] != m.full || entry["caller"] != "tester" ||
						entry["identity"] != server.InsecureIdentity || entry["request_id"] != "the-callers" {
						t.Errorf("got the entry %v, want outcome %s", entry, want[i])
					}
					if strings.Contains(m.full, "Client/") && entry["client"] == nil {
						t.Errorf("got the entry %v, want one that names the client", entry)
					}
				}
			})
		})
	}
}

func TestEntryOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme", func(c *pb.Client) { c.DefaultScopes = []string{"read", "write"} })
		const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace+"-00f067aa0ba902b7-00")
		for _, from := range []string{"mint", "memory"} {
			time.Sleep(time.Second) // a token of this very moment counts as minted by the call
			response, err := w.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/acme"})
			must(t, err)
			entries := w.audit.entries(t)
			last := entries[len(entries)-1]
			if last["token_id"] != response.GetTokenId() || last["secret_version"] != float64(1) || last["served_from"] != from ||
				last["client"] != "clients/acme" || last["outcome"] != "allowed" || last["reason"] != nil || last["trace_id"] != trace {
				t.Errorf("got the entry %v, want token %s from %s", last, response.GetTokenId(), from)
			}
		}
	})
}

func TestEntriesOfRefusals(t *testing.T) {
	w, a, operator := overSockets(t)
	w.register(t, operator, "acme")
	get := func(p *peer, client string) error {
		_, err := p.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: client})
		return err
	}
	for _, test := range []struct {
		name                     string
		call                     func() error
		outcome, reason, caller  string
		identity, client, method string
	}{
		{
			"may not", func() error { return get(w.connectTLS(t, a, a.caller(t, callerIdentity)), "clients/acme") },
			"denied", "CALLER_NOT_ALLOWED", "crm", callerIdentity, "clients/acme", pb.ClientService_GetClient_FullMethodName,
		},
		{
			"not listed", func() error { return get(w.connectTLS(t, a, a.caller(t, "spiffe://example.org/x")), "clients/acme") },
			"denied", "CALLER_UNAUTHENTICATED", "", "spiffe://example.org/x", "clients/acme", pb.ClientService_GetClient_FullMethodName,
		},
		{
			"unknown", func() error { return get(w.connectTLS(t, a, nil), "clients/acme") },
			"denied", "CALLER_UNAUTHENTICATED", "", "", "clients/acme", pb.ClientService_GetClient_FullMethodName,
		},
		{
			"not there", func() error { return get(operator, "clients/none") },
			"failed", "CLIENT_NOT_FOUND", "operator", operatorIdentity, "clients/none", pb.ClientService_GetClient_FullMethodName,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.call() == nil {
				t.Fatal("got no error")
			}
			entries := w.audit.entries(t)
			got := entries[len(entries)-1]
			for field, want := range map[string]string{
				"outcome": test.outcome, "reason": test.reason, "caller": test.caller, "identity": test.identity,
				"client": test.client, "method": test.method,
			} {
				if value, _ := got[field].(string); value != want {
					t.Errorf("%s is %q, want %q", field, value, want)
				}
			}
		})
	}
}

// TestEntryComesBeforeTheAnswer holds an entry back and looks whether the caller has
// its token meanwhile.
func TestEntryComesBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		written, answered := make(chan struct{}), false
		held := make(chan struct{})
		w.audit.mu.Lock()
		w.audit.onLine = func(string) { close(written); <-held }
		w.audit.mu.Unlock()
		done := make(chan error, 1)
		go func() {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
			answered = true
			done <- err
		}()
		<-written
		synctest.Wait()
		if answered {
			t.Error("the token was handed out before its entry was written")
		}
		w.audit.onLine = nil // its writer waits, and holds the lock
		close(held)
		must(t, <-done)
	})
}

// TestNothingWithoutAnEntry lets all sinks fail, at once and between the two entries
// of a change.
func TestNothingWithoutAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		get := func() (*pb.GetTokenResponse, error) {
			return w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
		}
		_, err := get()
		must(t, err)
		disable := func() error {
			_, err := w.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: "clients/acme"})
			return err
		}
		w.audit.failAfter(0)
		response, err := get()
		requireProblem(t, err, codes.Unavailable, broker.ReasonAuditUnavailable)
		if response.GetAccessToken() != "" {
			t.Error("a token was handed out without an entry")
		}
		writes := w.store.Count(brokertest.On(brokertest.OpWrite, ""))
		requireProblem(t, disable(), codes.Unavailable, broker.ReasonAuditUnavailable)
		if got := w.store.Count(brokertest.On(brokertest.OpWrite, "")); got != writes {
			t.Errorf("a change without an entry made %d writes", got-writes)
		}
		// Health does not hang on it: a restart would mend nothing.
		_, err = w.health.Check(t.Context(), &healthpb.HealthCheckRequest{})
		must(t, err)

		w.audit.failAfter(1) // the change's first entry
		requireProblem(t, disable(), codes.Unavailable, broker.ReasonAuditUnavailable)
		entries := w.audit.entries(t)
		if last := entries[len(entries)-1]; last["outcome"] != "begun" {
			t.Errorf("got the last entry %v, want that of the change that began", last)
		}
	})
}
