package broker_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// transition is one arrow of docs/rotation.md.
type transition struct{ from, to broker.RotationState }

// drawn reads the transitions that docs/rotation.md draws.
func drawn(t *testing.T) []transition {
	t.Helper()
	page, err := os.ReadFile("../docs/rotation.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []transition
	for _, match := range regexp.MustCompile(`(?m)^    ([a-z_]+) --> ([a-z_]+)(?::|$)`).FindAllStringSubmatch(string(page), -1) {
		found = append(found, transition{broker.RotationState(match[1]), broker.RotationState(match[2])})
	}
	return found
}

// TestRotationStatesAreDrawn compares what docs/rotation.md draws with what holds.
func TestRotationStatesAreDrawn(t *testing.T) {
	arrows := drawn(t)
	for _, from := range broker.RotationStates() {
		for _, to := range broker.RotationStates() {
			if holds, drawn := from.MayBecome(to), slices.Contains(arrows, transition{from, to}); holds != drawn {
				t.Errorf("%s → %s: may happen %t, drawn %t", from, to, holds, drawn)
			}
		}
	}
	for _, a := range arrows {
		if states := broker.RotationStates(); !slices.Contains(states, a.from) || !slices.Contains(states, a.to) {
			t.Errorf("%s → %s is drawn and one of them is no state", a.from, a.to)
		}
	}
}

// walk leads a rotation along some arrows.
type walk struct {
	name string
	kind brokertest.ProviderKind
	edit func(*broker.NewClient)
	do   func(t *testing.T, p *process)
}

func kindOf(t *testing.T, name string) brokertest.ProviderKind {
	t.Helper()
	for _, k := range brokertest.ProviderKinds() {
		if k.Name == name {
			return k
		}
	}
	t.Fatalf("there is no kind %q", name)
	return brokertest.ProviderKind{}
}

// TestRotationWalksAllTransitions makes every transition happen, and looks at what is
// written: nothing else may.
func TestRotationWalksAllTransitions(t *testing.T) {
	seen := map[transition]string{}
	for _, walk := range walks(t) {
		t.Run(walk.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(walk.kind)
				p := w.process(t)
				p.createAcme(t, func(n *broker.NewClient) {
					if walk.edit != nil {
						walk.edit(n)
					}
				})
				p.run(t)
				walk.do(t, p)
				p.see(t, seen, walk.name)
				wantSound(t, w.memory, "acme")
			})
		})
	}
	for _, a := range drawn(t) {
		if _, ok := seen[a]; !ok {
			t.Errorf("%s → %s was never made", a.from, a.to)
		}
	}
	for a, name := range seen {
		if !a.from.MayBecome(a.to) {
			t.Errorf("%s: %s → %s was made", name, a.from, a.to)
		}
	}
}

// see notes the transitions that acme's rotation tells of itself.
func (p *process) see(t *testing.T, seen map[transition]string, name string) {
	t.Helper()
	r := p.rotation(t)
	for i := 1; i < len(r.Events); i++ {
		if from, to := r.Events[i-1].State, r.Events[i].State; from != to {
			seen[transition{from, to}] = name
		}
	}
}

// until waits for a state, as the journal has it.
func (p *process) until(t *testing.T, state broker.RotationState) {
	t.Helper()
	for range 40000 {
		if p.world.journal(t).State == state {
			synctest.Wait()
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("the rotation is %+v, want it %s", p.world.journal(t), state)
}

// rotate begins, or goes on with, a rotation by itself.
func (p *process) rotate(t *testing.T) {
	t.Helper()
	if _, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"}); err != nil {
		t.Fatalf("RotateSecret: %v", err)
	}
}

func (p *process) abort(t *testing.T) {
	t.Helper()
	if err := abortAcme(t.Context(), p); err != nil {
		t.Fatalf("AbortRotation: %v", err)
	}
}

// relabel changes a version's label in the client record, as a person does by hand.
func (p *process) relabel(t *testing.T, from, to string) {
	t.Helper()
	key := keyOfClient(t, p.memory, "acme")
	record := recordOf(t, p.memory, key)
	changed := strings.Replace(record, from, to, 1)
	if changed == record {
		t.Fatalf("%q is not in %s", from, record)
	}
	p.memory.Put(key, changed)
}

var refusedForGood = brokertest.ProviderStep{Err: rejected(broker.ReasonRotatorRefused)}

// walks lead along all arrows together.
func walks(t *testing.T) []walk {
	overlapping, activated, early := kindOf(t, "overlapping"), kindOf(t, "activated"), kindOf(t, "activated, works before")
	shown, told := kindOf(t, "replaced, shows"), kindOf(t, "replaced, tells")
	failing := brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)}
	timeout := rejected(broker.ReasonUpstreamTimeout)
	return []walk{
		{"from begin to end", overlapping, nil, func(t *testing.T, p *process) {
			p.rotate(t)
			p.until(t, broker.RotationCompleted)
		}},
		{"aborted while creating", overlapping, nil, func(t *testing.T, p *process) {
			abortWhile(overlapping).prepare(t, p)
			p.abort(t)
			p.until(t, broker.RotationAborted)
		}},
		{"aborted while creating, nothing was changed", shown, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Err: timeout})
			p.world.provider.Script(brokertest.ProviderRecover, brokertest.ProviderStep{Err: timeout})
			p.rotate(t)
			for p.world.journal(t).NextTime.IsZero() {
				time.Sleep(100 * time.Millisecond)
			}
			p.abort(t)
			p.until(t, broker.RotationAborted)
		}},
		{"lost and found", told, nil, func(t *testing.T, p *process) {
			p.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), func(c brokertest.Call) bool {
				return c.Op == brokertest.OpWrite && p.world.provider.Count(brokertest.ProviderCreate) > 0 && p.world.journal(t).State == broker.RotationCreating
			})
			p.rotate(t)
			synctest.Wait()
			other := p.world.process(t).run(t)
			other.until(t, broker.RotationFailed)
			p.store.Heal()
			time.Sleep(10 * time.Second)
			other.rotation(t) // finds it
			other.until(t, broker.RotationCompleted)
		}},
		{"the provider refuses to make one", overlapping, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderCreate, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			p.rotate(t)
			p.until(t, broker.RotationCompleted)
		}},
		{"the provider refuses to activate it at first", activated, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderActivate, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			p.rotate(t)
			p.until(t, broker.RotationCompleted)
		}},
		{"promoted unverified", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			if _, err := p.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true}); err != nil {
				t.Fatal(err)
			}
			if err := p.RetireSecret(t.Context(), "acme", 1); err != nil {
				t.Fatal(err)
			}
		}},
		{"abort what is staged", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			p.abort(t)
		}},
		{"retire what is staged", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil { // leaves a journal
				t.Fatal(err)
			}
			p.upstream.Withdraw(acmeID, "given")
			if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err == nil {
				t.Fatal("a withdrawn secret was verified")
			}
			if err := p.RetireSecret(t.Context(), "acme", 2); err != nil {
				t.Fatal(err)
			}
		}},
		{"refused while verifying", overlapping, nil, func(t *testing.T, p *process) {
			p.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
			p.rotate(t)
			p.until(t, broker.RotationFailed)
		}},
		{"forward", shown, nil, func(t *testing.T, p *process) {
			p.upstream.Script(brokertest.Step{}) // for the bridge
			p.upstream.Always(failing)
			p.rotate(t)
			p.until(t, broker.RotationVerifying)
			p.abort(t)
			p.until(t, broker.RotationPromoted)
			p.upstream.Always(brokertest.Step{})
		}},
		{"somebody takes the label while verifying", overlapping, nil, func(t *testing.T, p *process) {
			p.upstream.Always(failing)
			p.rotate(t)
			p.until(t, broker.RotationVerifying)
			p.relabel(t, `"stage":"pending",`, "")
			p.until(t, broker.RotationAborted)
		}},
		{"refused where only it is taken", shown, nil, func(t *testing.T, p *process) {
			p.upstream.Script(brokertest.Step{}, brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
			p.until(t, broker.RotationCompleted)
		}},
		{"verified twice and aborted", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			for range 2 {
				if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil {
					t.Fatal(err)
				}
			}
			p.abort(t)
		}},
		{"verified and retired", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
			if err := p.RetireSecret(t.Context(), "acme", 2); err != nil {
				t.Fatal(err)
			}
		}},
		{"the provider refuses to activate it in the end", early, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderActivate, refusedForGood, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			p.rotate(t) // and once more
			time.Sleep(time.Second)
			p.until(t, broker.RotationNeedsOperator)
			if _, err := p.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme"}); err != nil {
				t.Fatal(err)
			}
			p.until(t, broker.RotationCompleted)
		}},
		{"given up by hand where it waits", early, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderActivate, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			if err := p.RetireSecret(t.Context(), "acme", 2); err != nil {
				t.Fatal(err)
			}
		}},
		{"rolled back", overlapping, nil, func(t *testing.T, p *process) {
			p.rotate(t)
			p.until(t, broker.RotationPromoted)
			if _, err := p.RollbackSecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
		}},
		{"refused when it is current", overlapping, nil, func(t *testing.T, p *process) {
			p.rotate(t)
			p.until(t, broker.RotationPromoted)
			p.upstream.Withdraw(acmeID, p.world.provider.Secrets(acmeID)[1])
			if _, err := p.RevokeTokens(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
			p.token(t, "acme") // with the previous one
			p.until(t, broker.RotationNeedsOperator)
			if _, err := p.RollbackSecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
		}},
		{"the provider refuses to end the replaced one", overlapping, nil, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderRevoke, refusedForGood, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationNeedsOperator)
			p.rotate(t)
			time.Sleep(time.Second)
			p.until(t, broker.RotationNeedsOperator)
			if err := p.RetireSecret(t.Context(), "acme", 1); err != nil {
				t.Fatal(err)
			}
		}},
		{"rolled back as it is retired", overlapping, nil, func(t *testing.T, p *process) {
			other := p.world.process(t)
			p.store.Once(brokertest.Before(func(brokertest.Call) {
				if _, err := other.RollbackSecret(p.ctx, "acme", 0); err != nil {
					t.Errorf("RollbackSecret: %v", err)
				}
			}), func(c brokertest.Call) bool {
				return c.Op == brokertest.OpWrite && strings.HasPrefix(c.Key, "clients/") && p.world.journal(t).State == broker.RotationRetiring
			})
			p.rotate(t)
			p.until(t, broker.RotationRolledBack)
		}},
		{"promoted as it is aborted", byHand, withoutRotator, func(t *testing.T, p *process) {
			p.stage(t, "acme", "given")
			other, promoted := p.world.process(t), make(chan struct{})
			p.store.Once(brokertest.Before(func(brokertest.Call) { <-promoted }), brokertest.On(brokertest.OpWrite, "clients/"))
			aborted := make(chan error, 1)
			other.store.Once(brokertest.Before(func(brokertest.Call) {
				go func() { aborted <- abortAcme(p.ctx, p) }()
				synctest.Wait()
			}), brokertest.On(brokertest.OpWrite, "clients/"))
			if _, err := other.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true}); err != nil {
				t.Fatal(err)
			}
			close(promoted)
			wantReason(t, "AbortRotation", <-aborted, "")
			time.Sleep(time.Minute)
			if r := p.rotation(t); r.State != broker.RotationPromoted {
				t.Errorf("rotation is %+v, want it promoted", r)
			}
		}},
		{"the provider refuses to end the new one", overlapping, nil, func(t *testing.T, p *process) {
			p.upstream.Always(failing)
			p.world.provider.Script(brokertest.ProviderRevoke, refusedForGood)
			p.rotate(t)
			p.until(t, broker.RotationVerifying)
			p.abort(t)
			p.until(t, broker.RotationNeedsOperator)
			p.abort(t)
			p.until(t, broker.RotationAborted)
		}},
	}
}
