package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// ask gets a token of acme for one of its allowed scopes.
func (f *fixture) ask(t *testing.T, scopes ...string) error {
	t.Helper()
	_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: scopes})
	return err
}

// TestRejectedCredentialsAreParked: callers that come every 5 s for all keys on
// three replicas make no more requests than the tries, after 1, 5, 15 and 60 minutes
// and then hourly.
func TestRejectedCredentialsAreParked(t *testing.T) {
	for _, reason := range []broker.Reason{broker.ReasonClientRejected, broker.ReasonGrantRejected} {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				replicas := []*fixture{f, f.replica(t), f.replica(t)}
				f.upstream.Always(brokertest.Step{Err: rejected(reason)})
				start := time.Now()
				for i := 0; time.Since(start) < 4*time.Hour; i++ {
					for _, b := range replicas {
						err := b.ask(t, []string{"read", "write", "admin"}[i%3])
						wantReason(t, "GetToken", err, reason)
						if wait := broker.AsError(err).RetryAfter; wait <= 0 || wait > time.Hour {
							t.Fatalf("RetryAfter = %v", wait)
						}
					}
					time.Sleep(5 * time.Second)
				}
				// Each replica may find out for itself once; the tries are shared.
				var minutes []int
				for _, at := range since(start, f.upstream.Requests()) {
					if at > 10*time.Second {
						minutes = append(minutes, int(at.Round(time.Minute)/time.Minute))
					}
				}
				if want := []int{1, 6, 21, 81, 141, 201}; !slices.Equal(minutes, want) {
					t.Errorf("tries after %v minutes, want %v", minutes, want)
				}
				if got, most := len(f.upstream.Requests())-len(minutes), 3; got > most {
					t.Errorf("%d requests at the start, want at most %d", got, most)
				}
			})
		})
	}
}

func TestWhatEndsParking(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, f *fixture)
		want bool
	}{
		{"nothing", func(*testing.T, *fixture) {}, false},
		{"a new secret", func(t *testing.T, f *fixture) {
			f.stage(t, "acme", "new-secret")
			_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
			wantReason(t, "PromoteSecret", err, "")
		}, true},
		{"a verified secret, although it is not promoted", func(t *testing.T, f *fixture) {
			f.stage(t, "acme", "new-secret")
			_, _, err := f.VerifySecret(t.Context(), "acme", 0)
			wantReason(t, "VerifySecret", err, "")
		}, true},
		{"other settings", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.Parameters = map[string]string{"a": "b"} }})
			wantReason(t, "UpdateClient", err, "")
		}, true},
		{"a label", func(t *testing.T, f *fixture) {
			_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }})
			wantReason(t, "UpdateClient", err, "")
		}, false},
		{"ResetUpstream", func(t *testing.T, f *fixture) {
			wantReason(t, "ResetUpstream", f.ResetUpstream(t.Context(), "acme"), "")
		}, true},
		{"a shallow check", func(t *testing.T, f *fixture) {
			_, err := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: "acme", Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
			wantReason(t, "CheckLookup", err, "")
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				other := f.replica(t)
				rejecting := brokertest.Step{Err: rejected(broker.ReasonClientRejected)}
				f.upstream.Script(rejecting) // the other replica learns of it from the store
				wantReason(t, "GetToken", f.ask(t), broker.ReasonClientRejected)
				wantReason(t, "GetToken", other.ask(t), broker.ReasonClientRejected)
				time.Sleep(5 * time.Second)
				test.end(t, f)
				for _, b := range []*fixture{f, other} {
					time.Sleep(10 * time.Second)
					_ = b.ask(t, "write") // the other replica may still go by what it has in memory
					synctest.Wait()
					if err := b.ask(t); (err == nil) != test.want {
						t.Errorf("GetToken: %v, want success: %t", err, test.want)
					}
				}
			})
		})
	}
	f := newFixture(t)
	wantReason(t, "ResetUpstream", f.ResetUpstream(t.Context(), "acme"), broker.ReasonClientNotFound)
}

// TestParkingWithoutTheStore: it holds on the replica that found out, and nobody
// tries while it cannot be known who is to.
func TestParkingWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpRead, "upstream/"))
		for range 600 {
			wantReason(t, "GetToken", f.ask(t), broker.ReasonClientRejected)
			time.Sleep(time.Second)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestADamagedUpstreamRecord stops nobody whose client has no limits, and is not
// written over.
func TestADamagedUpstreamRecord(t *testing.T) {
	for _, d := range headerDamages {
		t.Run(d.name, func(t *testing.T) {
			f := newFixture(t)
			c := f.create(t, "acme")
			f.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
			wantReason(t, "GetToken", f.ask(t), broker.ReasonClientRejected)
			key := "upstream/" + c.UID
			f.memory.Put(key, d.change(recordOf(t, f.memory, key)))
			b := f.replica(t)
			wantReason(t, "GetToken of another token", b.ask(t, "admin"), "")
			wantReason(t, "ResetUpstream", b.ResetUpstream(t.Context(), "acme"), d.want)
			if _, err := b.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
				c.Upstream.IssueBudget = broker.IssueBudget{Tokens: 5, Period: time.Hour}
			}}); err != nil {
				t.Fatal(err)
			}
			wantReason(t, "GetToken of a client with a budget", b.ask(t, "write"), d.want)
		})
	}
}
