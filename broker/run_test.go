package broker_test

import (
	"strings"
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
		destroyed := 0
		for _, b := range replicas {
			destroyed += b.store.Count(brokertest.On(brokertest.OpDestroy, "tokens/"))
		}
		if destroyed != 1 {
			t.Errorf("%d records removed, want one", destroyed)
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

// TestPrewarm gets the tokens of the chosen clients at the start, also where the store
// comes up later, and says of which it could not.
func TestPrewarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newFixture(t)
		before.create(t, "acme")
		before.create(t, "other")
		store := brokertest.NewFaulty(before.memory)
		store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		f := open(t, before.memory, store, before.upstream, func(cfg *broker.Config) { cfg.Prewarm = []string{"acme", "nobody"} })
		f.run(t)
		time.Sleep(10 * time.Second)
		store.Heal()
		time.Sleep(10 * time.Second)
		if got := f.upstream.Count(); got != 1 {
			t.Fatalf("%d tokens were got beforehand, want that of acme", got)
		}
		f.token(t, "acme")
		if got := f.upstream.Count(); got != 1 {
			t.Error("the first caller had to wait")
		}
		if text := f.log.String(); !strings.Contains(text, "token not got beforehand") || !strings.Contains(text, "nobody") {
			t.Errorf("the log says nothing of the client that is not there: %s", text)
		}
	})
}
