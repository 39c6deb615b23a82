package broker_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// served gets a token for acme's defaults and returns its value and warnings.
func (f *fixture) served(t *testing.T) (string, []broker.Reason) {
	t.Helper()
	token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	return token.Access.RevealString(), warningsOf(warnings)
}

// wantServed checks what is served for acme's defaults, and that nobody waits for it.
func (f *fixture) wantServed(t *testing.T, want string, wantWarnings ...broker.Reason) {
	t.Helper()
	start := time.Now()
	got, warnings := f.served(t)
	if got != want || !slices.Equal(warnings, wantWarnings) {
		t.Errorf("after %v: %q with %v, want %q with %v", time.Since(start), got, warnings, want, wantWarnings)
	}
	if waited := time.Since(start); waited != 0 {
		t.Errorf("waited %v for %q", waited, got)
	}
}

func rejected(reason broker.Reason) error { return &broker.Error{Reason: reason, Op: "request token"} }

func TestRefreshInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.SetLifetime(10 * time.Minute)
		time.Sleep(time.Until(f.token(t, "acme").RefreshAfter))
		f.wantServed(t, "token-1") // RefreshAfter itself is not after it
		synctest.Wait()
		if got, want := f.upstream.Count(), 1; got != want {
			t.Fatalf("%d requests at RefreshAfter, want %d", got, want)
		}

		f.upstream.Script(brokertest.Step{Delay: 3 * time.Second})
		time.Sleep(time.Second)
		for range 100 {
			f.wantServed(t, "token-1") // nobody waits
		}
		time.Sleep(2 * time.Second)
		f.wantServed(t, "token-1")
		time.Sleep(2 * time.Second)
		f.wantServed(t, "token-2")
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestAnIdleTokenIsNotRefreshed: nobody asks, so nothing is asked for.
func TestAnIdleTokenIsNotRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.token(t, "acme")
		time.Sleep(24 * time.Hour)
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests in a day, want %d", got, want)
		}
	})
}

// TestServingDuringARefreshIsCheap: a request to a server that hangs must not
// collect something for each caller that is served meanwhile.
func TestServingDuringARefreshIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{}, brokertest.Step{Delay: 5 * time.Second})
		f.token(t, "acme")
		time.Sleep(51 * time.Minute)
		f.token(t, "acme") // reads the record again
		synctest.Wait()
		query := broker.TokenQuery{ClientID: "acme"}
		got := testing.AllocsPerRun(1000, func() {
			if _, _, err := f.GetToken(t.Context(), query); err != nil {
				t.Errorf("GetToken: %v", err)
			}
		})
		if got > 0 {
			t.Errorf("%v allocations for each caller, want none", got)
		}
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestWhenRefreshingFails walks through the life of a token whose refresh fails:
// served with a warning until it expires, then an error, never an expired token.
func TestWhenRefreshingFails(t *testing.T) {
	for _, reason := range []broker.Reason{broker.ReasonClientRejected, broker.ReasonUpstreamUnavailable, broker.ReasonUpstreamRateLimited, broker.ReasonUpstreamTLS} {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.SetLifetime(10 * time.Minute)
				token := f.token(t, "acme")
				expire := token.ExpireTime
				f.upstream.Always(brokertest.Step{Err: rejected(reason)})
				time.Sleep(time.Until(token.RefreshAfter) + time.Second)
				if got, _ := f.served(t); got != "token-1" { // whether it fails is not known yet
					t.Errorf("served %q, want token-1", got)
				}
				time.Sleep(10 * time.Second)
				for time.Until(expire) > 30*time.Second {
					f.wantServed(t, "token-1", broker.ReasonRefreshFailing)
					time.Sleep(time.Second)
				}
				for time.Until(expire) > 2*time.Second { // the mandatory window: callers may wait now, but still get it
					got, warnings := f.served(t)
					if got != "token-1" || !slices.Contains(warnings, broker.ReasonRefreshFailing) {
						t.Fatalf("%v before it expires: %q with %v", time.Until(expire), got, warnings)
					}
					time.Sleep(time.Second)
				}
				time.Sleep(time.Until(expire))
				for range 60 {
					_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", MinValidity: in(0)})
					wantReason(t, "GetToken when it is expired", err, reason)
					time.Sleep(time.Second)
				}
				f.upstream.Always(brokertest.Step{})
				if reason == broker.ReasonClientRejected { // parked: somebody has to say that it was mended
					wantReason(t, "ResetUpstream", f.ResetUpstream(t.Context(), "acme"), "")
				}
				time.Sleep(time.Minute)
				f.wantServed(t, "token-2")
			})
		})
	}
}

// TestPatience: while the present token is valid, a caller waits for a new one
// only so long that it can still use the present one.
func TestPatience(t *testing.T) {
	tests := []struct {
		name     string
		left     time.Duration // of the present token's life; less than min_validity
		delay    time.Duration // of the server's answer
		deadline time.Duration // of the caller; 0 is none
		wait     time.Duration
		want     string
	}{
		{"quick answer", 9 * time.Second, time.Second, 0, time.Second, "token-2"},
		{"slow answer", 9 * time.Second, 4 * time.Second, 0, 2 * time.Second, "token-1"},
		{"quarter of the deadline", 9 * time.Second, 4 * time.Second, 4 * time.Second, time.Second, "token-1"},
		{"long deadline", 9 * time.Second, 4 * time.Second, time.Minute, 2 * time.Second, "token-1"},
		{"the present one expires while waiting", 1500 * time.Millisecond, 4 * time.Second, 0, 4 * time.Second, "token-2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.token(t, "acme")
				time.Sleep(time.Hour - test.left)
				f.upstream.Script(brokertest.Step{Delay: test.delay})
				ctx := t.Context()
				if test.deadline != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.deadline)
					defer cancel()
				}
				start := time.Now()
				token, warnings, err := f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
				if err != nil {
					t.Fatalf("GetToken: %v", err)
				}
				if got, waited := token.Access.RevealString(), time.Since(start); got != test.want || waited != test.wait {
					t.Errorf("%q after %v, want %q after %v", got, waited, test.want, test.wait)
				}
				if got, want := slices.Contains(warningsOf(warnings), broker.ReasonRefreshFailing), test.want == "token-1"; got != want {
					t.Errorf("warnings = %v, want REFRESH_FAILING: %t", warnings, want)
				}
				time.Sleep(3 * time.Second) // the request that nobody waits for goes on
				f.wantServed(t, "token-2")
			})
		})
	}
}

func TestStoreDownWithAWarmToken(t *testing.T) {
	for _, fault := range []brokertest.Fault{
		brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Fail(broker.ReasonStoreSealed), brokertest.Hang(),
	} {
		t.Run(fault.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.token(t, "acme")
				expire := time.Now().Add(time.Hour)
				f.store.Always(fault, brokertest.Any)
				for time.Until(expire) > 30*time.Second {
					f.wantServed(t, "token-1")
					time.Sleep(10 * time.Second)
				}
				if got, want := f.upstream.Count(), 1; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				// Nobody hammers a store that is down: the record is read again every 5 s,
				// and in the last fifth of the token's life a refresh is tried every 5 s.
				if got, most := f.store.Count(brokertest.Any), 600; got > most {
					t.Errorf("%d calls to the store in an hour, want at most %d", got, most)
				}
				time.Sleep(time.Minute)
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				if err == nil {
					t.Error("an expired token was served")
				}
				f.store.Heal()
				time.Sleep(time.Minute)
				f.wantServed(t, "token-2")
			})
		})
	}
}

// TestAFailingStoreIsNotHammered: callers of a warm token that is due for a
// refresh come much faster than a store that is down answers.
func TestAFailingStoreIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.token(t, "acme")
		time.Sleep(51 * time.Minute)
		f.store.Reset()
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		for range 10_000 {
			f.token(t, "acme")
			time.Sleep(time.Millisecond)
		}
		if got, most := f.store.Count(brokertest.Any), 6; got > most {
			t.Errorf("%d calls to the store in 10s, want at most %d", got, most)
		}
	})
}

// TestAColdTokenWithTheStoreDown: the cause is the store's, and its end is noticed at once.
func TestAColdTokenWithTheStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
		for _, b := range []*fixture{f, f.replica(t)} {
			b.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
			_, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonStoreSealed)
			b.store.Heal()
			b.token(t, "acme")
		}
	})
}
