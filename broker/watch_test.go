package broker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// event is what a watch yielded, and when.
type event struct {
	token *broker.Token
	err   error
	after time.Duration
}

// watch collects what a watch of acme yields until it ends.
func (f *fixture) watch(ctx context.Context) <-chan event {
	events, start := make(chan event, 1000), time.Now()
	go func() {
		defer close(events)
		for token, err := range f.Watch(ctx, broker.TokenQuery{ClientID: "acme"}) {
			events <- event{token, err, time.Since(start)}
		}
	}()
	return events
}

// TestWatch: each token, before the mandatory window of the one before it.
func TestWatch(t *testing.T) {
	for name, make := range map[string]func(*testing.T) *fixture{
		"with Run":    func(t *testing.T) *fixture { return runningFleet(t, 1)[0] },
		"without Run": newFixture,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := make(t)
				f.create(t, "acme")
				ctx, stop := context.WithCancel(t.Context())
				events := f.watch(ctx)
				time.Sleep(24 * time.Hour)
				stop()
				var last *broker.Token
				seen := 0
				for e := range events {
					if e.err != nil {
						t.Fatalf("after %v: %v", e.after, e.err)
					}
					if last != nil && (e.token.ID == last.ID || last.ExpireTime.Sub(e.token.IssueTime) < 30*time.Second) {
						t.Errorf("after %v: a token that came %v before the end of the last one", e.after, last.ExpireTime.Sub(e.token.IssueTime))
					}
					last, seen = e.token, seen+1
				}
				if got := f.upstream.Count(); got != seen || seen < 28 || seen > 32 {
					t.Errorf("%d tokens of %d requests in a day, want some 30", seen, got)
				}
			})
		})
	}
}

// TestManyWatches cost the authorization server what one does, and the store nothing.
func TestManyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		f.create(t, "acme")
		var got atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		for i := range 300 {
			go func() {
				for range replicas[i%3].Watch(ctx, broker.TokenQuery{ClientID: "acme"}) {
					got.Add(1)
				}
			}()
		}
		time.Sleep(8 * time.Hour)
		for range 10 { // each replica looks for the next token at a time of its own, within some minutes
			if got.Load() == int64(300*f.upstream.Count()) {
				break
			}
			time.Sleep(time.Minute)
		}
		if count := f.upstream.Count(); count < 9 || count > 11 || got.Load() != int64(300*count) {
			t.Errorf("%d requests and %d tokens for 300 watches in 8h, want 10 and each of them 300 times", count, got.Load())
		}
		stop()
		synctest.Wait()
	})
}

// TestWhatEndsAWatch, on whichever replica it happens.
func TestWhatEndsAWatch(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, f, other *fixture)
		want broker.Reason
	}{
		{"disabled", func(t *testing.T, _, other *fixture) { _, _ = other.SetDisabled(t.Context(), "acme", true) }, broker.ReasonClientDisabled},
		{"deleted", func(t *testing.T, _, other *fixture) { _, _ = other.DeleteClient(t.Context(), "acme", "") }, broker.ReasonClientDeleted},
		{"disabled here", func(t *testing.T, f, _ *fixture) { _, _ = f.SetDisabled(t.Context(), "acme", true) }, broker.ReasonClientDisabled},
		{"shutting down", func(_ *testing.T, f, _ *fixture) { f.stopRun(); f.Close() }, broker.ReasonShuttingDown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := runningFleet(t, 2)
				replicas[0].create(t, "acme")
				events := replicas[0].watch(t.Context())
				time.Sleep(time.Minute)
				first := <-events
				start := time.Now()
				test.end(t, replicas[0], replicas[1])
				last, ok := <-events
				if !ok || first.token == nil || last.token != nil {
					t.Fatalf("events %+v, %+v", first, last)
				}
				wantReason(t, "the end", last.err, test.want)
				if took, most := time.Since(start), 2*time.Second; took > most {
					t.Errorf("it ended after %v, want at most %v", took, most)
				}
				if _, more := <-events; more {
					t.Error("more came after the end")
				}
			})
		})
	}
}

// TestAWatchInAnOutage is silent while its token lives, then ends with the cause.
func TestAWatchInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runningFleet(t, 1)[0]
		f.create(t, "acme")
		events := f.watch(t.Context())
		time.Sleep(time.Minute)
		expire := (<-events).token.ExpireTime
		f.upstream.Always(brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)})
		e := <-events
		wantReason(t, "the end", e.err, broker.ReasonUpstreamUnavailable)
		if late := time.Since(expire); late < 0 || late > 3*time.Second {
			t.Errorf("it ended %v after the token, want about then", late)
		}
	})
}

// TestAWatchAfterARotation gets the token of the new secret when the old ones are
// dropped.
func TestAWatchAfterARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 2)
		f := replicas[0]
		f.create(t, "acme")
		f.stage(t, "acme", "next-secret")
		events := f.watch(t.Context())
		time.Sleep(time.Minute)
		first := <-events
		_, err := replicas[1].PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true, DropTokens: true})
		wantReason(t, "PromoteSecret", err, "")
		time.Sleep(2 * time.Second)
		select {
		case e := <-events:
			if e.err != nil || e.token.SecretVersion != 2 || e.token.ID == first.token.ID {
				t.Errorf("got %+v, want a token of version 2", e)
			}
		default:
			t.Error("nothing came")
		}
	})
}
