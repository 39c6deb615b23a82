package broker_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestASecretIsRetiredWhileATokenIsRequested: the record that was read names a secret
// that is no more, and another one by now.
func TestASecretIsRetiredWhileATokenIsRequested(t *testing.T) {
	f := newFixture(t)
	other := f.replica(t)
	f.create(t, "acme")
	f.stage(t, "acme", "next-secret")
	f.store.Once(brokertest.Before(func(brokertest.Call) {
		other.promote(t, "acme")
		wantReason(t, "RetireSecret", other.RetireSecret(t.Context(), "acme", 1), "")
	}), brokertest.On(brokertest.OpRead, "secrets/"))
	if got := f.token(t, "acme"); got.SecretVersion != 2 {
		t.Errorf("a token of version %d, want 2", got.SecretVersion)
	}
}

func TestStageIsIdempotent(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	first, err := f.StageSecret(t.Context(), "acme", input("next-secret"), "r1")
	wantReason(t, "StageSecret", err, "")
	before := content(t, f.memory)
	again, err := f.StageSecret(t.Context(), "acme", input("next-secret"), "r1")
	wantReason(t, "StageSecret again", err, "")
	if again.Number != first.Number || content(t, f.memory) != before {
		t.Errorf("the repetition staged %+v, want %+v and nothing written", again, first)
	}
	other, err := f.StageSecret(t.Context(), "acme", input("another-secret"), "r2")
	wantReason(t, "StageSecret of another request", err, "")
	if other.Number != 3 {
		t.Errorf("another request staged %+v, want version 3", other)
	}
	// Also when the version has moved on since.
	f.upstream.Register("client-id-of-acme", "another-secret")
	f.promote(t, "acme")
	for requestID, want := range map[string]string{"r1": "2 ", "r2": "3 current"} {
		v, err := f.StageSecret(t.Context(), "acme", input("ignored-secret"), requestID)
		if got := fmt.Sprintf("%d %s", v.Number, v.Stage); err != nil || got != want {
			t.Errorf("repetition of %s = %q, %v, want %q", requestID, got, err, want)
		}
	}
}

// TestStageAtOnce has callers on two replicas stage different secrets at the same
// moment, so that each has read the record before another one commits.
func TestStageAtOnce(t *testing.T) {
	for _, where := range []struct {
		name  string
		match brokertest.Match
	}{
		{"values written one after the other", brokertest.On(brokertest.OpWrite, "clients/")},
		{"values written at once", brokertest.On(brokertest.OpWrite, "secrets/")},
	} {
		t.Run(where.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				replicas := []*fixture{f, f.replica(t)}
				for _, r := range replicas {
					r.store.Always(brokertest.Delay(time.Second), where.match)
				}
				const callers = 10
				staged, errs := make([]broker.SecretVersion, callers), make([]error, callers)
				var group sync.WaitGroup
				for i := range callers {
					group.Go(func() {
						staged[i], errs[i] = replicas[i%2].StageSecret(t.Context(), "acme", input(fmt.Sprint("secret-of-caller-", i)), "")
					})
				}
				group.Wait()

				outcomes := map[broker.Reason]int{}
				winner := -1
				for i, err := range errs {
					outcomes[broker.ReasonOf(err)]++
					if err == nil {
						winner = i
					}
				}
				if want := (map[broker.Reason]int{"": 1, broker.ReasonConcurrentChange: callers - 1}); !maps.Equal(outcomes, want) {
					t.Fatalf("outcomes = %v, want %v", outcomes, want)
				}
				c := f.get(t, "acme")
				pending, ok := c.Staged(broker.Pending)
				if !ok || pending.Number != staged[winner].Number || len(c.Secrets) != 2 {
					t.Errorf("stages = %q, want the winner's version %d pending", stages(c), staged[winner].Number)
				}
				for i := range callers {
					if got := f.memory.Contains(fmt.Sprint("secret-of-caller-", i)); (len(got) == 1) != (i == winner) {
						t.Errorf("value of caller %d is at %q; winner: %t", i, got, i == winner)
					}
				}
				wantSound(t, f.memory, "acme")
				for _, r := range replicas {
					r.store.Heal()
				}
				f.stage(t, "acme", "and-a-next-one") // numbers that losers used are passed over
				wantSound(t, f.memory, "acme")
			})
		})
	}
}

// TestManyTurmoils has several do all that changes secrets, as fast as they can,
// on two replicas; whatever comes of it, the invariants hold.
func TestTurmoil(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	replicas := []*fixture{f, f.replica(t)}
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			r := replicas[i%2]
			ctx := t.Context()
			for j := range 30 {
				_, err := r.StageSecret(ctx, "acme", input(fmt.Sprintf("secret-%d-%d", i, j)), "")
				wantRetryable(t, err)
				_, err = r.PromoteSecret(ctx, broker.Promotion{ClientID: "acme", AllowUnverified: true})
				wantRetryable(t, err)
				c, err := r.GetClient(ctx, "acme")
				if err != nil {
					t.Errorf("GetClient: %v", err)
					return
				}
				for _, v := range c.Secrets {
					if v.Stage != broker.Current && (int(v.Number)+i)%2 == 0 {
						wantRetryable(t, r.RetireSecret(ctx, "acme", v.Number))
					}
				}
				_, err = r.UpdateClient(ctx, broker.ClientUpdate{ID: "acme", Secret: input(fmt.Sprintf("updated-%d-%d", i, j)), Edit: func(*broker.Client) {}})
				wantRetryable(t, err)
			}
		})
	}
	group.Wait()
	wantSound(t, f.memory, "acme")
	c := f.get(t, "acme")
	// A retirement that lost its last write leaves a version that is destroying,
	// whose value may be gone already.
	named, destroying := 0, map[string]bool{}
	for _, v := range c.Secrets {
		if destroying[fmt.Sprintf("secrets/acme/%s-%d", c.UID, v.Number)] = v.Destroying; !v.Destroying {
			named++
		}
	}
	values := slices.DeleteFunc(keysUnder(f.memory, "secrets/acme/"), func(key string) bool {
		_, err := f.memory.Read(t.Context(), key)
		return err != nil || destroying[key]
	})
	if len(values) != named {
		t.Errorf("%d values for %d versions %q: losers left some behind", len(values), named, stages(c))
	}
	if _, ok := c.Staged(broker.Current); !ok {
		t.Errorf("no current version: %q", stages(c))
	}
}

// wantRetryable accepts what two who work at the same moment may do to each other.
func wantRetryable(t *testing.T, err error) {
	t.Helper()
	switch broker.ReasonOf(err) {
	case "", broker.ReasonConcurrentChange, broker.ReasonSecretWrongStage, broker.ReasonTooManySecretVersions, broker.ReasonDestinationNotBound:
	default:
		t.Errorf("unexpected: %v", err)
	}
}

// TestALostRaceDestroysOnlyItsOwn: an operation that staged nothing destroys
// nothing, also when the record that won does not name what it read: a backup was
// restored, and somebody may still go back to the other state.
func TestALostRaceDestroysOnlyItsOwn(t *testing.T) {
	operations := map[string]func(*testing.T, *fixture) error{
		"promote": func(t *testing.T, f *fixture) error {
			_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
			return err
		},
		"disable": func(t *testing.T, f *fixture) error {
			_, err := f.SetDisabled(t.Context(), "acme", true)
			return err
		},
		"verify": func(t *testing.T, f *fixture) error {
			_, _, err := f.VerifySecret(t.Context(), "acme", 0)
			return err
		},
		"update": func(t *testing.T, f *fixture) error {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }})
			return err
		},
	}
	for name, do := range operations {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			key := keyUnder(t, f.memory, "clients/")
			backup := recordOf(t, f.memory, key)
			f.stage(t, "acme", "next-secret")
			f.store.Once(brokertest.Before(func(brokertest.Call) { f.memory.Put(key, backup) }), brokertest.On(brokertest.OpWrite, "clients/"))
			wantReason(t, name, do(t, f), broker.ReasonConcurrentChange)
			if got := f.memory.Contains("next-secret"); len(got) != 1 {
				t.Errorf("the value of version 2 is at %q, want it kept", got)
			}
		})
	}
}

// TestNumbersAreNeverUsedTwice: what a crash left at the next numbers is passed over.
func TestNumbersAreNeverUsedTwice(t *testing.T) {
	f := newFixture(t)
	c := f.create(t, "acme")
	for n := 2; n <= 17; n++ {
		f.memory.Put(fmt.Sprintf("secrets/acme/%s-%d", c.UID, n), `{"left":"behind"}`)
	}
	_, err := f.StageSecret(t.Context(), "acme", input("next-secret"), "")
	wantReason(t, "StageSecret with 16 numbers taken", err, broker.ReasonConcurrentChange)
	if want := "numbers 2 to 17 are taken"; !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
	f.memory.Remove(fmt.Sprintf("secrets/acme/%s-17", c.UID), broker.AbsentNeverExisted)
	if got, want := f.stage(t, "acme", "next-secret").Number, int64(17); got != want {
		t.Errorf("Number = %d, want %d", got, want)
	}
	if got := f.memory.Contains("behind"); len(got) != 15 {
		t.Errorf("%d of the values that nothing names are left, want all 15", len(got))
	}
}

// TestAChangeDoesNotEndWithItsCaller: a caller that leaves in the middle of a write
// leaves either all of it or nothing behind, and not half of a decision.
func TestAChangeDoesNotEndWithItsCaller(t *testing.T) {
	operations := map[string]func(context.Context, *fixture) error{
		"create": func(ctx context.Context, f *fixture) error {
			_, err := f.CreateClient(ctx, newClient("acme"))
			return err
		},
		"stage": func(ctx context.Context, f *fixture) error {
			_, err := f.StageSecret(ctx, "staged", input("next-secret"), "")
			return err
		},
		"disable": func(ctx context.Context, f *fixture) error {
			_, err := f.SetDisabled(ctx, "disabled", true)
			return err
		},
	}
	for name, do := range operations {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "staged")
			f.create(t, "disabled")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f.store.Once(brokertest.Before(func(brokertest.Call) { cancel() }), brokertest.On(brokertest.OpWrite, "clients/"))
			wantReason(t, name, do(ctx, f), "")
			for _, id := range []string{"acme", "staged", "disabled"} {
				wantSound(t, f.memory, id)
			}
		})
	}
}

// TestAJournalNewerThanTheRecord: between the read of the client record and that of its
// journal another replica promotes. The two together look like a rollback that never
// was.
func TestAJournalNewerThanTheRecord(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	f.stage(t, "acme", "next-secret")
	other := f.replica(t)
	f.store.Once(brokertest.Before(func(brokertest.Call) { other.promote(t, "acme") }), brokertest.On(brokertest.OpRead, "rotations/"))
	for i, replica := range []*fixture{f, other} { // the one that is overtaken first
		r, err := replica.GetRotation(t.Context(), "acme")
		if err != nil || r.State != broker.RotationPromoted {
			t.Errorf("replica %d: rotation %+v, %v; want it promoted", i, r, err)
		}
	}
}
