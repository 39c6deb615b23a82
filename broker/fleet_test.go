package broker_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// fleet returns n replicas on one store.
func fleet(t *testing.T, n int) []*fixture {
	t.Helper()
	replicas := []*fixture{newFixture(t)}
	for len(replicas) < n {
		replicas = append(replicas, replicas[0].replica(t))
	}
	return replicas
}

// TestOneRequestForTheFleet: a thousand callers on each of three replicas want one
// cold token.
func TestOneRequestForTheFleet(t *testing.T) {
	for _, delay := range []time.Duration{0, 300 * time.Millisecond, 7 * time.Second} {
		t.Run(delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := fleet(t, 3)
				f := replicas[0]
				f.create(t, "acme")
				f.upstream.Always(brokertest.Step{Delay: delay})
				start := time.Now()
				var group sync.WaitGroup
				for i := range 3000 {
					group.Go(func() {
						if got := replicas[i%3].token(t, "acme").Access.RevealString(); got != "token-1" {
							t.Errorf("replica %d: %s", i%3, got)
						}
					})
				}
				group.Wait()
				if got, want := f.upstream.Count(), 1; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				if took, most := time.Since(start), delay+550*time.Millisecond; took > most {
					t.Errorf("the last caller waited %v, want at most %v", took, most)
				}
				if got := f.memory.Contains("token-1"); len(got) != 0 {
					t.Errorf("the token stands in %q for all to read", got)
				}
			})
		})
	}
}

// TestTheCostOfAColdToken in calls to the store. The secret is read while the lease is
// written, so either may come first.
func TestTheCostOfAColdToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		wantReason(t, "Ready", f.Ready(t.Context()), "")
		b := f.replica(t)
		wantReason(t, "Ready", b.Ready(t.Context()), "")
		b.store.Reset()
		b.token(t, "acme")
		var got []string
		for _, c := range b.store.Calls() {
			got = append(got, string(c.Op)+" "+c.Key[:strings.Index(c.Key, "/")])
		}
		if len(got) == 5 {
			slices.Sort(got[2:4])
		}
		if want := []string{"read clients", "read tokens", "read secrets", "write tokens", "write tokens"}; !slices.Equal(got, want) {
			t.Errorf("calls %q, want %q, the third and fourth in either order", got, want)
		}
	})
}

// TestARestartFindsItsTokens, and tells the same about them.
func TestARestartFindsItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = []string{} }})
		before, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, "")
		f.Close()
		time.Sleep(20 * time.Minute)
		after, again, err := f.replica(t).GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, "")
		if !after.Access.Equal(before.Access) || after.ID != before.ID || !after.ExpireTime.Equal(before.ExpireTime) || !after.IssueTime.Equal(before.IssueTime) ||
			after.Type != before.Type || after.SecretVersion != before.SecretVersion || after.ExpirySource != before.ExpirySource || !slices.Equal(after.Scopes, before.Scopes) ||
			!slices.Equal(again, warnings) {
			t.Errorf("after the restart %+v with %v, before it %+v with %v", after, again, before, warnings)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		time.Sleep(40 * time.Minute)
		if got := f.replica(t).token(t, "acme"); got.ID == before.ID {
			t.Error("an expired token was found and served")
		}
	})
}

// TestAHolderThatDies at any of its calls: another replica has a token as soon as the
// lease is over, with no more than one further request.
func TestAHolderThatDies(t *testing.T) {
	var memory *brokertest.Memory
	opened := func(*testing.T) broker.Store { memory = brokertest.NewMemory(); return memory }
	brokertest.EachFaultOn(t, opened, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			upstream := brokertest.NewUpstream()
			other := open(t, memory, brokertest.NewFaulty(memory), upstream, nil)
			other.create(t, "acme")
			dying := open(t, memory, run.Store, upstream, nil)
			wantReason(t, "Ready", dying.Ready(t.Context()), "")
			run.Start()
			_, _, _ = dying.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			run.Stop()
			start := time.Now()
			other.token(t, "acme")
			if took, most := time.Since(start), 26*time.Second; took > most {
				t.Errorf("the other replica had to wait %v, want at most %v", took, most)
			}
			if got, most := upstream.Count(), 2; got > most {
				t.Errorf("%d requests, want at most %d", got, most)
			}
			if run.Clean() && upstream.Count() != 1 {
				t.Errorf("%d requests without a fault", upstream.Count())
			}
		})
	})
}

// TestALateHolder: a write that comes after the lease is over changes nothing, and
// its replica serves what the fleet has, also if it never hears what became of it or
// has no token of its own.
func TestALateHolder(t *testing.T) {
	refused, unheard := brokertest.Delay(12*time.Second), brokertest.Delay(12*time.Second)
	unheard.After = brokertest.Hang().After
	tests := []struct {
		name  string
		fault brokertest.Fault
		hangs int // of its three requests
	}{
		{"its token is refused", refused, 2},
		{"it never hears of its token", unheard, 2},
		{"its failure is refused", refused, 3},
		{"it never hears of its failure", unheard, 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { lateHolder(t, test.fault, test.hangs) })
		})
	}
}

func lateHolder(t *testing.T, onLastWrite brokertest.Fault, hangs int) {
	replicas := fleet(t, 2)
	late, other := replicas[0], replicas[1]
	late.create(t, "acme")
	late.upstream.Script(slices.Repeat([]brokertest.Step{{Delay: time.Hour}}, hangs)...) // a token comes after 16 to 19 s
	writes := 0
	late.store.Once(onLastWrite, func(c brokertest.Call) bool {
		if brokertest.On(brokertest.OpWrite, "tokens/")(c) {
			writes++
		}
		return writes == 2
	})
	done := make(chan *broker.Token)
	go func() { done <- late.token(t, "acme") }()
	time.Sleep(time.Second)
	start := time.Now()
	theirs := other.token(t, "acme")
	if took := time.Since(start); took < 23*time.Second || took > 26*time.Second {
		t.Errorf("the other replica took over after %v, want 25s", took)
	}
	if ours := <-done; ours.ID != theirs.ID || late.token(t, "acme").ID != theirs.ID {
		t.Errorf("the late replica serves %s, want the fleet's %s", ours.ID, theirs.ID)
	}
	if got := other.replica(t).token(t, "acme"); got.ID != theirs.ID {
		t.Errorf("the store has %s, want %s", got.ID, theirs.ID)
	}
	if got, want := late.upstream.Count(), 4; got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
}

// TestAHangingServerAndALease: the holder gives up before its lease is over, and
// says so, so that nobody waits for the rest.
func TestAHangingServerAndALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := fleet(t, 2)
		replicas[0].create(t, "acme")
		replicas[0].upstream.Always(brokertest.Step{Delay: time.Hour})
		start := time.Now()
		var group sync.WaitGroup
		for _, b := range replicas {
			group.Go(func() { wantReason(t, "GetToken", b.ask(t), broker.ReasonUpstreamTimeout) })
		}
		group.Wait()
		if took, most := time.Since(start), 23*time.Second; took > most {
			t.Errorf("took %v, want at most %v", took, most)
		}
		if got, most := replicas[0].upstream.Count(), 3; got > most {
			t.Errorf("%d requests, want those of one mint: at most %d", got, most)
		}
	})
}

// TestAFailureIsKnownToTheFleet: a replica does not ask what another just asked in vain.
func TestAFailureIsKnownToTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := fleet(t, 5)
		f := replicas[0]
		f.create(t, "acme")
		f.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamRateLimited, RetryAfter: 20 * time.Second}})
		for range 20 {
			for _, b := range replicas {
				err := b.ask(t)
				wantReason(t, "GetToken", err, broker.ReasonUpstreamRateLimited)
				if wait := broker.AsError(err).RetryAfter; wait <= 0 || wait > 20*time.Second {
					t.Errorf("RetryAfter = %v", wait)
				}
			}
			time.Sleep(time.Second)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		f.upstream.Always(brokertest.Step{})
		time.Sleep(time.Second)
		for _, b := range replicas {
			wantReason(t, "GetToken", b.ask(t), "")
		}
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestARejectedTokenInTheFleet: one report to each replica, one refresh.
func TestARejectedTokenInTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := fleet(t, 3)
		replicas[0].create(t, "acme")
		var dead *broker.Token
		for _, b := range replicas {
			dead = b.token(t, "acme")
		}
		time.Sleep(time.Minute)
		var group sync.WaitGroup
		for i := range 300 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if token, _ := replicas[i%3].report(t, dead.ID); token.ID == dead.ID {
					t.Errorf("replica %d serves the dead token", i%3)
				}
			})
		}
		group.Wait()
		if got, want := replicas[0].upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestSharingCanBeTurnedOff for a replica and for a client.
func TestSharingCanBeTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.create(t, "alone", func(n *broker.NewClient) { n.TokenPolicy.Unshared = true })
		unshared := open(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, func(cfg *broker.Config) { cfg.Unshared = true })
		for _, b := range []*fixture{f, unshared} {
			b.token(t, "alone")
		}
		unshared.token(t, "acme")
		if got := keysUnder(f.memory, "tokens/"); len(got) != 0 {
			t.Errorf("tokens in the store: %q", got)
		}
		f.token(t, "acme")
		if got, want := f.upstream.Count(), 4; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "alone", Edit: func(c *broker.Client) {
			c.Upstream.IssueBudget = broker.IssueBudget{Tokens: 1, Period: time.Hour}
		}})
		wantReason(t, "a budget and no sharing", err, broker.ReasonInvalidRequest)
	})
}

// TestALaggingStore: reads that are half a second old make nobody ask twice, nor spin.
func TestALaggingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, upstream := brokertest.NewLagging(500*time.Millisecond), brokertest.NewUpstream()
		var replicas []*fixture
		for range 3 {
			replicas = append(replicas, open(t, store.Memory, brokertest.NewFaulty(store), upstream, nil))
		}
		replicas[0].create(t, "acme")
		time.Sleep(time.Second)
		for round := range 3 {
			upstream.Always(brokertest.Step{Delay: time.Duration(round) * 400 * time.Millisecond})
			var group sync.WaitGroup
			for i, b := range replicas {
				b.store.Reset()
				group.Go(func() {
					time.Sleep(time.Duration(i*round) * 100 * time.Millisecond)
					b.token(t, "acme")
				})
			}
			group.Wait()
			if got, want := upstream.Count(), round+1; got != want {
				t.Errorf("%d requests, want %d", got, want)
			}
			for i, b := range replicas {
				if got, most := b.store.Count(brokertest.Any), 20; got > most {
					t.Errorf("replica %d: %d calls to the store, want at most %d", i, got, most)
				}
			}
			time.Sleep(2 * time.Hour)
		}
	})
}

// TestALeaseWithoutAClock: who waits for a lease counts from when it saw it first,
// across the callers that give up meanwhile.
func TestALeaseWithoutAClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := fleet(t, 2)
		dead, other := replicas[0], replicas[1]
		dead.create(t, "acme")
		wantReason(t, "Ready", dead.Ready(t.Context()), "")
		dead.store.Once(brokertest.CrashAfter(), brokertest.On(brokertest.OpWrite, "tokens/"))
		_ = dead.ask(t)
		time.Sleep(time.Hour)
		start := time.Now()
		other.token(t, "acme")
		if took, want := time.Since(start), 25*time.Second; took < want || took > want+time.Second {
			t.Errorf("took over after %v, want %v after it saw the lease", took, want)
		}
		if got, want := other.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}
