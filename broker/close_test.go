package broker_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestClose: detached work ends with the Broker, and those who wait for it learn
// why. A bubble or goleak would find what goes on.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.create(t, "warm")
		f.create(t, "cold")
		f.token(t, "warm")
		time.Sleep(51 * time.Minute)
		f.upstream.Always(brokertest.Step{Delay: time.Hour})
		f.token(t, "warm") // starts a refresh and a read
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken", err, broker.ReasonShuttingDown)
			})
		}
		synctest.Wait()
		start := time.Now()
		f.Close()
		group.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "cold"})
		wantReason(t, "GetToken after Close", err, broker.ReasonShuttingDown)
		f.Close() // twice is once
	})
}

func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		other := f.replica(t)
		// A read that does not end with its context: the store is closed after the Broker.
		ended := false
		other.store.Once(brokertest.Before(func(brokertest.Call) {
			time.Sleep(3 * time.Second)
			ended = true
		}), brokertest.Any)
		go func() { _, _, _ = other.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"}) }()
		synctest.Wait()
		other.Close()
		if !ended {
			t.Error("Close returned while work was under way")
		}
	})
}

// TestAPanicInSharedWork is an error of those who wait for it, once, and neither
// they nor the log are told what the panic's value holds.
func TestAPanicInSharedWork(t *testing.T) {
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	panics := true
	f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) {
		next := cfg.RequestToken
		cfg.RequestToken = func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
			if panics {
				panic("an adapter that knows " + req.Secret.RevealString())
			}
			return next(ctx, req)
		}
	})
	f.create(t, "acme")
	_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, broker.ReasonInternal)
	newCanaries(password).told(t, "the panic", err, f.log.String())
	if want := "panic of type string"; !strings.Contains(f.log.String(), want) {
		t.Errorf("log = %s, want %q in it", f.log, want)
	}
	panics = false
	f.token(t, "acme")
}
