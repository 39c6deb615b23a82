package broker_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// faultFlow is an operation that must survive any fault of the store at any call.
type faultFlow struct {
	name    string
	prepare func(t *testing.T, f *fixture)
	do      func(ctx context.Context, f *fixture) error
	// want checks what must be true once the operation has been repeated.
	want func(t *testing.T, f *fixture)
	// wantStages are the stages then; several if a value that was left behind keeps
	// its number, none if that is not all that varies.
	wantStages []string
}

var faultFlows = []faultFlow{
	{
		name:    "make the store one's own",
		prepare: func(*testing.T, *fixture) {},
		do:      func(ctx context.Context, f *fixture) error { return f.Ready(ctx) },
		want:    func(t *testing.T, f *fixture) { f.create(t, "acme") },
	},
	{
		name:    "CreateClient",
		prepare: func(*testing.T, *fixture) {},
		do: func(ctx context.Context, f *fixture) error {
			n := newClient("acme")
			n.RequestID = "r"
			_, err := f.CreateClient(ctx, n)
			return err
		},
		want:       func(t *testing.T, f *fixture) { f.wantTokenWith(t, password) },
		wantStages: []string{"1 current"},
	},
	{
		name:    "UpdateClient with secret",
		prepare: func(t *testing.T, f *fixture) { f.create(t, "acme") },
		do: func(ctx context.Context, f *fixture) error {
			_, err := f.UpdateClient(ctx, broker.ClientUpdate{ID: "acme", Secret: input("updated-secret"), Edit: func(c *broker.Client) {
				c.Upstream.TokenEndpoint = "https://new.example/token"
			}})
			return err
		},
		// It has no request_id, so that each repetition adds a version.
		want: func(t *testing.T, f *fixture) { f.wantTokenWith(t, "updated-secret") },
	},
	{
		name:    "UpdateClient of labels",
		prepare: func(t *testing.T, f *fixture) { f.create(t, "acme") },
		do: func(ctx context.Context, f *fixture) error {
			_, err := f.UpdateClient(ctx, broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }})
			return err
		},
		want:       func(t *testing.T, f *fixture) { f.wantTokenWith(t, password) },
		wantStages: []string{"1 current"},
	},
	{
		name:    "SetDisabled",
		prepare: func(t *testing.T, f *fixture) { f.create(t, "acme") },
		do: func(ctx context.Context, f *fixture) error {
			_, err := f.SetDisabled(ctx, "acme", true)
			return err
		},
		want: func(t *testing.T, f *fixture) {
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
		},
		wantStages: []string{"1 current"},
	},
	{
		name:    "StageSecret",
		prepare: func(t *testing.T, f *fixture) { f.create(t, "acme") },
		do: func(ctx context.Context, f *fixture) error {
			_, err := f.StageSecret(ctx, "acme", input("next-secret"), "r")
			return err
		},
		want: func(t *testing.T, f *fixture) {
			f.wantTokenWith(t, password)
			f.promote(t, "acme")
		},
		wantStages: []string{"1 previous, 2 current", "1 previous, 3 current"},
	},
	{
		name: "VerifySecret",
		prepare: func(t *testing.T, f *fixture) {
			f.create(t, "acme")
			f.stage(t, "acme", "next-secret")
		},
		do: func(ctx context.Context, f *fixture) error {
			_, _, err := f.VerifySecret(ctx, "acme", 2)
			return err
		},
		want: func(t *testing.T, f *fixture) {
			if _, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: 2}); err != nil {
				t.Errorf("PromoteSecret of what was verified: %v", err)
			}
		},
		wantStages: []string{"1 previous, 2 current"},
	},
	{
		name: "PromoteSecret",
		prepare: func(t *testing.T, f *fixture) {
			f.create(t, "acme")
			f.stage(t, "acme", "next-secret")
		},
		do: func(ctx context.Context, f *fixture) error {
			_, err := f.PromoteSecret(ctx, broker.Promotion{ClientID: "acme", Number: 2, AllowUnverified: true, DropTokens: true})
			return err
		},
		want:       func(t *testing.T, f *fixture) { f.wantTokenWith(t, "next-secret") },
		wantStages: []string{"1 previous, 2 current"},
	},
	{
		name: "RetireSecret",
		prepare: func(t *testing.T, f *fixture) {
			f.create(t, "acme")
			f.stage(t, "acme", "next-secret")
			f.promote(t, "acme")
		},
		do: func(ctx context.Context, f *fixture) error { return f.RetireSecret(ctx, "acme", 1) },
		want: func(t *testing.T, f *fixture) {
			f.wantTokenWith(t, "next-secret")
			if got := f.memory.Contains(password); len(got) != 0 {
				t.Errorf("the retired value is still at %q", got)
			}
		},
		wantStages: []string{"2 current"},
	},
	{
		name:    "GetToken",
		prepare: func(t *testing.T, f *fixture) { f.create(t, "acme") },
		do: func(ctx context.Context, f *fixture) error {
			_, _, err := f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
			return err
		},
		want:       func(t *testing.T, f *fixture) { f.wantTokenWith(t, password) },
		wantStages: []string{"1 current"},
	},
}

// wantTokenWith gets a token for acme and checks the secret that it was got with.
func (f *fixture) wantTokenWith(t *testing.T, want string) {
	t.Helper()
	f.token(t, "acme")
	requests := f.upstream.Requests()
	if got := requests[len(requests)-1].Secret.RevealString(); got != want {
		t.Errorf("the token was got with %q, want %q", got, want)
	}
}

// TestEachFault has each call of each flow to the store fail, lose its answer
// before and after it took effect, and kill the process before and after. Then
// another process finds a sound store, and repeating the request ends the work.
func TestEachFault(t *testing.T) {
	total := 0
	for _, flow := range faultFlows {
		t.Run(flow.name, func(t *testing.T) {
			faults := 0
			var memory *brokertest.Memory
			brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
				memory = brokertest.NewMemory()
				return memory
			}, func(t *testing.T, run *brokertest.Run) {
				if !run.Clean() {
					faults++
				}
				synctest.Test(t, func(t *testing.T) { surviveFault(t, flow, memory, run) })
			})
			t.Logf("%d faults", faults)
			total += faults
		})
	}
	t.Logf("%d faults in all", total)
}

// processes returns what makes Brokers that share a store and an authorization
// server which knows all secrets of the flows.
func processes(t *testing.T, memory *brokertest.Memory) func(*brokertest.Faulty) *fixture {
	upstream := brokertest.NewUpstream()
	for _, s := range []string{password, "next-secret", "updated-secret"} {
		upstream.Register("client-id-of-acme", s)
	}
	return func(store *brokertest.Faulty) *fixture { return open(t, memory, store, upstream, nil) }
}

func surviveFault(t *testing.T, flow faultFlow, memory *brokertest.Memory, run *brokertest.Run) {
	process := processes(t, memory)
	flow.prepare(t, process(run.Store))
	dying := process(run.Store)
	run.Start()
	err := flow.do(t.Context(), dying)
	run.Stop()
	// What is told of it is the store's, and a write whose answer was lost is found again.
	allowed := []broker.Reason{"", broker.ReasonStoreUnreachable, broker.ReasonStoreAnswerLost}
	if lost := strings.HasPrefix(run.Fault.Name, "lost") && run.Target.Op == brokertest.OpWrite; run.Clean() || lost {
		allowed = []broker.Reason{""}
	}
	if !slices.Contains(allowed, broker.ReasonOf(err)) {
		t.Errorf("%s: %v, want one of %q", flow.name, err, allowed)
	}
	wantSound(t, memory, "acme")
	if err != nil && !run.Fault.Dead {
		if err := flow.do(t.Context(), dying); err != nil {
			t.Errorf("%s again in the same process: %v", flow.name, err)
		}
		wantSound(t, memory, "acme")
	}
	wantRepeatable(t, flow, process(brokertest.NewFaulty(memory)))
}

// wantRepeatable repeats a flow in a new process, and looks at what came of it.
func wantRepeatable(t *testing.T, flow faultFlow, next *fixture) {
	t.Helper()
	err := flow.do(t.Context(), next)
	if broker.ReasonOf(err) == broker.ReasonRotationUnderWay { // a replica that died has its lease still
		time.Sleep(broker.AsError(err).RetryAfter)
		err = flow.do(t.Context(), next)
	}
	if err != nil {
		t.Errorf("%s again: %v", flow.name, err)
	}
	wantSound(t, next.memory, "acme")
	flow.want(t, next)
	wantSound(t, next.memory, "acme")
	if got := stages(next.get(t, "acme")); len(flow.wantStages) > 0 && !slices.Contains(flow.wantStages, got) {
		t.Errorf("stages = %q, want one of %q", got, flow.wantStages)
	}
}

// TestAnOutcomeThatCannotBeFoundOut: the answer of a write is lost after it took
// effect, and so is the read that would tell. The process lives on.
func TestAnOutcomeThatCannotBeFoundOut(t *testing.T) {
	for _, flow := range faultFlows {
		t.Run(flow.name, func(t *testing.T) {
			for n, writes := 1, true; writes; n++ {
				synctest.Test(t, func(t *testing.T) { writes = loseOutcome(t, flow, n) })
			}
		})
	}
}

// loseOutcome is one run in which what became of the nth write cannot be found out;
// it reports whether there was one.
func loseOutcome(t *testing.T, flow faultFlow, n int) bool {
	memory := brokertest.NewMemory()
	process := processes(t, memory)
	store := brokertest.NewFaulty(memory)
	f := process(store)
	flow.prepare(t, f)
	store.Reset()
	nth := 0 // of the writes
	var struck brokertest.Call
	store.Once(brokertest.LoseAfter(), func(c brokertest.Call) bool {
		if c.Op == brokertest.OpWrite {
			nth++
		}
		if c.Op == brokertest.OpWrite && nth == n {
			struck = c
		}
		return c.Op == brokertest.OpWrite && nth == n
	})
	// The read that would tell, and no other of that time, as that of the secret while the lease is written.
	store.Once(brokertest.Fail(broker.ReasonStoreUnreachable), func(c brokertest.Call) bool {
		return nth == n && c.Op == brokertest.OpRead && c.Key == struck.Key
	})
	err := flow.do(t.Context(), f)
	if nth < n {
		wantReason(t, flow.name+" without a fault", err, "")
		return false
	}
	want := broker.ReasonStoreAnswerLost
	if err == nil && struck.Op != "" && !strings.HasPrefix(struck.Key, "clients/") && !strings.HasPrefix(struck.Key, "secrets/") && struck.Key != "meta" {
		// A lease is looked for again, a token need not be shared to be served, and what
		// a journal says can be told from the client record.
		want = ""
	}
	wantReason(t, flow.name, err, want)
	wantSound(t, memory, "acme")
	store.Heal()
	wantRepeatable(t, flow, f)
	return true
}

// TestAStoreThatIsMadeByTwo: replicas that start at one moment on an empty store
// share one meta record, whichever call of one the other comes between.
func TestAStoreThatIsMadeByTwo(t *testing.T) {
	for n := 1; n <= 3; n++ {
		f := newFixture(t)
		other := f.replica(t)
		f.store.Once(brokertest.Before(func(brokertest.Call) { other.create(t, "acme") }), brokertest.Nth(n))
		if err := f.Ready(t.Context()); err != nil {
			t.Errorf("another replica came before call %d: Ready: %v", n, err)
			continue
		}
		f.wantTokenWith(t, password)
		f.create(t, "another")
		other.token(t, "another")
	}
}
