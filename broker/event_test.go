package broker_test

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// notified collects events.
type notified struct {
	mu     sync.Mutex
	events []broker.Event
}

func (n *notified) add(e broker.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

func (n *notified) all() []broker.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// daysLeft returns what was told of each expiry, in days.
func (n *notified) daysLeft() []int {
	var days []int
	for _, e := range n.all() {
		days = append(days, e.DaysLeft)
	}
	return days
}

// watched is a running replica that tells n.
func watched(t *testing.T, memory *brokertest.Memory, upstream *brokertest.Upstream, n *notified) *fixture {
	t.Helper()
	f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) { cfg.Notify = n.add })
	f.run(t)
	return f
}

func expiring(in time.Duration) func(*broker.NewClient) {
	at := time.Now().Add(in)
	return func(n *broker.NewClient) { n.Secret.ExpireTime = at }
}

const day = 24 * time.Hour

// TestSecretsThatExpireSoon are told of once at each threshold by three replicas that
// all have the client in memory, and again for another secret.
func TestSecretsThatExpireSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, upstream, told := brokertest.NewMemory(), brokertest.NewUpstream(), &notified{}
		var replicas []*fixture
		for range 3 {
			replicas = append(replicas, watched(t, memory, upstream, told))
		}
		f := replicas[0]
		f.create(t, "acme", expiring(8*day))
		f.create(t, "lasting", expiring(400*day))
		f.create(t, "unknown")
		f.create(t, "stopped", expiring(day))
		if _, err := f.SetDisabled(t.Context(), "stopped", true); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			for _, b := range replicas {
				b.token(t, "acme")
			}
			time.Sleep(day)
		}
		if got, want := told.daysLeft(), []int{7, 6, 2, 0}; !slices.Equal(got, want) {
			t.Fatalf("days left %v, want %v", got, want)
		}
		e := told.all()[0]
		if e.Type != broker.EventSecretExpiresSoon || e.ClientID != "acme" || e.SecretVersion != 1 || e.ID == "" || e.ID == told.all()[1].ID ||
			e.Remedy == "" || e.Time.Location() != time.UTC || !e.ExpireTime.After(e.Time.Add(7*day)) {
			t.Errorf("event %+v", e)
		}
		lines := strings.Count(replicas[0].log.String()+replicas[1].log.String()+replicas[2].log.String(), "event=secret_expires_soon")
		if lines != 4 {
			t.Errorf("%d lines in the logs, want one for each event", lines)
		}

		f.upstream.Register("client-id-of-acme", "next-secret")
		next := input("next-secret")
		next.ExpireTime = time.Now().Add(2 * day)
		if _, err := f.StageSecret(t.Context(), "acme", next, ""); err != nil {
			t.Fatal(err)
		}
		f.promote(t, "acme")
		time.Sleep(3 * time.Hour)
		if got, want := told.daysLeft()[4:], []int{1}; !slices.Equal(got, want) {
			t.Errorf("of the second secret days left %v, want %v: one event for the thresholds that were passed", got, want)
		}
	})
}

// TestARestartTellsNothingAgain, nor does a replica whose clock runs behind.
func TestARestartTellsNothingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, upstream, told := brokertest.NewMemory(), brokertest.NewUpstream(), &notified{}
		f := watched(t, memory, upstream, told)
		f.create(t, "acme", expiring(5*day))
		time.Sleep(2 * time.Hour)
		f.stopRun()
		again := watched(t, memory, upstream, told)
		again.token(t, "acme")
		time.Sleep(2 * time.Hour)
		if got, want := told.daysLeft(), []int{4}; !slices.Equal(got, want) {
			t.Errorf("days left %v, want %v", got, want)
		}
	})
}

// TestExpiryAndFaults: whatever becomes of a call to the store, it is told once.
func TestExpiryAndFaults(t *testing.T) {
	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			told := &notified{}
			f := open(t, nil, run.Store, brokertest.NewUpstream(), func(cfg *broker.Config) { cfg.Notify = told.add })
			f.create(t, "acme", expiring(5*day))
			f.run(t)
			synctest.Wait()
			run.Ignore = onTimers
			run.Start()
			time.Sleep(30 * time.Second)
			run.Stop()
			time.Sleep(3 * time.Hour)
			if got := len(told.all()); got != 1 {
				t.Errorf("%d events, want 1", got)
			}
		})
	})
}

// TestExpiryIsToldWithoutARecord: of a damaged one by each replica, and on the last day
// also while the store is away.
func TestExpiryIsToldWithoutARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, upstream, told := brokertest.NewMemory(), brokertest.NewUpstream(), &notified{}
		f := watched(t, memory, upstream, told)
		c := f.create(t, "damaged", expiring(10*day))
		memory.Put("usage/"+c.UID, `{"schema":99,"uid":"x","write_id":"w"}`)
		time.Sleep(5 * time.Hour)
		if got, want := told.daysLeft(), []int{9}; !slices.Equal(got, want) {
			t.Errorf("days left %v, want %v", got, want)
		}
		f.create(t, "away", expiring(36*time.Hour))
		f.store.Always(brokertest.Fail(broker.ReasonStoreSealed), usageCalls)
		time.Sleep(10 * time.Hour)
		if got, want := told.daysLeft(), []int{9}; !slices.Equal(got, want) {
			t.Errorf("days left %v, want %v: it can wait for the store", got, want)
		}
		time.Sleep(8 * time.Hour)
		if got := len(told.all()); got < 2 {
			t.Errorf("%d events, want one of the last day", got)
		}
	})
}

// TestEventTypes have distinct names, a level and all but one a place in the default.
func TestEventTypes(t *testing.T) {
	var quiet []broker.EventType
	for i, eventType := range broker.EventTypes() {
		if slices.Index(broker.EventTypes(), eventType) != i {
			t.Errorf("%q is there twice", eventType)
		}
		if !eventType.ByDefault() {
			quiet = append(quiet, eventType)
		}
	}
	if want := []broker.EventType{broker.EventRotationCompleted}; !slices.Equal(quiet, want) {
		t.Errorf("not told by default: %v, want %v", quiet, want)
	}
	if got := broker.EventRotationFailed.Level(); got != slog.LevelError {
		t.Errorf("a failed rotation is logged at %v, want error", got)
	}
}
