package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// use has callers given the client's default token now.
func (f *fixture) use(t *testing.T, id string, callers ...string) {
	t.Helper()
	for _, caller := range callers {
		f.NoteUse(f.token(t, id), caller, time.Now())
	}
}

func (f *fixture) usage(t *testing.T, id string) broker.Usage {
	t.Helper()
	usage, err := f.Usage(t.Context(), id)
	if err != nil {
		t.Fatalf("Usage(%q): %v", id, err)
	}
	return usage
}

// wantCallers checks who used a client, in any order, "" incomplete for none.
func wantCallers(t *testing.T, usage broker.Usage, want ...string) {
	t.Helper()
	var got []string
	for _, c := range usage.Callers {
		got = append(got, c.Caller)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("callers %q, want %q", got, want)
	}
}

func usageCalls(c brokertest.Call) bool { return strings.HasPrefix(c.Key, "usage/") }

// TestUsage is known at once on the replica that served, by caller and secret version.
func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.use(t, "acme", "crm", "billing", "crm", "")
		begun := time.Now().UTC().Truncate(15 * time.Minute)
		f.stage(t, "acme", "next-secret")
		f.promote(t, "acme")
		if _, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: 2, DropTokens: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		f.use(t, "acme", "crm")
		got := f.usage(t, "acme")
		later := time.Now().UTC().Truncate(15 * time.Minute)
		wantUses := []broker.CallerUse{{"crm", 2, later}, {"crm", 1, begun}, {"billing", 1, begun}}
		if !slices.Equal(got.Callers, wantUses) {
			t.Errorf("callers %v, want %v", got.Callers, wantUses)
		}
		if want := []broker.VersionUse{{1, begun}, {2, later}}; !slices.Equal(got.Versions, want) {
			t.Errorf("versions %v, want %v", got.Versions, want)
		}
		if got.Incomplete != "" || len(got.Failures) > 0 {
			t.Errorf("usage %+v, want no failures and nothing missing", got)
		}
		_, err := f.Usage(t.Context(), "nobody")
		wantReason(t, "Usage of no client", err, broker.ReasonClientNotFound)
	})
}

// TestUsesAreTheirClients: tokens that have had one caller, the same, share the note of
// that. A second caller of one of them is none of the others.
func TestUsesAreTheirClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, id := range []string{"acme", "zeta"} {
			f.create(t, id)
			f.use(t, id, "crm")
		}
		f.use(t, "acme", "billing")
		wantCallers(t, f.usage(t, "zeta"), "crm")
		f.use(t, "zeta", "billing")
		for _, id := range []string{"acme", "zeta"} {
			wantCallers(t, f.usage(t, id), "crm", "billing")
		}
	})
}

// TestReplicasMergeUsage within a quarter of an hour, or at their end, and with few
// calls to the store however many uses there are.
func TestReplicasMergeUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		f.create(t, "acme")
		f.use(t, "acme", "crm")
		replicas[1].use(t, "acme", "billing")
		time.Sleep(16 * time.Minute)
		fresh := f.replica(t)
		wantCallers(t, fresh.usage(t, "acme"), "crm", "billing")
		replicas[2].use(t, "acme", "late")
		replicas[2].stopRun()
		wantCallers(t, f.usage(t, "acme"), "crm", "billing", "late")

		for _, b := range replicas {
			b.store.Reset()
		}
		const hours = 6
		for range hours * 60 {
			f.use(t, "acme", "crm")
			replicas[1].use(t, "acme", "crm")
			time.Sleep(time.Minute)
		}
		writes := 0
		for _, b := range replicas[:2] {
			if got, most := b.store.Count(usageCalls), hours*4*2+4; got > most {
				t.Errorf("%d calls in %d hours, want at most %d", got, hours, most)
			}
			writes += b.store.Count(func(c brokertest.Call) bool { return usageCalls(c) && c.Op == brokertest.OpWrite })
		}
		if most := hours*4 + 2; writes > most || writes < hours*2 {
			t.Errorf("%d writes of two replicas in %d hours, want at most one for a quarter of an hour: %d", writes, hours, most)
		}
		for _, b := range replicas {
			b.store.Reset()
		}
		time.Sleep(6 * time.Hour)
		if got := f.store.Count(usageCalls) + replicas[1].store.Count(usageCalls); got > 4 {
			t.Errorf("%d calls in 6 hours in which nobody used the client", got)
		}
	})
}

// TestUsageOfTwoAtOnce: the write of one replica comes between the other's read and
// write.
func TestUsageOfTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		other := f.replica(t)
		f.run(t)
		other.run(t)
		f.use(t, "acme", "crm")
		other.use(t, "acme", "billing")
		f.store.Once(brokertest.Before(func(brokertest.Call) { other.stopRun() }), brokertest.On(brokertest.OpWrite, "usage/"))
		f.stopRun()
		wantCallers(t, f.replica(t).usage(t, "acme"), "crm", "billing")
		if got := len(f.store.Struck()); got != 1 {
			t.Errorf("%d writes were held up, want 1", got)
		}
	})
}

// TestUsageAndFaults: whatever becomes of a call to the store, nothing that was noted
// is lost while the replica lives, and nothing is invented.
func TestUsageAndFaults(t *testing.T) {
	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			upstream := brokertest.NewUpstream()
			f := open(t, nil, run.Store, upstream, nil)
			f.create(t, "acme")
			upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamTLS, Detail: "canary-7f3a9c"}})
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonUpstreamTLS)
			time.Sleep(time.Minute)
			f.use(t, "acme", "crm", "billing")
			f.run(t)
			synctest.Wait() // what was read again in the background counts for nobody
			run.Ignore = onTimers
			run.Start()
			time.Sleep(16 * time.Minute)
			run.Stop()
			time.Sleep(16 * time.Minute)
			f.token(t, "acme")
			fresh := open(t, nil, run.Store, upstream, nil)
			got := fresh.usage(t, "acme")
			wantCallers(t, got, "crm", "billing")
			if len(got.Failures) != 1 || got.Failures[0].Reason != broker.ReasonUpstreamTLS || got.Failures[0].SecretVersion != 1 ||
				got.Failures[0].Count < 1 || got.Failures[0].Count > 2 || run.Clean() && got.Failures[0].Count != 1 {
				t.Errorf("failures %+v, want one of the TLS handshake", got.Failures)
			}
			c := f.get(t, "acme")
			record, err := run.Store.Read(t.Context(), "usage/"+c.UID)
			if err != nil {
				t.Fatal(err)
			}
			newCanaries(password, "canary-7f3a9c").told(t, "the record", record.Data.RevealString(), fmt.Sprint(got))
		})
	})
}

// TestUsageWhileTheStoreIsAway costs callers nothing and is merged when it is back.
func TestUsageWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ids := numbered(20, "client-%d")
		for _, id := range ids {
			f.create(t, id)
			f.use(t, id, "crm")
		}
		f.run(t)
		f.store.Reset()
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), usageCalls)
		time.Sleep(3 * time.Hour)
		if got, most := f.store.Count(usageCalls), 3*60*5; got > most {
			t.Errorf("%d calls in 3 hours to a store that is away, want at most %d", got, most)
		}
		usage := f.usage(t, ids[0])
		wantCallers(t, usage, "crm")
		if usage.Incomplete != broker.ReasonStoreUnreachable {
			t.Errorf("incomplete %q, want %q", usage.Incomplete, broker.ReasonStoreUnreachable)
		}
		f.store.Heal()
		time.Sleep(3 * time.Minute)
		fresh := f.replica(t)
		for _, id := range ids {
			wantCallers(t, fresh.usage(t, id), "crm")
		}
	})
}

// TestUsageAtTheEnd is merged within bounds although the store hangs.
func TestUsageAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, id := range numbered(40, "client-%d") {
			f.create(t, id)
			f.use(t, id, "crm")
		}
		f.run(t)
		f.store.Always(brokertest.Hang(), usageCalls)
		begun := time.Now()
		f.stopRun()
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the end took %v", took)
		}
	})
}

// TestADamagedUsageRecord blocks nothing, and is left as it is.
func TestADamagedUsageRecord(t *testing.T) {
	damages := []struct {
		name, data string
		want       broker.Reason
	}{
		{"garbage", `{"schema":"x"}`, broker.ReasonRecordCorrupt},
		{"newer", `{"schema":99,"uid":"UID","write_id":"w"}`, broker.ReasonRecordSchemaNewer},
		{"of another client", `{"schema":1,"uid":"other","write_id":"w"}`, broker.ReasonRecordCorrupt},
		{"wrong types", `{"schema":1,"uid":"UID","write_id":"w","callers":7}`, broker.ReasonRecordCorrupt},
	}
	for _, damage := range damages {
		t.Run(damage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				c := f.create(t, "acme")
				f.create(t, "other")
				data := strings.ReplaceAll(damage.data, "UID", c.UID)
				f.memory.Put("usage/"+c.UID, data)
				f.run(t)
				for range 4 {
					f.use(t, "acme", "crm")
					f.use(t, "other", "crm")
					time.Sleep(20 * time.Minute)
				}
				usage := f.usage(t, "acme")
				wantCallers(t, usage, "crm")
				if usage.Incomplete != damage.want {
					t.Errorf("incomplete %q, want %q", usage.Incomplete, damage.want)
				}
				f.stopRun()
				if got := recordOf(t, f.memory, "usage/"+c.UID); got != data {
					t.Errorf("the record is %s now, want it untouched", got)
				}
				wantCallers(t, f.replica(t).usage(t, "other"), "crm")
				if got := strings.Count(f.log.String(), "use of a client not recorded"); got != 1 {
					t.Errorf("%d lines in the log, want 1", got)
				}
			})
		})
	}
}

// TestUsageOfAPurgedClient is not written: the record was destroyed with it.
func TestUsageOfAPurgedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		c := f.create(t, "acme")
		f.memory.Remove("usage/"+c.UID, broker.AbsentDestroyed)
		f.run(t)
		f.use(t, "acme", "crm")
		time.Sleep(time.Hour)
		f.stopRun()
		if got := f.store.Count(func(c brokertest.Call) bool { return usageCalls(c) && c.Op.Writes() }); got != 0 {
			t.Errorf("%d writes, want none", got)
		}
	})
}

// TestUsageIsBounded in callers, in failures and in time; clocks that run ahead do not
// keep what they wrote for ever.
func TestUsageIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		c := f.create(t, "acme")
		now := time.Now().UTC().Truncate(time.Second)
		stamp := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		f.memory.Put("usage/"+c.UID, fmt.Sprintf(`{"schema":1,"uid":%q,"write_id":"w",
			"callers":[{"caller":"old","versions":[{"version":1,"time":%q}]},{"caller":"ahead","versions":[{"version":1,"time":%q}]},
				{"caller":"far ahead","versions":[{"version":1,"time":%q}]},{"caller":"none","versions":[]}],
			"failures":[{"reason":"UPSTREAM_TLS","secret_version":1,"count":7,"first_time":%q,"last_time":%q}]}`,
			c.UID, stamp(-91*24*time.Hour), stamp(time.Hour), stamp(2*365*24*time.Hour), stamp(-92*24*time.Hour), stamp(-91*24*time.Hour)))
		wantCallers(t, f.usage(t, "acme"), "ahead", "far ahead")
		for _, use := range f.usage(t, "acme").Callers {
			if use.LastUseTime.After(now.Add(2 * time.Hour)) {
				t.Errorf("%+v, want a time that has come", use)
			}
		}
		if got := f.usage(t, "acme").Failures; len(got) != 0 {
			t.Errorf("failures %v, want none that is 91 days old", got)
		}
		f.use(t, "acme", "ahead") // a clock that is behind takes nothing back
		for _, use := range f.usage(t, "acme").Callers {
			if use.Caller == "ahead" && !use.LastUseTime.Equal(now.Add(time.Hour)) {
				t.Errorf("%+v, want what the other replica wrote, %v", use, now.Add(time.Hour))
			}
		}

		f.run(t)
		f.use(t, "acme", "crm")
		time.Sleep(20 * time.Minute)
		f.use(t, "acme", numbered(250, "caller-%d")...)
		time.Sleep(20 * time.Minute)
		if got := f.replica(t).usage(t, "acme").Callers; len(got) != 200 || !strings.HasPrefix(got[150].Caller, "caller-") {
			t.Errorf("%d callers, want 200, the latest", len(got))
		}
		if text := recordOf(t, f.memory, "usage/"+c.UID); strings.Contains(text, `"old"`) {
			t.Error("who used the client 91 days ago is still there")
		}
		f.stopRun()
		time.Sleep(89 * 24 * time.Hour)
		f.use(t, "acme", "crm")
		time.Sleep(2 * 24 * time.Hour)
		f.use(t, "acme", "crm")
		wantCallers(t, f.usage(t, "acme"), "crm")
	})
}

// TestFailuresAreKept with how often, since when and until when, the last 20.
func TestFailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.run(t)
		fail := func(reason broker.Reason) {
			f.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: reason}})
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, reason)
			time.Sleep(6 * time.Minute) // beyond any hold-down
		}
		begun := time.Now().UTC().Truncate(time.Second)
		for range 3 {
			fail(broker.ReasonUpstreamTLS)
		}
		fail(broker.ReasonUpstreamRedirected)
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpRead, "clients/"))
		_, _, _ = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"}) // a failure of the store is not the client's
		f.store.Heal()
		want := []broker.UsageFailure{
			{broker.ReasonUpstreamRedirected, 1, 1, begun.Add(18 * time.Minute), begun.Add(18 * time.Minute)},
			{broker.ReasonUpstreamTLS, 1, 3, begun, begun.Add(12 * time.Minute)},
		}
		if got := f.usage(t, "acme").Failures; !slices.Equal(got, want) {
			t.Errorf("failures %+v, want %+v", got, want)
		}
		time.Sleep(20 * time.Minute)
		if got := f.replica(t).usage(t, "acme").Failures; !slices.Equal(got, want) {
			t.Errorf("merged: %+v, want %+v", got, want)
		}
		for _, info := range broker.Reasons() {
			if strings.HasPrefix(string(info.Reason), "UPSTREAM_") || strings.HasSuffix(string(info.Reason), "_REJECTED") && info.Reason != broker.ReasonTokenRejected {
				f.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: info.Reason}})
				_, _, _ = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"}) // what it is does not matter
				wantReason(t, "ResetUpstream", f.ResetUpstream(t.Context(), "acme"), "")
				time.Sleep(2 * time.Hour)
			}
		}
		if got := f.usage(t, "acme").Failures; len(got) < 18 || len(got) > 20 {
			t.Errorf("%d failures, want the last 20", len(got))
		}
	})
}

// onTimers matches the calls of what looks at the store now and then, whatever else goes on.
func onTimers(c brokertest.Call) bool {
	return c.Key == "active-rotations" || c.Key == "crawl" || c.Op == brokertest.OpList
}
