package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// bomb is a store that panics once it is armed.
type bomb struct {
	broker.Store
	cause atomic.Pointer[any]
}

func (b *bomb) tick() {
	if cause := b.cause.Load(); cause != nil {
		panic(*cause)
	}
}

// Read implements broker.Store.
func (b *bomb) Read(ctx context.Context, key string) (broker.Record, error) {
	b.tick()
	return b.Store.Read(ctx, key)
}

// List implements broker.Store.
func (b *bomb) List(ctx context.Context, prefix string) ([]string, error) {
	b.tick()
	return b.Store.List(ctx, prefix)
}

// mark stands for anything that a panic's value or a cause may hold.
const mark = "Marked-5f0c1b"

// TestPanics lets a store panic below every method of ours that asks it in the
// handler's own goroutine.
func TestPanics(t *testing.T) {
	causes := map[string]any{
		"string": "value " + mark,
		"error":  fmt.Errorf("cause: %w", errors.New(mark)),
		"struct": struct{ Text string }{mark},
		"secret": secret.NewString(mark),
		"status": status.Error(codes.DataLoss, mark),
		"broker": &broker.Error{Reason: broker.ReasonClientNotFound, Detail: mark},
	}
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		if !m.reads() || forCallers(m) || m.full == pb.DiagnosticsService_SweepLookups_FullMethodName { // in work that they share, or begin
			continue
		}
		for name, cause := range causes {
			t.Run(m.full+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testPanic(t, m, cause) })
			})
		}
	}
}

func testPanic(t *testing.T, m method, cause any) {
	var b *bomb
	w := newWorld(t, setup{store: func(s broker.Store) broker.Store {
		b = &bomb{Store: s}
		return b
	}})
	w.register(t, w.peer, "acme")
	w.stage(t, w.peer, "acme", "secret-2 of acme")
	synctest.Wait() // the server has read the store
	b.cause.Store(&cause)
	_, err := w.invoke(t.Context(), m, sample(t, m))
	p := requireProblem(t, err, codes.Internal, broker.ReasonInternal)
	info := broker.ReasonInternal.Info()
	if want := "INTERNAL: " + info.Summary + " " + info.Remedy; p.message != want {
		t.Errorf("got the message %q, want %q", p.message, want)
	}
	line := w.logs.last(t)
	if line["level"] != "ERROR" || line["request_id"] != p.metadata["request_id"] {
		t.Errorf("got the log line %v, want one at error with the request id %s", line, p.metadata["request_id"])
	}
	if cause, _ := line["cause"].(string); !strings.Contains(cause, "panic of type ") {
		t.Errorf("got the cause %q, want the type of the panic's value", cause)
	}
	stacks := w.logs.lines(t, "handler panicked")
	if len(stacks) != 1 || stacks[0]["method"] != m.full || !strings.Contains(fmt.Sprint(stacks[0]["stack"]), "tick") {
		t.Errorf("got %v, want one line with method and stack", stacks)
	}
	if strings.Contains(w.logs.String()+err.Error()+fmt.Sprint(status.Convert(err).Details()), mark) {
		t.Error("the panic's value got out")
	}
	// The server lives on, and the call is no longer counted.
	b.cause.Store(nil)
	must(t, lookup(t, w.peer))
}

// TestRuntimeErrorsAreNamed: what the runtime panics with holds no data of ours.
func TestRuntimeErrorsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{store: func(s broker.Store) broker.Store { return &indexing{s} }})
		_, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/acme"})
		requireProblem(t, err, codes.Internal, broker.ReasonInternal)
		if got := fmt.Sprint(w.logs.last(t)["cause"]); !strings.Contains(got, "index out of range [3] with length 0") {
			t.Errorf("got the cause %q, want the runtime's text", got)
		}
	})
}

type indexing struct{ broker.Store }

// Read implements broker.Store.
func (i *indexing) Read(ctx context.Context, key string) (broker.Record, error) {
	if strings.HasPrefix(key, "clients/") {
		var none []int
		_ = none[len("abc")]
	}
	return i.Store.Read(ctx, key)
}

// TestBareContextErrors gives the store errors of a context without a reason.
func TestBareContextErrors(t *testing.T) {
	for _, test := range []struct {
		cause error
		code  codes.Code
	}{{context.DeadlineExceeded, codes.DeadlineExceeded}, {context.Canceled, codes.Canceled}} {
		t.Run(test.code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				cause := fmt.Errorf("asked: %w", test.cause)
				w.store.Always(brokertest.Fault{Before: func(context.Context, brokertest.Call) error { return cause }}, brokertest.Any)
				_, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/acme"})
				if got := problemOf(err).code; got != test.code {
					t.Errorf("got %v, want %v", err, test.code)
				}
				if line := w.logs.last(t); line["level"] != "INFO" || line["reason"] != "DEADLINE_EXCEEDED" {
					t.Errorf("got the log line %v, want one at info", line)
				}
			})
		})
	}
}

// TestCausesStayInside gives the store errors that no contract allows: without a
// reason, with a gRPC status inside, or of a context.
func TestCausesStayInside(t *testing.T) {
	plain := errors.New("plain " + mark)
	causes := map[string]error{
		"plain":            plain,
		"status":           status.Error(codes.NotFound, mark),
		"wrapped status":   fmt.Errorf("asked: %w", status.Error(codes.PermissionDenied, mark)),
		"reason INTERNAL":  &broker.Error{Reason: broker.ReasonInternal, Err: status.Error(codes.DataLoss, mark)},
		"unknown reason":   &broker.Error{Reason: "MADE_UP", Err: plain},
		"joined":           errors.Join(plain, status.Error(codes.Unauthenticated, mark)),
		"reason and cause": &broker.Error{Reason: broker.ReasonStoreFailed, Err: plain},
	}
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		if !m.reads() || strings.HasSuffix(m.full, "/StreamCheck") || strings.HasSuffix(m.full, "/CheckLookup") { // which reports
			continue
		}
		for name, cause := range causes {
			t.Run(m.full+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, setup{})
					w.register(t, w.peer, "acme")
					w.store.Always(brokertest.Fault{Before: func(context.Context, brokertest.Call) error { return cause }}, brokertest.Any)
					_, err := w.invoke(t.Context(), m, sample(t, m))
					p := problemOf(err)
					if strings.Contains(err.Error()+fmt.Sprint(status.Convert(err).Details()), mark) {
						t.Errorf("the cause got out: %v", err)
					}
					if name == "unknown reason" {
						return
					}
					checkProblem(t, p)
					if want := broker.ReasonOf(cause); p.reason != want {
						t.Errorf("got %v, want %s", err, want)
					}
					if line := w.logs.last(t); line["level"] != "ERROR" || !strings.Contains(fmt.Sprint(line["cause"]), mark) {
						t.Errorf("got the log line %v, want one at error with the cause", line)
					}
				})
			})
		}
	}
}
