package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// keeping returns a Broker that keeps secrets for an hour, as the product does.
func keeping(t *testing.T) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	return open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) { cfg.KeepSecret = time.Hour })
}

// outages are the ways in which a store is away.
var outages = []brokertest.Fault{
	brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Fail(broker.ReasonStoreStandby),
	brokertest.Fail(broker.ReasonStoreRateLimited), brokertest.Fail(broker.ReasonStoreFailed), brokertest.Hang(),
}

// TestTheStoreIsAway for longer than a token lives: callers have a good one all the
// time, as long as the secret may be kept.
func TestTheStoreIsAway(t *testing.T) {
	for _, fault := range outages {
		t.Run(fault.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := keeping(t)
				f.create(t, "acme")
				f.upstream.SetLifetime(10 * time.Minute)
				f.token(t, "acme")
				f.store.Always(fault, brokertest.Any)
				start := time.Now()
				for time.Since(start) < 59*time.Minute {
					called := time.Now()
					token := f.token(t, "acme")
					if waited := time.Since(called); waited > 2*time.Second || !token.ExpireTime.After(time.Now()) {
						t.Fatalf("a token that lives for %v after %v", time.Until(token.ExpireTime), waited)
					}
					time.Sleep(5 * time.Second)
				}
				if got, most := f.upstream.Count(), 9; got > most {
					t.Errorf("%d requests in an hour for tokens of 10m, want at most %d", got, most)
				}
				time.Sleep(2 * time.Hour)
				if err := f.ask(t); err == nil {
					t.Error("a secret was used that was read three hours ago")
				}
			})
		})
	}
}

// TestAShortOutage does not make every replica ask: they wait for the store while
// their token is good.
func TestAShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := keeping(t)
		f.create(t, "acme")
		token := f.token(t, "acme")
		time.Sleep(time.Until(token.RefreshAfter) + time.Second)
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		for range 60 {
			f.token(t, "acme")
			time.Sleep(time.Second)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests while the store was away, want %d", got, want)
		}
		f.store.Heal()
		time.Sleep(5 * time.Second)
		f.token(t, "acme")
		synctest.Wait()
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestWhenNothingIsMintedWithoutTheStore: when no secret is kept, when it is sealed,
// also before it goes away, when it refuses, for clients with limits, and after a
// new secret is known of that was not read.
func TestWhenNothingIsMintedWithoutTheStore(t *testing.T) {
	fail := func(f *fixture, reason broker.Reason) { f.store.Always(brokertest.Fail(reason), brokertest.Any) }
	tests := []struct {
		name    string
		prepare func(t *testing.T, f *fixture)
		want    broker.Reason
	}{
		{"sealed", func(_ *testing.T, f *fixture) { fail(f, broker.ReasonStoreSealed) }, broker.ReasonStoreSealed},
		{"sealed, then away", func(t *testing.T, f *fixture) {
			fail(f, broker.ReasonStoreSealed)
			wantReason(t, "GetToken", f.ask(t, "write"), broker.ReasonStoreSealed)
			f.store.Heal()
			fail(f, broker.ReasonStoreUnreachable)
		}, broker.ReasonStoreUnreachable},
		{"denied", func(_ *testing.T, f *fixture) { fail(f, broker.ReasonStorePermissionDenied) }, broker.ReasonStorePermissionDenied},
		{"another secret", func(t *testing.T, f *fixture) {
			f.stage(t, "acme", "next-secret")
			_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
			wantReason(t, "PromoteSecret", err, "")
			fail(f, broker.ReasonStoreUnreachable)
		}, broker.ReasonStoreUnreachable},
		{"limits", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
				c.Upstream.IssueBudget = broker.IssueBudget{Tokens: 10, Period: time.Hour}
			}})
			wantReason(t, "UpdateClient", err, "")
			fail(f, broker.ReasonStoreUnreachable)
		}, broker.ReasonStoreUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := keeping(t)
				f.create(t, "acme")
				f.token(t, "acme")
				test.prepare(t, f)
				requests := f.upstream.Count()
				for range 3 {
					wantReason(t, "GetToken of another token", f.ask(t, "admin"), test.want)
					time.Sleep(time.Second)
				}
				f.wantServed(t, "token-1")
				if got := f.upstream.Count(); got != requests {
					t.Errorf("%d requests, want none", got-requests)
				}
			})
		})
	}
}

// TestKeptSecretsAreNotShown by anything that fails meanwhile.
func TestKeptSecretsAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := keeping(t)
		f.create(t, "acme")
		f.token(t, "acme")
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		wantReason(t, "GetToken", f.ask(t, "admin"), "")
		f.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)})
		err := f.ask(t, "write")
		wantReason(t, "GetToken", err, broker.ReasonUpstreamUnavailable)
		if text := err.Error() + f.log.String(); strings.Contains(text, password) {
			t.Errorf("the secret is told: %s", text)
		}
	})
}
