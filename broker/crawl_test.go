package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// reads are those of client records.
var reads = brokertest.On(brokertest.OpRead, "clients/")

// TestTheCrawler visits each client about once an hour, on one replica at a time, evenly
// spread, and another one goes on when that one dies.
func TestTheCrawler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := brokertest.NewMemory()
		maker := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), nil)
		const clients = 300
		for i := range clients {
			maker.create(t, fmt.Sprint("client-", i))
		}
		memory.Put("clients/"+shard("broken")+"/broken", `{"schema":9}`)
		var replicas []*fixture
		for range 3 {
			f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), nil)
			f.run(t)
			replicas = append(replicas, f)
		}
		time.Sleep(10 * time.Minute) // one of them has begun
		for _, f := range replicas {
			f.store.Reset()
		}
		for step := range 12 {
			time.Sleep(5 * time.Minute)
			total := 0
			for _, f := range replicas {
				total += f.store.Count(reads)
				f.store.Reset()
			}
			if total < clients/12/3 || total > clients/12*3 {
				t.Errorf("%d clients were visited in part %d of an hour, want about %d", total, step, clients/12)
			}
		}
		if at := crawlers(replicas); len(at) != 0 {
			t.Fatalf("reset counts %v", at)
		}
		time.Sleep(10 * time.Minute)
		at := crawlers(replicas)
		if len(at) != 1 {
			t.Fatalf("%d replicas crawl, want one", len(at))
		}
		for i, f := range replicas {
			if got := f.Census(); got.Clients != clients || got.Unreadable != 1 || time.Since(got.Time) > 2*time.Hour {
				t.Errorf("replica %d knows of %+v", i, got)
			}
		}
		at[0].stopRun()
		for _, f := range replicas {
			f.store.Reset()
		}
		time.Sleep(12 * time.Minute)
		if next := crawlers(replicas); len(next) != 1 || next[0] == at[0] {
			t.Errorf("%d replicas crawl since one died, want one of the others", len(next))
		}
	})
}

// crawlers are those that have visited clients since their counts began.
func crawlers(replicas []*fixture) []*fixture {
	var found []*fixture
	for _, f := range replicas {
		if f.store.Count(reads) > 0 {
			found = append(found, f)
		}
	}
	return found
}

// TestTheCrawlerOutlivesAnOutage, and leaves nobody out.
func TestTheCrawlerOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for i := range 40 {
			f.create(t, fmt.Sprint("client-", i))
		}
		f.run(t)
		time.Sleep(30 * time.Minute)
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(30 * time.Minute)
		if got := f.store.Count(brokertest.On(brokertest.OpList, "clients/")); got > 256 {
			t.Errorf("the store was asked for %d shards", got)
		}
		f.store.Heal()
		time.Sleep(90 * time.Minute)
		if got := f.Census(); got.Clients != 40 {
			t.Errorf("the round that met an outage counts %+v, want 40 clients", got)
		}
	})
}

// TestCensus counts what there is over all clients, not only those in memory.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		maker := open(t, memory, brokertest.NewFaulty(memory), a.upstream, nil)
		soon := time.Now().Add(20 * day).UTC()
		expires := func(at time.Time) func(*broker.NewClient) {
			return func(n *broker.NewClient) { n.Secret.ExpireTime = at }
		}
		maker.create(t, "soon", expires(soon))
		maker.create(t, "later", expires(soon.Add(day)))
		maker.create(t, "disabled", expires(soon.Add(-day)))
		_, err := maker.SetDisabled(t.Context(), "disabled", true)
		wantReason(t, "SetDisabled", err, "")
		maker.create(t, "staged")
		maker.stage(t, "staged", "next-secret")
		f := scheduled(t, memory, memory, a)
		if got := f.Census(); !got.Time.IsZero() {
			t.Errorf("before the first visit: %+v", got)
		}
		time.Sleep(75 * time.Minute)
		got := f.Census()
		if got.Clients != 4 || !got.SecretExpiry.Equal(soon) || got.Rotations[broker.RotationStaged] != 1 || got.Stuck != 0 {
			t.Errorf("Census = %+v", got)
		}
	})
}

// TestAForgottenRotationIsTakenUp: it is in its journal and not among the active ones.
func TestAForgottenRotationIsTakenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		begins := open(t, memory, brokertest.NewFaulty(memory), a.upstream, func(cfg *broker.Config) { cfg.Rotators = map[string]broker.Rotator{"almanac": a} })
		begins.create(t, "acme", rotatedEvery(300*day))
		if _, err := begins.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme"}); err != nil {
			t.Fatal(err)
		}
		begins.Close()
		record := recordOf(t, memory, "active-rotations")
		start, end := strings.Index(record, `"rotations":[`), strings.LastIndex(record, "]")
		memory.Put("active-rotations", record[:start]+`"rotations":[`+record[end:])
		f := scheduled(t, memory, memory, a)
		time.Sleep(3 * time.Hour)
		r, err := f.GetRotation(t.Context(), "acme")
		if err != nil || r.State != broker.RotationCompleted {
			t.Errorf("it is %+v, %v, want it completed", r, err)
		}
	})
}

// TestARetirementThatWasLeft is ended after an hour, not before.
func TestARetirementThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.stage(t, "acme", "next-secret")
		f.promote(t, "acme")
		f.store.Once(brokertest.CrashBefore(), brokertest.On(brokertest.OpDestroy, "secrets/"))
		if err := f.RetireSecret(t.Context(), "acme", 1); err == nil {
			t.Fatal("the retirement was not left")
		}
		next := f.replica(t)
		time.Sleep(50 * time.Minute)
		wantReason(t, "LookAfter", next.LookAfter(t.Context(), "acme"), "")
		if got, want := stages(next.get(t, "acme")), "1 destroying, 2 current"; got != want {
			t.Errorf("after 50 min %q, want %q", got, want)
		}
		time.Sleep(11 * time.Minute)
		wantReason(t, "LookAfter", next.LookAfter(t.Context(), "acme"), "")
		if got, want := stages(next.get(t, "acme")), "2 current"; got != want || len(f.memory.Contains(password)) > 0 {
			t.Errorf("after an hour %q, want %q; its value is at %q", got, want, f.memory.Contains(password))
		}
	})
}
