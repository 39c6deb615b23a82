package server_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// hold makes n calls for the client that hang until the test's time goes on; each
// names another scope, so that none waits for another one's token.
func hold(t *testing.T, w *world, p *peer, client string, n int) (outcomes chan error) {
	t.Helper()
	outcomes = make(chan error, n)
	for i := range n {
		go func() {
			_, err := p.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: client, Scopes: []string{"s" + strings.Repeat("x", i)}})
			outcomes <- err
		}()
	}
	synctest.Wait()
	return outcomes
}

func anyScope(c *pb.Client) {
	for i := range 20 {
		c.AllowedScopes = append(c.AllowedScopes, "s"+strings.Repeat("x", i))
	}
}

// TestOneCallerDoesNotUseUpTheServer: beyond its share a caller is refused, another one
// is let in.
func TestOneCallerDoesNotUseUpTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		files := a.serverFiles(t)
		w := newWorld(t, setup{
			tls: &files, limits: server.Limits{MaxConcurrentRequests: 12},
			callers: []server.Caller{
				{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator},
				{Name: "crm", Identity: callerIdentity, Role: server.RoleCaller},
			},
		})
		operator, caller := w.connectTLS(t, a, a.caller(t, operatorIdentity)), w.connectTLS(t, a, a.caller(t, callerIdentity))
		w.register(t, operator, "acme", anyScope)
		w.upstream.Always(brokertest.Step{Delay: 3 * second})
		outcomes := hold(t, w, caller, "clients/acme", 4)
		refused := 0
		for range 4 {
			select {
			case err := <-outcomes:
				p := requireProblem(t, err, codes.ResourceExhausted, broker.ReasonTooManyRequests)
				if p.retry <= 0 {
					t.Errorf("got %v, want a RetryInfo", err)
				}
				refused++
			default:
			}
		}
		if refused != 1 {
			t.Errorf("of 4 calls at once %d were refused, want 1: a quarter of 12 are let in", refused)
		}
		if err := lookup(t, operator); err != nil {
			t.Errorf("another caller: %v", err)
		}
		for range 4 - refused {
			must(t, <-outcomes)
		}
	})
}

// TestOneClientDoesNotUseUpARow bounds the calls for each client of a row by itself.
func TestOneClientDoesNotUseUpARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := tabled(t, row("client.write, secret.stage", `"*"`, ""), row("token.get", `"*"`, ", limits: {client_concurrent: 2}"))
		for _, id := range []string{"one", "two"} {
			w.register(t, w.peer, id, anyScope)
		}
		w.upstream.Always(brokertest.Step{Delay: 3 * second})
		outcomes := hold(t, w, w.peer, "clients/one", 3)
		requireProblem(t, <-outcomes, codes.ResourceExhausted, broker.ReasonTooManyRequests)
		other := hold(t, w, w.peer, "clients/two", 2)
		for _, err := range []error{<-outcomes, <-outcomes, <-other, <-other} {
			must(t, err)
		}
	})
}

// TestStrangersDoNotFillTheDisk: beyond a rate the refusals of peers whom nobody knows
// are counted and not written.
func TestStrangersDoNotFillTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{access: tableOf(t, callersTable)}) // which does not list plaintext peers
		const calls = 5000
		for range calls {
			requireProblem(t, lookup(t, w.peer), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		}
		if got := len(w.audit.entries(t)); got != 1000 {
			t.Errorf("%d refusals at once left %d entries, want 1000", calls, got)
		}
		if got := len(w.logs.lines(t, "rpc")); got != 1000 {
			t.Errorf("%d refusals at once left %d log lines, want 1000", calls, got)
		}
		time.Sleep(second)
		requireProblem(t, lookup(t, w.peer), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		entries := w.audit.entries(t)
		if got := entries[len(entries)-1]["left_out"]; got != float64(calls-1000) {
			t.Errorf("the next entry says that %v were left out, want %d", got, calls-1000)
		}
	})
}

// TestStrangersDoNotFillTheLog where there is no audit log that would count them.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{access: tableOf(t, callersTable), unaudited: true})
		for range 1500 {
			requireProblem(t, lookup(t, w.peer), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		}
		if got := len(w.logs.lines(t, "rpc")); got != 1000 {
			t.Errorf("1500 refusals at once left %d log lines, want 1000", got)
		}
	})
}
