package broker_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestAYearOfSchedules: three replicas, whose clocks lie 10 min apart, look after a
// client once an hour each, at any minute. One rotation begins for each due date.
func TestAYearOfSchedules(t *testing.T) {
	tests := []struct {
		s broker.RotationSettings
		// least rotations in a year.
		least int
	}{
		{broker.RotationSettings{Every: 30 * day}, 11},
		{broker.RotationSettings{Every: 7 * day, Windows: []broker.RotationWindow{{Begin: "22:00", End: "02:00"}}}, 42},
		{broker.RotationSettings{Every: 36 * time.Hour, Windows: []broker.RotationWindow{{Days: []string{"sat", "sun"}, Begin: "21:30", End: "03:00"}}}, 50},
		{broker.RotationSettings{Every: 20 * time.Hour, Windows: []broker.RotationWindow{{Days: []string{"mon", "wed"}, Begin: "00:00", End: "06:00"}, {Begin: "12:00", End: "15:00"}}}, 300},
	}
	for i, test := range tests {
		t.Run(fmt.Sprint(test.s.Every, " ", test.s.Windows), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y, days, least := newYear(t, test.s, uint64(i)), 365, test.least
				if raced {
					days, least = 36, test.least/10-1
				}
				for range days * 24 {
					y.hour(t)
				}
				if y.rotations < least {
					t.Errorf("%d rotations in %d days, want %d at least", y.rotations, days, least)
				}
				y.f.wantTokenWith(t, fmt.Sprintf("made-by-the-provider-%d", y.rotations))
				wantSound(t, y.f.memory, "acme")
			})
		})
	}
}

// year is a client in the care of three replicas.
type year struct {
	replicas  []*fixture
	f         *fixture // the one whose clock is right
	provider  *almanac
	random    *rand.Rand
	rotations int
	// due is when the next rotation is to begin.
	due time.Time
}

func newYear(t *testing.T, s broker.RotationSettings, seed uint64) *year {
	t.Helper()
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	upstream.SetLifetime(time.Minute)
	y := &year{provider: newAlmanac(upstream), random: rand.New(rand.NewPCG(seed, 7))}
	for _, ahead := range []time.Duration{-5 * time.Minute, 5 * time.Minute, 0} {
		y.f = open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) {
			cfg.Store, cfg.Rotators = late{memory, ahead}, map[string]broker.Rotator{"almanac": y.provider}
		})
		y.replicas = append(y.replicas, y.f)
	}
	c := y.f.create(t, "acme", rotatedEvery(s.Every, s.Windows...), func(n *broker.NewClient) { n.Rotation.Overlap = time.Second })
	y.due = c.NextRotation(time.Now())
	return y
}

// hour lets each replica look after the client once, and checks what came of it.
func (y *year) hour(t *testing.T) {
	t.Helper()
	end := time.Now().Add(time.Hour)
	for i, n := range y.random.Perm(len(y.replicas)) {
		time.Sleep(time.Duration(y.random.Int64N(int64(15 * time.Minute))))
		if i == 1 && y.random.IntN(2) == 0 { // two at the same moment
			n = 0
			go func() { _ = y.replicas[1].LookAfter(t.Context(), "acme") }()
		}
		wantReason(t, "LookAfter", y.replicas[n].LookAfter(t.Context(), "acme"), "")
		time.Sleep(2 * time.Minute) // what has begun ends
		y.check(t)
	}
	time.Sleep(time.Until(end))
}

// check allows for clocks, and for an hour until one of them looks: a window may close
// before that, and the next one is taken.
func (y *year) check(t *testing.T) {
	t.Helper()
	const slack = 10 * time.Minute
	made := y.provider.all()
	if len(made) == y.rotations {
		return
	}
	if len(made) != y.rotations+1 {
		t.Fatalf("%d rotations began at once, the last ones at %v", len(made)-y.rotations, made[y.rotations:])
	}
	at := made[y.rotations]
	y.rotations++
	y.finish(t)
	c := y.f.get(t, "acme")
	if late := at.Sub(y.due); late < -slack {
		t.Errorf("one began at %v, %v before it was due", at, -late)
	} else if late > time.Hour+slack {
		// The same schedule, asked from when somebody must have looked.
		next := &broker.Client{UID: c.UID, Rotation: c.Rotation, Secrets: []broker.SecretVersion{{Number: 1, Stage: broker.Current, CreateTime: y.due.Add(-1000 * day)}}}
		if from := next.NextRotation(y.due.Add(time.Hour + slack)); at.After(from.Add(time.Hour + slack)) {
			t.Errorf("one began at %v, which was due at %v and could have begun at %v", at, y.due, from)
		}
	}
	y.due = c.NextRotation(at)
}

// finish has the rotation gone on with: nothing does so by itself where Run does not run.
func (y *year) finish(t *testing.T) {
	t.Helper()
	for range 10 {
		r, err := y.f.GetRotation(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		if r.State.Over() {
			return
		}
		if _, err := y.f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: r.RequestID}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
	}
	t.Fatal("a rotation does not end")
}

// TestTwoRotationsThatBeginAtOnce: a replica has read that none is under way when another
// one begins one, and even gets its secret made. The first one does not write over that.
func TestTwoRotationsThatBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, provider := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		var replicas []*fixture
		for range 2 {
			replicas = append(replicas, open(t, memory, brokertest.NewFaulty(memory), provider.upstream, func(cfg *broker.Config) {
				cfg.Rotators = map[string]broker.Rotator{"almanac": provider}
			}))
		}
		f, other := replicas[0], replicas[1]
		f.create(t, "acme", rotatedEvery(day))
		f.store.Once(brokertest.Before(func(brokertest.Call) {
			if _, err := other.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"}); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
		}), brokertest.On(brokertest.OpWrite, "active-rotations"))
		_, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"})
		wantReason(t, "RotateSecret", err, broker.ReasonConcurrentChange)
		time.Sleep(time.Minute)
		if got := len(provider.all()); got != 1 {
			t.Errorf("%d secrets were made, want one", got)
		}
		if got, want := stages(f.get(t, "acme")), "1 previous, 2 current"; got != want {
			t.Errorf("stages = %q, want %q", got, want)
		}
	})
}

// TestAScheduledRotationSurvivesEachFault: whatever call to the store fails, is lost, or
// is the last one of the replica that begins it, one secret is made and becomes current.
func TestAScheduledRotationSurvivesEachFault(t *testing.T) {
	var memory *brokertest.Memory
	brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
		memory = brokertest.NewMemory()
		return memory
	}, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			provider := newAlmanac(brokertest.NewUpstream())
			process := func(store *brokertest.Faulty) *fixture {
				return open(t, memory, store, provider.upstream, func(cfg *broker.Config) {
					cfg.Rotators = map[string]broker.Rotator{"almanac": provider}
				})
			}
			dying := process(run.Store)
			dying.create(t, "acme", rotatedEvery(30*day))
			time.Sleep(33 * day)
			run.Start()
			err := dying.LookAfter(t.Context(), "acme")
			time.Sleep(10 * time.Second) // as far as it gets by itself
			run.Stop()
			if run.Clean() {
				wantReason(t, "LookAfter", err, "")
			}
			dying.Close()
			wantSound(t, memory, "acme")
			next := process(brokertest.NewFaulty(memory))
			next.run(t)
			time.Sleep(5 * time.Hour)
			if got := len(provider.all()); got != 1 {
				t.Errorf("%d secrets were made, want one", got)
			}
			if got := stages(next.get(t, "acme")); got != "2 current" && got != "3 current" { // a value may have kept its number
				t.Errorf("stages = %q, want the new one current and no other", got)
			}
			if r, err := next.GetRotation(t.Context(), "acme"); err != nil || r.State != broker.RotationCompleted || !r.Scheduled {
				t.Errorf("the rotation is %+v, %v", r, err)
			}
			next.wantTokenWith(t, "made-by-the-provider-1")
			wantSound(t, memory, "acme")
		})
	})
}
