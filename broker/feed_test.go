package broker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// running returns a replica on memory that follows the feed until the test ends.
func running(t *testing.T, memory *brokertest.Memory, upstream *brokertest.Upstream) *fixture {
	t.Helper()
	f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) { cfg.Feed = true })
	f.run(t)
	return f
}

// run runs f until the test ends.
func (f *fixture) run(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	f.stopRun = sync.OnceFunc(func() {
		stop()
		wantReason(t, "Run", <-done, "")
	})
	t.Cleanup(f.stopRun)
}

// runningFleet returns n replicas that follow the feed.
func runningFleet(t *testing.T, n int) []*fixture {
	t.Helper()
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	var replicas []*fixture
	for range n {
		replicas = append(replicas, running(t, memory, upstream))
	}
	return replicas
}

// disableAll disables client-0 and those after it, all at once.
func (f *fixture) disableAll(t *testing.T, clients int) {
	t.Helper()
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			_, err := f.SetDisabled(t.Context(), fmt.Sprint("client-", i), true)
			wantReason(t, "SetDisabled", err, "")
		})
	}
	group.Wait()
}

func onFeed(c brokertest.Call) bool { return c.Key == "feed" }

// TestAChangeTakesEffectEverywhere within 2 s, also for the first caller after that.
func TestAChangeTakesEffectEverywhere(t *testing.T) {
	for _, stop := range stops {
		t.Run(stop.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := runningFleet(t, 3)
				f := replicas[0]
				f.create(t, "acme")
				f.stage(t, "acme", "next-secret")
				var before *broker.Token
				for _, b := range replicas {
					before = b.token(t, "acme")
				}
				time.Sleep(10 * time.Minute)
				wantReason(t, stop.name, stop.do(t, f), "")
				time.Sleep(2 * time.Second)
				for i, b := range replicas {
					after, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					wantReason(t, fmt.Sprint("GetToken on replica ", i), err, stop.want)
					if after != nil && after.ID == before.ID {
						t.Errorf("replica %d still serves the old token", i)
					}
				}
			})
		})
	}
}

// TestAResetTakesEffectEverywhere although nothing of the client's record changes.
func TestAResetTakesEffectEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 2)
		f, other := replicas[0], replicas[1]
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
		for _, b := range replicas {
			wantReason(t, "GetToken", b.ask(t), broker.ReasonClientRejected)
		}
		wantReason(t, "ResetUpstream", f.ResetUpstream(t.Context(), "acme"), "")
		time.Sleep(5 * time.Second) // the shared failure holds so long
		wantReason(t, "GetToken on the other replica", other.ask(t), "")
	})
}

// TestACrashBetweenAChangeAndItsEntry: the announcement before it makes the others
// look all the same.
func TestACrashBetweenAChangeAndItsEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 2)
		dying, other := replicas[0], replicas[1]
		dying.create(t, "acme")
		other.token(t, "acme")
		time.Sleep(time.Minute)
		slow := brokertest.Before(func(brokertest.Call) { time.Sleep(8 * time.Second) })
		dying.store.Once(slow, brokertest.On(brokertest.OpWrite, "clients/"))
		wantReason(t, "SetDisabled", func() error { _, err := dying.SetDisabled(t.Context(), "acme", true); return err }(), "")
		dying.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(2 * time.Second)
		wantReason(t, "GetToken on the other replica", other.ask(t), broker.ReasonClientDisabled)
	})
}

// TestWhatCouldNotBeTold is told when the feed can be written again: one change, and more
// of them than are kept.
func TestWhatCouldNotBeTold(t *testing.T) {
	for _, clients := range []int{1, 4097} {
		t.Run(fmt.Sprint(clients), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := runningFleet(t, 2)
				f, other := replicas[0], replicas[1]
				for i := range clients {
					f.create(t, fmt.Sprint("client-", i))
				}
				last := fmt.Sprint("client-", clients-1)
				other.token(t, last)
				time.Sleep(time.Minute)
				f.store.Always(brokertest.Fail(broker.ReasonStorePermissionDenied), brokertest.On(brokertest.OpWrite, "feed"))
				f.disableAll(t, clients)
				time.Sleep(time.Minute)
				other.token(t, last) // nobody told it
				f.store.Heal()
				time.Sleep(3 * time.Second)
				_, _, _ = other.GetToken(t.Context(), broker.TokenQuery{ClientID: last}) // reads the record again, if that is in doubt
				synctest.Wait()
				_, _, err := other.GetToken(t.Context(), broker.TokenQuery{ClientID: last})
				wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
				if got, most := strings.Count(f.log.String(), "not told of changes yet"), 4; got == 0 || got > most {
					t.Errorf("%d warnings, want some but at most %d", got, most)
				}
			})
		})
	}
}

// TestTheFeedSavesReads: records in memory are not read again while nothing changes,
// however many there are and however often they are used.
func TestTheFeedSavesReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runningFleet(t, 1)[0]
		const clients = 50
		for i := range clients {
			f.create(t, fmt.Sprint("client-", i))
			f.token(t, fmt.Sprint("client-", i))
		}
		time.Sleep(3 * time.Second)
		f.store.Reset()
		for range 600 {
			for i := range clients {
				f.token(t, fmt.Sprint("client-", i))
			}
			time.Sleep(time.Second)
		}
		if got, most := f.store.Count(brokertest.Any), 810; got > most {
			t.Errorf("%d calls to the store in 600s, want one look at the feed per second and one at the rotations per five", got)
		}
	})
}

// TestOneWriteForManyChanges: announcements before and after a hundred changes share
// writes, at most one per quarter of a second.
func TestOneWriteForManyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 2)
		f, other := replicas[0], replicas[1]
		const clients = 100
		for i := range clients {
			f.create(t, fmt.Sprint("client-", i))
			other.token(t, fmt.Sprint("client-", i))
		}
		time.Sleep(time.Minute)
		f.store.Reset()
		start := time.Now()
		f.disableAll(t, clients)
		if took, most := time.Since(start), time.Second; took > most {
			t.Errorf("took %v, want at most %v", took, most)
		}
		time.Sleep(2 * time.Second)
		if got, most := f.store.Count(brokertest.On(brokertest.OpWrite, "feed")), 4; got > most {
			t.Errorf("%d writes to the feed, want at most %d", got, most)
		}
		for i := range clients {
			_, _, err := other.GetToken(t.Context(), broker.TokenQuery{ClientID: fmt.Sprint("client-", i)})
			wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
		}
	})
}

// TestAGapInTheFeed: what was missed, or undone by a restored backup, is found out
// when it is used, and not all at once.
func TestAGapInTheFeed(t *testing.T) {
	gaps := map[string]func(t *testing.T, f *fixture){
		"the feed is gone": func(_ *testing.T, f *fixture) { f.memory.Remove("feed", broker.AbsentNeverExisted) },
		"it ran backwards": func(t *testing.T, f *fixture) { f.memory.Put("feed", counter(t, f, 1)) },
		"it ran far ahead": func(t *testing.T, f *fixture) { f.memory.Put("feed", counter(t, f, 1_000_000)) },
		"it is of another uid": func(t *testing.T, f *fixture) {
			f.memory.Put("feed", replaced(`"uid":"`, `"uid":"x`)(recordOf(t, f.memory, "feed")))
		},
	}
	for name, gap := range gaps {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := runningFleet(t, 1)[0]
				const clients = 50
				for i := range clients {
					f.create(t, fmt.Sprint("client-", i))
					f.token(t, fmt.Sprint("client-", i))
				}
				for range 3 { // so that the counter has somewhere to run back from
					_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "client-0", Edit: func(*broker.Client) {}})
					wantReason(t, "UpdateClient", err, "")
				}
				time.Sleep(time.Minute)
				// A change that no entry tells of.
				open(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, nil).SetDisabled(t.Context(), "client-7", true)
				gap(t, f)
				f.store.Reset()
				time.Sleep(10 * time.Second)
				if got := f.store.Count(brokertest.On(brokertest.OpRead, "clients/")); got > 1 {
					t.Errorf("%d records were read again although nobody used them", got)
				}
				f.token(t, "client-7") // from memory, while it is read
				synctest.Wait()
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "client-7"})
				wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
				for range 10 {
					f.token(t, "client-1")
					time.Sleep(5 * time.Second)
				}
				if got, most := f.store.Count(brokertest.On(brokertest.OpRead, "clients/")), 3; got > most {
					t.Errorf("%d reads of records, want each at most once", got)
				}
			})
		})
	}
}

// counter returns the feed with another counter.
func counter(t *testing.T, f *fixture, n int) string {
	t.Helper()
	record := recordOf(t, f.memory, "feed")
	begin := strings.Index(record, `"counter":`) + len(`"counter":`)
	end := begin + strings.Index(record[begin:], ",")
	return record[:begin] + fmt.Sprint(n) + record[end:]
}

// TestABlindReplica notices changes as one without a feed does, and sees again.
func TestABlindReplica(t *testing.T) {
	faults := map[string]func(t *testing.T, f *fixture){
		"denied": func(_ *testing.T, f *fixture) {
			f.store.Always(brokertest.Fail(broker.ReasonStorePermissionDenied), onFeed)
		},
		"newer": func(t *testing.T, f *fixture) {
			f.memory.Put("feed", replaced(`"schema":1`, `"schema":2`)(recordOf(t, f.memory, "feed")))
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replicas := runningFleet(t, 2)
				f, blind := replicas[0], replicas[1]
				f.create(t, "acme")
				_, err := f.SetDisabled(t.Context(), "acme", false)
				wantReason(t, "SetDisabled", err, "")
				_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(*broker.Client) {}})
				wantReason(t, "UpdateClient", err, "")
				blind.token(t, "acme")
				time.Sleep(10 * time.Second)
				before := recordOf(t, f.memory, "feed")
				fault(t, blind)
				time.Sleep(10 * time.Second)
				_, err = f.SetDisabled(t.Context(), "acme", true)
				wantReason(t, "SetDisabled", err, "")
				time.Sleep(6 * time.Second)
				blind.token(t, "acme")
				synctest.Wait()
				wantReason(t, "GetToken", blind.ask(t), broker.ReasonClientDisabled)
				if want := "noticed late"; !strings.Contains(blind.log.String(), want) {
					t.Errorf("log %s, want %q in it", blind.log, want)
				}
				blind.store.Heal()
				f.memory.Put("feed", before) // as an operator would
				time.Sleep(3 * time.Second)
				_, err = f.SetDisabled(t.Context(), "acme", false)
				wantReason(t, "SetDisabled", err, "")
				time.Sleep(2 * time.Second)
				wantReason(t, "GetToken when it sees again", blind.ask(t), "")
			})
		})
	}
}

// TestTheFeedIsBounded, by its entries and by their size.
func TestTheFeedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := runningFleet(t, 1)[0]
		ids := []string{"a", strings.Repeat("b", 128)}
		for _, id := range ids {
			f.create(t, id)
		}
		for round := range 3 {
			var group sync.WaitGroup
			for range 1500 {
				group.Go(func() {
					_, _ = f.SetDisabled(t.Context(), ids[1], round%2 == 0) // most conflict, which is announced too
				})
			}
			group.Wait()
			time.Sleep(time.Second)
		}
		if got, most := len(recordOf(t, f.memory, "feed")), broker.MaxRecordBytes; got > most {
			t.Errorf("the feed has %d bytes, want at most %d", got, most)
		}
	})
}
