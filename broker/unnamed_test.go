package broker_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// orphan is a value that a crash left.
func (f *fixture) orphan(uid string, number int, text string, created time.Time) string {
	key := fmt.Sprintf("secrets/acme/%s-%d", uid, number)
	since := ""
	if !created.IsZero() {
		since = fmt.Sprintf(`,"create_time":%q`, created.Format(time.RFC3339))
	}
	f.memory.Put(key, fmt.Sprintf(`{"schema":1,"uid":%q,"write_id":"w","number":%d,"value":%q%s}`, uid, number, text, since))
	return key
}

// TestValuesThatNothingNames are destroyed after a day, and nothing else is.
func TestValuesThatNothingNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		c := f.create(t, "acme")
		f.stage(t, "acme", "next-secret")
		time.Sleep(100 * day)
		f.orphan(c.UID, 3, "left-old", time.Now().Add(-25*time.Hour))
		f.orphan(c.UID, 7, "left-old-and-far", time.Now().Add(-25*time.Hour))
		f.orphan(c.UID, 4, "left-young", time.Now().Add(-23*time.Hour))
		f.orphan(c.UID, 5, "left-undated", time.Time{})
		f.orphan("predecessor", 1, "left-by-predecessor", time.Now().Add(-25*time.Hour))
		f.memory.Put("secrets/acme/by-hand", `{"value":"left-by-hand"}`)
		f.memory.Put("secrets/acme/"+c.UID+"-06", `{"value":"left-oddly"}`)
		look := func() {
			t.Helper()
			wantReason(t, "LookAfter", f.LookAfter(t.Context(), "acme"), "")
			wantSoundBut(t, f)
		}
		wantLeft := func(want ...string) {
			t.Helper()
			for _, text := range []string{password, "next-secret", "left-old", "left-young", "left-undated", "left-by-predecessor", "left-by-hand", "left-oddly"} {
				there := len(f.memory.Contains(`"`+text+`"`)) > 0
				wanted := false
				for _, w := range want {
					wanted = wanted || w == text
				}
				if there != wanted {
					t.Errorf("%s is there: %t, want %t", text, there, wanted)
				}
			}
		}
		look()
		wantLeft(password, "next-secret", "left-young", "left-undated", "left-by-hand", "left-oddly")
		if got := f.get(t, "acme").NextVersion; got != 8 {
			t.Errorf("NextVersion = %d, want it above what was destroyed", got)
		}
		if got := f.SecretValuesSwept(); got != 3 {
			t.Errorf("SecretValuesSwept = %d, want 3", got)
		}
		time.Sleep(2 * time.Hour)
		look()
		wantLeft(password, "next-secret", "left-undated", "left-by-hand", "left-oddly")
		time.Sleep(23 * time.Hour)
		look()
		wantLeft(password, "next-secret", "left-by-hand", "left-oddly")
		f.promote(t, "acme")
		f.wantTokenWith(t, "next-secret")

		before := content(t, f.memory)
		f.store.Reset()
		look()
		if content(t, f.memory) != before {
			t.Error("a visit that finds nothing writes something")
		}
		named := map[string]bool{} // the check of its lookup reads those
		for _, v := range f.get(t, "acme").Secrets {
			named[fmt.Sprintf("secrets/acme/%s-%d", c.UID, v.Number)] = true
		}
		again := func(call brokertest.Call) bool {
			return call.Op == brokertest.OpRead && strings.HasPrefix(call.Key, "secrets/acme/"+c.UID) && !named[call.Key]
		}
		if got := f.store.Count(again); got != 0 {
			t.Errorf("%d values were read again that are destroyed", got)
		}
	})
}

// wantSoundBut is wantSound without what the test itself has put there.
func wantSoundBut(t *testing.T, f *fixture) {
	t.Helper()
	alone := f.memory.Clone()
	for _, key := range alone.Keys() {
		if strings.HasSuffix(key, "by-hand") || strings.HasSuffix(key, "-06") {
			alone.Remove(key, broker.AbsentDestroyed)
		}
	}
	wantSound(t, alone, "acme")
}

// TestTheSweeperAndALateCommit: a writer is frozen for days between its value and its
// record. Whatever the sweeper's calls meet, either the writer commits and its value is
// whole, or its value is gone and it cannot commit.
func TestTheSweeperAndALateCommit(t *testing.T) {
	for _, created := range []bool{false, true} {
		t.Run(fmt.Sprint("of CreateClient ", created), func(t *testing.T) {
			var memory *brokertest.Memory
			brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
				memory = brokertest.NewMemory()
				return memory
			}, func(t *testing.T, run *brokertest.Run) {
				synctest.Test(t, func(t *testing.T) { sweepAgainstLateCommit(t, memory, run, created) })
			})
		})
	}
}

func sweepAgainstLateCommit(t *testing.T, memory *brokertest.Memory, run *brokertest.Run, created bool) {
	process := processes(t, memory)
	writer := process(brokertest.NewFaulty(memory))
	maker := process(brokertest.NewFaulty(memory))
	if !created {
		maker.create(t, "acme")
	}
	frozen, thaw, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	writer.store.Once(brokertest.After(func(brokertest.Call) { close(frozen); <-thaw }), brokertest.On(brokertest.OpWrite, "secrets/"))
	go func() {
		var err error
		if created {
			n := newClient("acme")
			n.Secret = input("late-secret")
			_, err = writer.CreateClient(context.Background(), n)
		} else {
			_, err = writer.StageSecret(context.Background(), "acme", input("late-secret"), "late")
		}
		done <- err
	}()
	<-frozen
	if created { // somebody else takes the name meanwhile
		maker.create(t, "acme")
	}
	sweeper := process(run.Store)
	time.Sleep(3 * day)
	run.Start()
	swept := sweeper.LookAfter(t.Context(), "acme")
	run.Stop()
	if run.Clean() {
		wantReason(t, "LookAfter", swept, "")
	}
	close(thaw)
	err := <-done
	wantSound(t, memory, "acme")
	there := len(memory.Contains("late-secret")) > 0
	switch {
	case run.Clean() && there:
		t.Error("the value was not swept")
	case err == nil && !there:
		t.Error("what was committed has no value")
	case err != nil && there && run.Clean():
		t.Errorf("the value of a write that failed is there: %v", err)
	case err != nil && broker.ReasonOf(err) != broker.ReasonConcurrentChange && broker.ReasonOf(err) != broker.ReasonClientAlreadyExists:
		t.Errorf("the late writer: %v", err)
	}
	next := process(brokertest.NewFaulty(memory))
	time.Sleep(2 * day)
	wantReason(t, "LookAfter", next.LookAfter(t.Context(), "acme"), "")
	if c := next.get(t, "acme"); len(c.Secrets) == 1 && len(memory.Contains("late-secret")) > 0 {
		t.Error("a value that nothing names stays for ever")
	}
	next.wantTokenWith(t, password)
	wantSound(t, memory, "acme")
}

// TestTheSweeperLosesARace: the writer commits between the sweeper's look and its write.
func TestTheSweeperLosesARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		sweeper := f.replica(t)
		c := f.create(t, "acme")
		time.Sleep(3 * day)
		f.orphan(c.UID, 2, "left-old", time.Now().Add(-30*time.Hour))
		sweeper.store.Once(brokertest.Before(func(brokertest.Call) {
			_, err := f.StageSecret(context.Background(), "acme", input("next-secret"), "")
			if err != nil {
				t.Error(err)
			}
		}), brokertest.On(brokertest.OpWrite, "clients/"))
		wantReason(t, "LookAfter", sweeper.LookAfter(t.Context(), "acme"), "")
		if got := sweeper.store.Count(brokertest.On(brokertest.OpDestroy, "")); got != 0 {
			t.Errorf("%d values destroyed although the record was written meanwhile", got)
		}
		wantSound(t, f.memory, "acme")
		if got, want := stages(f.get(t, "acme")), "1 current, 3 pending"; got != want {
			t.Errorf("stages = %q, want %q", got, want)
		}
		wantReason(t, "LookAfter", sweeper.LookAfter(t.Context(), "acme"), "")
		if len(f.memory.Contains("left-old")) > 0 {
			t.Error("the next visit does not sweep either")
		}
		wantSound(t, f.memory, "acme")
	})
}

// TestTheSweeperSparesWhatARotationHasMade and not yet named.
func TestTheSweeperSparesWhatARotationHasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
		slow := &choosy{almanac: newAlmanac(upstream)}
		f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) { cfg.Rotators = map[string]broker.Rotator{"almanac": slow} })
		f.run(t)
		f.create(t, "acme", rotatedEvery(300*day))
		if _, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(51 * time.Hour) // the provider refused it for good: it waits for a person
		if r, err := f.GetRotation(t.Context(), "acme"); err != nil || r.State != broker.RotationNeedsOperator {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := f.SecretValuesSwept(); got != 0 {
			t.Errorf("%d values swept", got)
		}
		slow.takes.Store(true)
		if _, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if got := f.get(t, "acme").Secrets; len(got) != 1 || got[0].Number != 2 {
			t.Errorf("stages = %q, want version 2, made days ago, current", stages(f.get(t, "acme")))
		}
	})
}

// choosy is a provider that takes secrets which the broker chose, once it does.
type choosy struct {
	*almanac
	takes atomic.Bool
}

func (c *choosy) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{Shape: broker.ShapeOverlapping, TakesChosen: true}
}

func (c *choosy) Create(_ context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	if !c.takes.Load() {
		return broker.CreatedSecret{}, &broker.Error{Reason: broker.ReasonRotatorRefused, Op: "create"}
	}
	c.upstream.Register(call.ClientID, call.New.RevealString())
	return broker.CreatedSecret{}, nil
}
