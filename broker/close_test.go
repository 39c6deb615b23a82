package broker_test

import (
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
		time.Sleep(50 * time.Minute)
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
