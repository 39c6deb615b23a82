package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestUsedTokensAreRefreshed although nobody asks in their last part, and idle ones
// are not: each use is worth one refresh.
func TestUsedTokensAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runningFleet(t, 1)[0]
		f.create(t, "acme")
		f.create(t, "idle")
		f.token(t, "idle")
		f.token(t, "acme")
		for range 48 { // every half an hour, which often misses the advisory window
			time.Sleep(30 * time.Minute)
			f.wantServedSomething(t)
		}
		if got, most := f.upstream.Count(), 34; got > most {
			t.Errorf("%d requests in a day, want at most %d", got, most)
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		before := f.upstream.Count()
		time.Sleep(24 * time.Hour)
		if got := f.upstream.Count(); got != before {
			t.Errorf("%d requests in a day that nobody asked in", got-before)
		}
	})
}

// wantServedSomething checks that acme has a good token and nobody waits for it.
func (f *fixture) wantServedSomething(t *testing.T) {
	t.Helper()
	start := time.Now()
	token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	if err != nil || len(warnings) > 0 || time.Since(start) > 0 || !token.ExpireTime.After(start) {
		t.Errorf("after %v: %v, %v", time.Since(start), warningsOf(warnings), err)
	}
}

// TestTheSweeper removes what has expired for an hour, one replica at a time, and
// leaves the rest.
func TestTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		f.create(t, "acme")
		f.create(t, "long")
		f.upstream.SetLifetime(10 * time.Minute)
		f.token(t, "acme")
		f.upstream.SetLifetime(24 * time.Hour)
		f.token(t, "long")
		f.memory.Put("tokens/foreign/x", `{"password":"canary"}`)
		for _, b := range replicas {
			b.store.Reset()
		}
		time.Sleep(6 * time.Hour)
		destroyed, sweeps := 0, 0
		for _, b := range replicas {
			destroyed += b.store.Count(brokertest.On(brokertest.OpDestroy, "tokens/"))
			sweeps += b.store.Count(brokertest.On(brokertest.OpWrite, "sweep"))
		}
		if destroyed != 1 || sweeps < 3 || sweeps > 6 {
			t.Errorf("%d records removed in %d sweeps, want one in about one sweep per hour", destroyed, sweeps)
		}
		before := f.upstream.Count()
		f.replica(t).token(t, "long")
		if got := f.upstream.Count(); got != before {
			t.Error("a token that is good was swept")
		}
		recordOf(t, f.memory, "tokens/foreign/x")
		f.token(t, "acme") // what was swept can be had anew, and shared
		f.replica(t).token(t, "acme")
		if got, want := f.upstream.Count(), before+1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}
