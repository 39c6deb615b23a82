package server_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

func TestSecretsThatAreTooLarge(t *testing.T) {
	w := newWorld(t, setup{})
	w.register(t, w.peer, "acme")
	huge := clientSecret(strings.Repeat("x", 1<<20))
	tests := []struct {
		name string
		call func() error
	}{
		{"create", func() error {
			_, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: clientMessage("new"), Secret: huge})
			return err
		}},
		{"update", func() error {
			_, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: huge})
			return err
		}},
		{"stage", func() error {
			_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/acme", Secret: huge})
			return err
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := requireProblem(t, test.call(), codes.InvalidArgument, broker.ReasonInvalidRequest)
			if got, want := p.violations["secret"], "has 1048576 bytes; at most 65536"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if len(p.message) > 500 {
				t.Errorf("the message has %d bytes: does it quote the secret?", len(p.message))
			}
		})
	}
	t.Run("the largest one", func(t *testing.T) {
		_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/acme", Secret: clientSecret(strings.Repeat("x", 64<<10))})
		must(t, err)
	})
	t.Run("beyond the message size", func(t *testing.T) {
		_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/acme", Secret: clientSecret(strings.Repeat("x", 3<<20))})
		if got := problemOf(err); got.code != codes.ResourceExhausted || !strings.Contains(got.message, "2097152") {
			t.Errorf("got %v, want gRPC's own RESOURCE_EXHAUSTED with the bound", err)
		}
	})
}

// TestAnswersToBadRequestsAreBounded sends the worst of requests. An error's text
// and details travel in trailers, of which gRPC for Java takes 8 KiB and no more.
func TestAnswersToBadRequestsAreBounded(t *testing.T) {
	w := newWorld(t, setup{})
	bad := clientMessage("new")
	bad.Parameters = map[string]string{}
	for i := range 20 {
		bad.Parameters[string(rune('a'+i))+strings.Repeat("\x01", 500)] = "\x01"
	}
	var trailer metadata.MD
	_, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: bad}, trailers(&trailer))
	p := requireProblem(t, err, codes.InvalidArgument, broker.ReasonInvalidRequest)
	if len(p.violations) < 3 {
		t.Errorf("got %d violations, want several at once", len(p.violations))
	}
	encoded, err := proto.Marshal(status.Convert(err).Proto()) // grpc-status-details-bin
	must(t, err)
	size := len(trailer)*200 + (len(encoded)+2)/3*4
	for _, b := range []byte(p.message) { // grpc-message
		size++
		if b < ' ' || b > '~' || b == '%' {
			size += 2
		}
	}
	t.Logf("%d violations, message %d bytes, trailers about %d bytes", len(p.violations), len(p.message), size)
	if size > 8<<10 {
		t.Errorf("trailers have about %d bytes, want at most 8192", size)
	}
}

func TestConcurrentRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{MaxConcurrentRequests: 2, MaxConcurrentRequestsPerCaller: 2}})
		w.register(t, w.peer, "acme")
		w.upstream.Always(brokertest.Step{Delay: 3 * second})
		done := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
				done <- err
			}()
		}
		time.Sleep(second)
		for range 3 {
			p := requireProblem(t, lookup(t, w.peer), codes.ResourceExhausted, broker.ReasonTooManyRequests)
			if p.retry != second {
				t.Errorf("got RetryInfo of %v, want 1 s", p.retry)
			}
		}
		if err := healthy(t, w.peer); err != nil {
			t.Errorf("health of a busy server: got %v, want no error", err)
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("a call within the limit: %v", err)
			}
		}
		for range 4 { // refused calls are not counted
			if err := lookup(t, w.peer); err != nil {
				t.Errorf("after the rush: %v", err)
			}
		}
	})
}

// TestStrangersDoNotUseUpTheLimit opens health watches, which need no certificate.
func TestStrangersDoNotUseUpTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{MaxConcurrentRequests: 3, MaxConcurrentRequestsPerCaller: 3}})
		ctx, cancel := context.WithCancel(t.Context())
		for range 5 {
			_, ended := w.watch(ctx, "")
			defer func() { <-ended }()
		}
		defer cancel()
		synctest.Wait()
		if err := lookup(t, w.peer); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		requireProblem(t, healthy(t, w.peer), codes.ResourceExhausted, broker.ReasonTooManyRequests)
	})
}

// TestTheLimitIsNotShownToStrangers: who is not admitted learns nothing of our load.
func TestTheLimitIsNotShownToStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		files := a.serverFiles(t)
		w := newWorld(t, setup{
			tls: &files, limits: server.Limits{MaxConcurrentRequests: 1},
			callers: []server.Caller{{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator}},
		})
		operator, stranger := w.connectTLS(t, a, a.caller(t, operatorIdentity)), w.connectTLS(t, a, nil)
		w.register(t, operator, "acme")
		w.upstream.Always(brokertest.Step{Delay: 3 * second})
		done := make(chan error, 1)
		go func() {
			_, err := operator.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
			done <- err
		}()
		time.Sleep(second)
		requireProblem(t, lookup(t, stranger), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		must(t, <-done)
	})
}

// TestDeadlineIsCapped hangs the store behind every method of ours but GetToken and the
// watches, which the broker's own timeouts bound.
func TestDeadlineIsCapped(t *testing.T) {
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		if !m.reads() || forCallers(m) || m.stream {
			continue
		}
		t.Run(m.full, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{limits: server.Limits{MaxDeadline: 2 * second}})
				w.register(t, w.peer, "acme")
				w.stage(t, w.peer, "acme", "secret-2 of acme")
				w.store.Always(brokertest.Delay(time.Hour), func(c brokertest.Call) bool { return !c.Op.Writes() })
				w.upstream.Always(brokertest.Step{Delay: time.Hour})
				began := time.Now()
				_, err := w.invoke(t.Context(), m, sample(t, m))
				if took := time.Since(began); took != 2*second {
					t.Errorf("took %v, want 2 s", took)
				}
				if strings.HasSuffix(m.full, "/CheckLookup") {
					must(t, err) // a report
					return
				}
				requireProblem(t, err, codes.DeadlineExceeded, broker.ReasonDeadlineExceeded)
			})
		})
	}
}

func TestGetTokenHasAnEndWithoutADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		w.upstream.Always(brokertest.Step{Delay: time.Hour})
		began := time.Now()
		_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
		requireProblem(t, err, codes.Unavailable, broker.ReasonUpstreamTimeout)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("took %v, want less than a minute", took)
		}
	})
}

func TestTheCallersDeadlineCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		w.upstream.Always(brokertest.Step{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		_, err := w.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/acme"})
		if got := problemOf(err).code; got != codes.DeadlineExceeded {
			t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
		}
		synctest.Wait()
		// The server's timer and the client's reset race for the name of it.
		if got := w.logs.last(t); got["code"] != "DeadlineExceeded" && got["code"] != "Canceled" || got["reason"] != "DEADLINE_EXCEEDED" || got["level"] != "INFO" {
			t.Errorf("got the log line %v, want DEADLINE_EXCEEDED at info", got)
		}
	})
}

func TestCancelledCalls(t *testing.T) {
	w := newWorld(t, setup{})
	for _, m := range registered(t, w.server) {
		if !m.reads() || strings.HasSuffix(m.full, "/StreamCheck") || strings.HasSuffix(m.full, "/CheckLookup") { // which reports
			continue
		}
		t.Run(m.full, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				w.stage(t, w.peer, "acme", "secret-2 of acme")
				w.store.Always(brokertest.Delay(time.Hour), func(c brokertest.Call) bool { return !c.Op.Writes() })
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(second, cancel)
				_, err := w.invoke(ctx, m, sample(t, m))
				if got := problemOf(err).code; got != codes.Canceled {
					t.Errorf("got %v, want CANCELLED", err)
				}
				synctest.Wait()
				if got := w.logs.last(t); got["code"] != "Canceled" || got["level"] != "INFO" || got["method"] != m.full {
					t.Errorf("got the log line %v, want Canceled at info", got)
				}
			})
		})
	}
}

func TestHeadersAreBounded(t *testing.T) {
	w := newWorld(t, setup{})
	must(t, healthy(t, w.peer)) // the connection's settings are known after a first call
	for size, want := range map[int]codes.Code{8 << 10: codes.OK, 20 << 10: codes.Internal} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-padding", strings.Repeat("x", size))
		_, err := w.health.Check(ctx, &healthpb.HealthCheckRequest{})
		if got := problemOf(err); got.code != want || want != codes.OK && !strings.Contains(got.message, "16384") {
			t.Errorf("header of %d bytes: got %v, want %v", size, err, want)
		}
	}
}
