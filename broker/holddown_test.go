package broker_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// since returns when requests arrived, counted from start.
func since(start time.Time, requests []brokertest.Request) []time.Duration {
	var times []time.Duration
	for _, r := range requests {
		times = append(times, r.Time.Sub(start))
	}
	return times
}

// transientReasons may be gone the next moment: three tries.
var transientReasons = []broker.Reason{
	broker.ReasonUpstreamDNS, broker.ReasonUpstreamConnect, broker.ReasonUpstreamProxy,
	broker.ReasonUpstreamTimeout, broker.ReasonUpstreamUnavailable, broker.ReasonUpstreamMalformed,
}

// finalReasons are answers: one try.
var finalReasons = []broker.Reason{
	broker.ReasonClientRejected, broker.ReasonGrantRejected, broker.ReasonGrantTypeRejected, broker.ReasonScopeRejected,
	broker.ReasonTargetRejected, broker.ReasonRequestRejected, broker.ReasonTokenTypeUnsupported, broker.ReasonUpstreamRateLimited,
	broker.ReasonUpstreamRefused, broker.ReasonUpstreamRedirected, broker.ReasonUpstreamTLS, broker.ReasonUpstreamAddressRefused,
	broker.ReasonSecretUnusable, broker.ReasonInternal,
}

func TestRetries(t *testing.T) {
	try := func(reason broker.Reason) (int, time.Duration) {
		var count int
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.upstream.Always(brokertest.Step{Err: rejected(reason)})
			start := time.Now()
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, reason)
			count, took = f.upstream.Count(), time.Since(start)
		})
		return count, took
	}
	for _, reason := range transientReasons {
		got, took := try(reason)
		if want := 3; got != want {
			t.Errorf("%s: %d requests, want %d", reason, got, want)
		}
		if most := 2800 * time.Millisecond; took > most || took == 0 {
			t.Errorf("%s: took %v, want some time up to %v", reason, took, most)
		}
	}
	for _, reason := range finalReasons {
		if got, took := try(reason); got != 1 || took != 0 {
			t.Errorf("%s: %d requests in %v, want one at once", reason, got, took)
		}
	}
}

// TestRetriesHaveJitter: replicas that fail together do not come back together.
func TestRetriesHaveJitter(t *testing.T) {
	waits := map[time.Duration]bool{}
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonUpstreamConnect)})
			start := time.Now()
			f.token(t, "acme") // the second try succeeds
			waits[time.Since(start)] = true
		})
	}
	if got := len(waits); got < 5 {
		t.Errorf("%d different waits of 10: %v", got, waits)
	}
}

func TestRetryAfterWithinARequest(t *testing.T) {
	tests := []struct {
		name       string
		retryAfter time.Duration
		requests   int
	}{
		{"short: waited for", 1500 * time.Millisecond, 3},
		{"long: left to the hold-down", 3 * time.Second, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable, RetryAfter: test.retryAfter}})
				start := time.Now()
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken", err, broker.ReasonUpstreamUnavailable)
				times := since(start, f.upstream.Requests())
				if got := len(times); got != test.requests {
					t.Errorf("%d requests, want %d", got, test.requests)
				}
				for i := 1; i < len(times); i++ {
					if got := times[i] - times[i-1]; got < test.retryAfter {
						t.Errorf("request %d came %v after the last one, sooner than %v", i+1, got, test.retryAfter)
					}
				}
			})
		})
	}
}

// TestAHangingServer: each attempt and the whole have an end.
func TestAHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Always(brokertest.Step{Delay: time.Hour})
		start := time.Now()
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonUpstreamTimeout)
		if got, most := time.Since(start), 20*time.Second; got > most {
			t.Errorf("took %v, want at most %v", got, most)
		}
		if got := since(start, f.upstream.Requests()); len(got) < 2 || got[1] < 8*time.Second || got[1] > 9*time.Second {
			t.Errorf("requests at %v, want the second one after 8s and a pause", got)
		}
	})
}

func TestHoldDown(t *testing.T) {
	tests := []struct {
		name       string
		retryAfter time.Duration
		want       []time.Duration // of the requests, when somebody asks every second
	}{
		{"doubles up to 30 s", 0, []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 65 * time.Second, 95 * time.Second}},
		{"Retry-After wins when longer", 20 * time.Second, []time.Duration{0, 20 * time.Second, 40 * time.Second, 60 * time.Second, 90 * time.Second}},
		{"and is clamped", time.Hour, []time.Duration{0, 300 * time.Second}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamRateLimited, Op: "request token", RetryAfter: test.retryAfter}})
				start := time.Now()
				last := test.want[len(test.want)-1]
				for time.Since(start) <= last {
					_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					wantReason(t, "GetToken", err, broker.ReasonUpstreamRateLimited)
					next := slices.IndexFunc(test.want, func(d time.Duration) bool { return d > time.Since(start) })
					asked := slices.Contains(test.want, time.Since(start))
					if !asked && next >= 0 {
						if got, want := broker.AsError(err).RetryAfter, test.want[next]-time.Since(start); got != want {
							t.Errorf("after %v: RetryAfter = %v, want %v", time.Since(start), got, want)
						}
					}
					time.Sleep(time.Second)
				}
				if got := since(start, f.upstream.Requests()); !slices.Equal(got, test.want) {
					t.Errorf("requests at %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestHoldDownIsPerKey: a scope that is refused does not stop the others.
func TestHoldDownIsPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonScopeRejected)})
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{"admin"}})
		wantReason(t, "GetToken", err, broker.ReasonScopeRejected)
		f.token(t, "acme")
		_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{"admin"}})
		wantReason(t, "GetToken", err, broker.ReasonScopeRejected)
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestOneRequestForAllThatFails: a failure is shared like a token.
func TestOneRequestForAllThatFails(t *testing.T) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.upstream.Always(brokertest.Step{Delay: delay, Err: rejected(broker.ReasonClientRejected)})
			var group sync.WaitGroup
			for range 1000 {
				group.Go(func() {
					_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					wantReason(t, "GetToken", err, broker.ReasonClientRejected)
				})
			}
			group.Wait()
			if got, want := f.upstream.Count(), 1; got != want {
				t.Errorf("%d requests, want %d", got, want)
			}
		})
	}
}

func TestWhatEndsAHoldDown(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, f *fixture)
		want bool
	}{
		{"nothing", func(*testing.T, *fixture) {}, false},
		{"a new secret is promoted", func(t *testing.T, f *fixture) { f.promote(t, "acme") }, true},
		{"a new secret comes with an update", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: input("new-secret"), Edit: func(*broker.Client) {}})
			wantReason(t, "UpdateClient", err, "")
		}, true},
		{"a setting that the server sees is changed", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.Parameters = map[string]string{"a": "b"} }})
			wantReason(t, "UpdateClient", err, "")
		}, true},
		{"a label is changed", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }})
			wantReason(t, "UpdateClient", err, "")
		}, false},
		{"it is disabled and enabled", func(t *testing.T, f *fixture) {
			_, _ = f.SetDisabled(t.Context(), "acme", true)
			_, _ = f.SetDisabled(t.Context(), "acme", false)
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.stage(t, "acme", "new-secret")
				f.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken", err, broker.ReasonClientRejected)
				test.end(t, f)
				_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				if got := err == nil; got != test.want {
					t.Errorf("GetToken: %v, want success: %t", err, test.want)
				}
			})
		})
	}
}

// TestHoldDownOfChangedSettings: when settings changed on another replica, a
// failure with the new ones holds callers with the new ones down.
func TestHoldDownOfChangedSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		_, err := f.replica(t).UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
			c.Upstream.Parameters = map[string]string{"a": "b"}
		}})
		wantReason(t, "UpdateClient", err, "")
		f.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonRequestRejected)})
		for range 3 { // the first one still goes by the old settings
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonRequestRejected)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestSuccessEndsAFailure: it is neither warned of any more, nor does the next
// failure go on where the last one ended.
func TestSuccessEndsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		failing := brokertest.Step{Err: rejected(broker.ReasonUpstreamRateLimited)}
		f.upstream.Script(failing, failing)
		for range 2 { // held down for 5 s, then for 10 s
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonUpstreamRateLimited)
			time.Sleep(10 * time.Second)
		}
		f.wantServed(t, "token-1")
		f.upstream.Script(brokertest.Step{Delay: time.Second})
		time.Sleep(51 * time.Minute)
		f.wantServed(t, "token-1") // refreshing, of which nothing is known yet
		time.Sleep(2 * time.Second)
		f.wantServed(t, "token-2")

		f.upstream.Always(failing)
		time.Sleep(2 * time.Hour)
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonUpstreamRateLimited)
		_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		if got, want := broker.AsError(err).RetryAfter, 5*time.Second; got != want {
			t.Errorf("RetryAfter = %v, want %v", got, want)
		}
	})
}
