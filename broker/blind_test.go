package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// runningBlind returns a replica that follows the feed and may be blind for most.
func runningBlind(t *testing.T, most time.Duration) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.Feed, cfg.MaxBlind, cfg.KeepSecret = true, most, time.Hour
	})
	f.run(t)
	f.create(t, "acme")
	f.token(t, "acme")
	return f
}

// TestABlindReplicaHandsOutNoTokens: not the warm one either, and only while it is blind.
func TestABlindReplicaHandsOutNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = time.Minute
		f := runningBlind(t, most)
		time.Sleep(10 * time.Minute)
		wantReason(t, "GetToken while it sees", f.ask(t), "")
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(most - 2*time.Second)
		wantReason(t, "GetToken while it may be blind", f.ask(t), "")
		wantReason(t, "Blind", f.Blind(), "")
		time.Sleep(4 * time.Second)
		err := f.ask(t)
		wantReason(t, "GetToken", err, broker.ReasonReplicaBlind)
		wantReason(t, "Blind", f.Blind(), broker.ReasonReplicaBlind)
		if e := broker.AsError(err); e.RetryAfter <= 0 || e.Detail == "" {
			t.Errorf("the error is %+v, want one that says when to come again and for how long it has been so", e)
		}
		f.store.Heal()
		time.Sleep(2 * time.Second)
		wantReason(t, "GetToken when it sees again", f.ask(t), "")
		if got := f.upstream.Count(); got != 1 {
			t.Errorf("%d requests, want the one of the beginning", got)
		}
	})
}

// TestAReplicaMayBeBlindForEver unless it was told otherwise.
func TestAReplicaMayBeBlindForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runningBlind(t, 0)
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(30 * time.Minute)
		wantReason(t, "GetToken", f.ask(t), "")
		wantReason(t, "Blind", f.Blind(), "")
	})
}

func TestMaxBlindNeedsTheFeed(t *testing.T) {
	memory := brokertest.NewMemory()
	for name, cfg := range map[string]broker.Config{"without feed": {MaxBlind: time.Minute}, "negative": {MaxBlind: -1, Feed: true}} {
		cfg.Store, cfg.RequestToken, cfg.CheckSecret = memory, brokertest.NewUpstream().RequestToken, checkSecret
		if b, err := broker.New(cfg); err == nil {
			b.Close()
			t.Errorf("%s: New took it", name)
		}
	}
}
