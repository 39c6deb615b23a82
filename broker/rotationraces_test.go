package broker_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// end waits until acme's rotation is over, whoever goes on with it.
func (p *process) end(t *testing.T) *broker.Rotation {
	t.Helper()
	for range 2000 {
		r := p.rotation(t)
		if r.State.Over() || r.State == broker.RotationNeedsOperator {
			synctest.Wait()
			return r
		}
		time.Sleep(5 * time.Second)
	}
	t.Fatalf("the rotation does not end: %+v", p.rotation(t))
	return nil
}

// TestTwoRotationsAtOnce on two replicas: one of them runs, and the provider is asked
// for one secret.
func TestTwoRotationsAtOnce(t *testing.T) {
	for n := 1; n <= 7; n++ { // the other one comes before the nth call of the first
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(kindOf(t, "overlapping"))
			p, other := w.process(t), w.process(t)
			p.createAcme(t)
			p.run(t)
			other.run(t)
			synctest.Wait()
			p.store.Reset()
			var otherErr error
			p.store.Once(brokertest.Before(func(brokertest.Call) {
				_, otherErr = other.RotateSecret(p.ctx, broker.RotationRequest{ClientID: "acme", RequestID: "other"})
			}), brokertest.Nth(n))
			_, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "one"})
			if (err == nil) == (otherErr == nil) {
				t.Errorf("before call %d: %v and %v, want one of them to begin", n, err, otherErr)
			}
			for _, err := range []error{err, otherErr} {
				if r := broker.ReasonOf(err); r != "" && r != broker.ReasonConcurrentChange && r != underWay {
					t.Errorf("before call %d: %v", n, err)
				}
			}
			if r := p.end(t); r.State != broker.RotationCompleted {
				t.Errorf("before call %d: %+v, want it completed", n, r)
			}
			if got := w.provider.Count(brokertest.ProviderCreate); got != 1 {
				t.Errorf("before call %d: the provider made %d secrets, want 1", n, got)
			}
			w.wantWorking(t)
			w.wantTidy(t)
		})
	}
}

// TestAFrozenHolderWakesUp: before each write that it makes a process stands still for
// longer than its lease, while another one goes on with the rotation.
func TestAFrozenHolderWakesUp(t *testing.T) {
	for _, kind := range brokertest.ProviderKinds() {
		t.Run(kind.Name, func(t *testing.T) {
			for n, more := 1, true; more; n++ {
				synctest.Test(t, func(t *testing.T) { more = freeze(t, kind, n) })
			}
		})
	}
}

// freeze stops a process before its nth write, and reports whether there was one.
func freeze(t *testing.T, kind brokertest.ProviderKind, n int) bool {
	w := newWorld(kind)
	p := w.process(t)
	p.createAcme(t)
	p.rotate(t)
	nth, frozen := 0, false
	p.store.Once(brokertest.Before(func(brokertest.Call) { time.Sleep(3 * time.Minute) }), func(c brokertest.Call) bool {
		if c.Op == brokertest.OpWrite {
			nth++
		}
		frozen = frozen || nth == n
		return nth == n
	})
	other := w.process(t).run(t)
	time.Sleep(10 * time.Minute)
	r := other.end(t)
	if lost := kind.Name == "replaced, tells" && r.Reason == broker.ReasonUpstreamSecretLost; r.State != broker.RotationCompleted && !lost {
		t.Errorf("write %d: the rotation is %s (%s): %+v", n, r.State, r.Reason, r.Events)
	}
	if r.State == broker.RotationFailed {
		mendLost(t, w, other)
		return frozen
	}
	w.wantWorking(t)
	return frozen
}

// clientChanges are what somebody does to a client in the middle of its rotation.
var clientChanges = []struct {
	name string
	do   func(p *process) error
	// undo makes the client usable again.
	undo func(p *process) error
}{
	{"labels", func(p *process) error {
		_, err := p.UpdateClient(p.ctx, broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }})
		return err
	}, func(*process) error { return nil }},
	{"disabled", func(p *process) error {
		_, err := p.SetDisabled(p.ctx, "acme", true)
		return err
	}, func(p *process) error {
		_, err := p.SetDisabled(p.ctx, "acme", false)
		return err
	}},
	{"deleted", func(p *process) error {
		_, err := p.DeleteClient(p.ctx, "acme", "")
		return err
	}, func(p *process) error {
		_, err := p.UndeleteClient(p.ctx, "acme")
		return err
	}},
}

// TestAClientIsChangedWhileItRotates does so before each call of the rotation, and takes
// it back later.
func TestAClientIsChangedWhileItRotates(t *testing.T) {
	for _, kind := range brokertest.ProviderKinds() {
		for _, change := range clientChanges {
			t.Run(kind.Name+": "+change.name, func(t *testing.T) {
				pace := 1
				if testing.Short() || raced {
					pace = 7
				}
				for n, more := 1, true; more; n += pace {
					synctest.Test(t, func(t *testing.T) { more = changeBefore(t, kind, change.do, change.undo, n) })
				}
			})
		}
	}
}

func changeBefore(t *testing.T, kind brokertest.ProviderKind, change, undo func(*process) error, n int) bool {
	w := newWorld(kind)
	p, other := w.process(t), w.process(t)
	p.createAcme(t)
	p.rotate(t)
	changed := false
	p.store.Reset()
	p.store.Once(brokertest.Before(func(brokertest.Call) {
		changed = true
		err := change(other)
		for try := 0; broker.ReasonOf(err) == broker.ReasonConcurrentChange && try < 5; try++ {
			err = change(other)
		}
		if err != nil {
			t.Errorf("change before call %d: %v", n, err)
		}
	}), brokertest.Nth(n))
	p.run(t)
	time.Sleep(3 * time.Minute)
	p.store.Heal() // a change that comes only now would never be undone
	if err := undo(other); err != nil && broker.ReasonOf(err) != broker.ReasonClientNotDeleted {
		t.Errorf("undo: %v", err)
	}
	r := p.end(t)
	if r.State == broker.RotationNeedsOperator { // it was away for too long
		p.rotate(t)
		r = p.end(t)
	}
	if r.State != broker.RotationCompleted {
		t.Errorf("call %d: the rotation is %s (%s %s): %+v", n, r.State, r.Reason, r.Detail, r.Events)
	}
	w.wantWorking(t)
	w.wantTidy(t)
	return changed && n < 60
}

// TestAbortWhileTheProviderIsAsked: Create is in flight, and succeeds after all.
func TestAbortWhileTheProviderIsAsked(t *testing.T) {
	for _, kind := range brokertest.ProviderKinds() {
		t.Run(kind.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(kind)
				p, other := w.process(t), w.process(t)
				p.createAcme(t)
				p.run(t)
				other.run(t)
				w.provider.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Delay: 5 * time.Second, Acts: true})
				p.rotate(t)
				synctest.Wait()
				other.abort(t)
				want := broker.RotationAborted
				if kind.Traits.Shape == broker.ShapeReplaced { // the present secret has ended: only forward
					want = broker.RotationCompleted
				}
				if r := other.end(t); r.State != want {
					t.Errorf("the rotation is %s (%s): %+v, want it %s", r.State, r.Reason, r.Events, want)
				}
				w.wantWorking(t)
				w.wantTidy(t)
			})
		})
	}
}

// TestRecordsAreChangedByHand in the middle of a rotation.
func TestRecordsAreChangedByHand(t *testing.T) {
	journal := func(t *testing.T, p *process) string { return keyUnder(t, p.memory, "rotations/") }
	tests := []struct {
		name string
		do   func(t *testing.T, p *process)
		want broker.RotationState
	}{
		{"the list is gone", func(_ *testing.T, p *process) {
			p.memory.Remove("active-rotations", broker.AbsentNeverExisted)
		}, broker.RotationCompleted},
		{"the list is damaged", func(_ *testing.T, p *process) {
			p.memory.Put("active-rotations", `{"schema":1,"uid":"x","write_id":"y","rotations":"none"}`)
		}, broker.RotationCompleted},
		{"the journal is gone", func(t *testing.T, p *process) {
			p.memory.Remove(journal(t, p), broker.AbsentNeverExisted)
			wantReason(t, "GetRotation", func() error { _, err := p.GetRotation(t.Context(), "acme"); return err }(), "")
			p.abort(t)
		}, broker.RotationAborted},
		{"the journal is damaged", func(t *testing.T, p *process) {
			p.memory.Put(journal(t, p), `{"schema":1}`)
			_, err := p.GetRotation(t.Context(), "acme")
			wantReason(t, "GetRotation", err, broker.ReasonRecordFieldMissing)
			p.abort(t)
		}, broker.RotationAborted},
		{"the label is gone", func(t *testing.T, p *process) { p.relabel(t, `"stage":"pending",`, "") }, broker.RotationAborted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(kindOf(t, "overlapping"))
				dead := w.process(t)
				dead.createAcme(t)
				w.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)})
				dead.rotate(t)
				dead.until(t, broker.RotationVerifying)
				dead.line.kill()
				dead.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
				w.upstream.Always(brokertest.Step{})
				time.Sleep(time.Minute)
				next := w.process(t)
				test.do(t, next)
				next.run(t)
				if r := next.end(t); r.State != test.want {
					t.Errorf("the rotation is %s (%s): %+v, want it %s", r.State, r.Reason, r.Events, test.want)
				}
				w.wantWorking(t)
			})
		})
	}
}

// TestAJournalOfANewerRelease is left alone, by an abort too.
func TestAJournalOfANewerRelease(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.stage(t, "acme", "next")
	if _, _, err := f.VerifySecret(t.Context(), "acme", 0); err != nil {
		t.Fatal(err)
	}
	key := keyUnder(t, f.memory, "rotations/")
	newer := strings.Replace(recordOf(t, f.memory, key), `"schema":1`, `"schema":2`, 1)
	f.memory.Put(key, newer)
	for name, err := range map[string]error{
		"AbortRotation": func() error { _, err := f.AbortRotation(t.Context(), "acme", ""); return err }(),
		"PromoteSecret": func() error {
			_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme"})
			return err
		}(),
	} {
		wantReason(t, name, err, broker.ReasonRecordSchemaNewer)
	}
	if got := recordOf(t, f.memory, key); got != newer {
		t.Errorf("the journal is %s", got)
	}
	f.token(t, "acme")
}

// TestOneRotationOfAnAccountAtATime: those that share a provider account take turns
// until each is promoted.
func TestOneRotationOfAnAccountAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(kindOf(t, "overlapping"))
		p := w.process(t)
		var mu sync.Mutex
		var order []string
		ids := []string{"acme", "beta", "gamma"}
		for _, id := range ids {
			n := newClient(id)
			n.Rotation = broker.RotationSettings{Rotator: "fake", Account: "tenant", Overlap: time.Hour}
			if _, err := p.CreateClient(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			w.provider.SetByHand("client-id-of-"+id, password)
		}
		p.run(t)
		busy := ""
		p.store.Always(brokertest.After(func(c brokertest.Call) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				r, ok := w.journalOf(id)
				if !ok {
					continue
				}
				begun := len(w.provider.Secrets("client-id-of-"+id)) > 1
				switch {
				case begun && !r.State.Over() && r.PromoteTime.IsZero() && busy == "":
					busy = id
					order = append(order, id)
				case begun && !r.State.Over() && r.PromoteTime.IsZero() && busy != id:
					t.Errorf("%s is rotated while %s is", id, busy)
				case busy == id && !r.PromoteTime.IsZero():
					busy = ""
				}
			}
		}), brokertest.On(brokertest.OpWrite, "rotations/"))
		for _, id := range ids {
			if _, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: id}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		for _, id := range ids {
			r, err := p.GetRotation(t.Context(), id)
			if err != nil || r.State != broker.RotationPromoted {
				t.Errorf("%s: %+v, %v, want it promoted", id, r, err)
			}
		}
		if len(order) != len(ids) {
			t.Errorf("they began in the order %q", order)
		}
	})
}

// TestAnOutcomeThatTheProviderCannotTell needs a person, who is told so by everything that
// would make matters worse, and has looked there when aborting.
func TestAnOutcomeThatTheProviderCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(brokertest.ProviderKind{Name: "replaced", Traits: broker.RotatorTraits{Shape: broker.ShapeReplaced}})
		p := w.process(t)
		p.createAcme(t)
		p.run(t)
		w.provider.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Err: rejected(broker.ReasonUpstreamTimeout)})
		p.rotate(t)
		if r := p.end(t); r.State != broker.RotationNeedsOperator || r.Reason != broker.ReasonRotatorOutcomeUnknown || !r.Stuck(time.Now()) {
			t.Errorf("the rotation is %+v", r)
		}
		_, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "another"})
		wantReason(t, "RotateSecret", err, wrong)
		p.abort(t)
		if r := p.end(t); r.State != broker.RotationAborted || r.Reason != broker.ReasonRotatorOutcomeUnknown {
			t.Errorf("the rotation is %+v", r)
		}
		w.wantWorking(t)
	})
}
