package broker_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// deleted registers acme with tokens, several versions and a parked state of its
// upstream, and deletes it.
func (f *fixture) deleted(t *testing.T) *broker.Client {
	t.Helper()
	f.create(t, "acme")
	f.token(t, "acme")
	f.stage(t, "acme", "next-secret")
	f.promote(t, "acme")
	c, err := f.DeleteClient(t.Context(), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"grants/" + c.UID + "/a-subject", "upstream/" + c.UID, "usage/" + c.UID} {
		f.memory.Put(key, `{"schema":1,"uid":"`+c.UID+`","write_id":"x"}`)
	}
	return c
}

// remains are the records of a uid that are not destroyed.
func remains(t *testing.T, memory *brokertest.Memory, uid string) []string {
	t.Helper()
	var found []string
	for _, key := range memory.Keys() {
		if _, err := memory.Read(t.Context(), key); err == nil && strings.Contains(key, uid) {
			found = append(found, key)
		}
	}
	return found
}

func TestPurgeClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		other := f.replica(t)
		c := f.deleted(t)
		neighbour := f.create(t, "neighbour")
		f.token(t, "neighbour")
		f.store.Reset()
		wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Etag: c.Etag()}), "")
		if got := remains(t, f.memory, c.UID); len(got) != 0 {
			t.Errorf("%q are left", got)
		}
		if got := remains(t, f.memory, neighbour.UID); len(got) != 2 { // value and token
			t.Errorf("a neighbour has %q left", got)
		}
		wantPurgeOrder(t, f)
		tombstone := recordOf(t, f.memory, keyOfClient(t, f.memory, "acme"))
		for _, text := range []string{`"uid":"` + c.UID, `"next_version":3`, `"purge_time"`, `"purge_end_time"`} {
			if !strings.Contains(tombstone, text) {
				t.Errorf("the tombstone has no %s: %s", text, tombstone)
			}
		}
		if strings.Contains(tombstone, "as.example") || strings.Contains(tombstone, "client-id-of-acme") {
			t.Errorf("the tombstone says more than it has to: %s", tombstone)
		}
		f.wantGone(t)
		other.wantGone(t)

		before := content(t, f.memory)
		for _, again := range []broker.Purge{{ID: "acme", Etag: c.Etag()}, {ID: "acme", Confirm: c.UID}} {
			wantReason(t, "PurgeClient again", f.PurgeClient(t.Context(), again), "")
		}
		if content(t, f.memory) != before {
			t.Error("the repetition wrote something")
		}

		made := f.create(t, "acme")
		if made.UID == c.UID || made.Etag() == c.Etag() {
			t.Errorf("the next one of that name is %s, as the purged one was", made.Etag())
		}
		wantReason(t, "PurgeClient of the old one", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Confirm: c.UID}), broker.ReasonInvalidRequest)
		f.wantTokenWith(t, password)
		wantSound(t, f.memory, "acme")
	})
}

// wantPurgeOrder: tombstone, grants, tokens, records, secrets, tombstone.
func wantPurgeOrder(t *testing.T, f *fixture) {
	t.Helper()
	var order []string
	for _, call := range f.store.Calls() {
		if folder, _, _ := strings.Cut(call.Key, "/"); call.Op.Writes() && (len(order) == 0 || order[len(order)-1] != folder) {
			order = append(order, folder)
		}
	}
	if want := []string{"clients", "grants", "tokens", "upstream", "usage", "rotations", "secrets", "clients"}; !slices.Equal(order, want) {
		t.Errorf("written in the order %q, want %q", order, want)
	}
}

// wantGone: there is no client acme for anybody.
func (f *fixture) wantGone(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	_, err := f.GetClient(ctx, "acme")
	wantReason(t, "GetClient", err, broker.ReasonClientNotFound)
	_, _, err = f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, broker.ReasonClientNotFound)
	_, err = f.UndeleteClient(ctx, "acme")
	wantReason(t, "UndeleteClient", err, broker.ReasonClientNotFound)
	_, err = f.StageSecret(ctx, "acme", input("another-secret"), "")
	wantReason(t, "StageSecret", err, broker.ReasonClientNotFound)
	_, err = f.RotateSecret(ctx, broker.RotationRequest{ClientID: "acme"})
	wantReason(t, "RotateSecret", err, broker.ReasonClientNotFound)
	for _, filter := range []string{"", "state=deleted"} {
		page, err := f.ListClients(ctx, broker.ListQuery{Filter: filter})
		if err != nil || slices.ContainsFunc(page.Clients, func(c *broker.Client) bool { return c.ID == "acme" }) || len(page.Unreadable) > 0 {
			t.Errorf("ListClients(%q) = %+v, %v", filter, page, err)
		}
	}
}

func TestPurgeRefuses(t *testing.T) {
	f := newFixture(t)
	present := f.create(t, "present")
	c := f.deleted(t)
	tests := []struct {
		name string
		p    broker.Purge
		want broker.Reason
	}{
		{"unknown", broker.Purge{ID: "nobody", Confirm: "x"}, broker.ReasonClientNotFound},
		{"no id", broker.Purge{ID: "../x", Confirm: "x"}, broker.ReasonInvalidRequest},
		{"not confirmed", broker.Purge{ID: "acme"}, broker.ReasonInvalidRequest},
		{"another uid", broker.Purge{ID: "acme", Confirm: present.UID}, broker.ReasonInvalidRequest},
		{"another etag", broker.Purge{ID: "acme", Etag: c.UID + "-1"}, broker.ReasonEtagMismatch},
		{"right uid, another etag", broker.Purge{ID: "acme", Confirm: c.UID, Etag: c.UID + "-1"}, broker.ReasonEtagMismatch},
		{"not deleted", broker.Purge{ID: "present", Confirm: present.UID}, broker.ReasonClientNotDeleted},
	}
	before := content(t, f.memory)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), test.p), test.want)
		})
	}
	if content(t, f.memory) != before {
		t.Error("something was written")
	}
	_, err := f.UndeleteClient(t.Context(), "acme")
	wantReason(t, "UndeleteClient", err, "")
	f.wantTokenWith(t, "next-secret")
}

// TestPurgeSurvivesEachFault: whatever call of it fails, is lost, or is the last one of
// the process, a repetition ends it, and so does whoever looks after the client.
func TestPurgeSurvivesEachFault(t *testing.T) {
	for _, ending := range []struct {
		name string
		do   func(ctx context.Context, f *fixture, c *broker.Client) error
	}{
		{"repeated", func(ctx context.Context, f *fixture, c *broker.Client) error {
			return f.PurgeClient(ctx, broker.Purge{ID: "acme", Confirm: c.UID})
		}},
		{"looked after", func(ctx context.Context, f *fixture, _ *broker.Client) error {
			if err := f.LookAfter(ctx, "acme"); broker.ReasonOf(err) != broker.ReasonClientNotFound {
				return err
			}
			return nil
		}},
	} {
		t.Run(ending.name, func(t *testing.T) {
			var memory *brokertest.Memory
			brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
				memory = brokertest.NewMemory()
				return memory
			}, func(t *testing.T, run *brokertest.Run) {
				synctest.Test(t, func(t *testing.T) {
					process := processes(t, memory)
					dying := process(run.Store)
					c := dying.deleted(t)
					run.Start()
					err := dying.PurgeClient(t.Context(), broker.Purge{ID: "acme", Etag: c.Etag()})
					run.Stop()
					if run.Clean() {
						wantReason(t, "PurgeClient", err, "")
					}
					copied := memory.Clone()
					wantPurgedOrWhole(t, open(t, copied, brokertest.NewFaulty(copied), brokertest.NewUpstream(), nil), c)
					next := process(brokertest.NewFaulty(memory))
					if _, err := next.GetClient(t.Context(), "acme"); err == nil { // it had not begun
						wantReason(t, "PurgeClient", next.PurgeClient(t.Context(), broker.Purge{ID: "acme", Etag: c.Etag()}), "")
					}
					wantReason(t, ending.name, ending.do(t.Context(), next, c), "")
					if got := remains(t, memory, c.UID); len(got) != 0 {
						t.Errorf("%q are left", got)
					}
					next.wantGone(t)
					next.create(t, "acme")
					next.wantTokenWith(t, password)
				})
			})
		})
	}
}

// wantPurgedOrWhole: a client is there with all its values, or not at all.
func wantPurgedOrWhole(t *testing.T, f *fixture, c *broker.Client) {
	t.Helper()
	found, err := f.GetClient(t.Context(), "acme")
	if err == nil && (found.UID != c.UID || found.State() != broker.StateDeleted) {
		t.Errorf("it is %s %s", found.UID, found.State())
	}
	if err != nil {
		wantReason(t, "GetClient", err, broker.ReasonClientNotFound)
	}
	wantSound(t, f.memory, "acme")
	if _, err := f.CreateClient(t.Context(), newClient("acme")); broker.ReasonOf(err) != broker.ReasonClientAlreadyExists && broker.ReasonOf(err) != "" {
		t.Errorf("CreateClient: %v", err)
	} else if err == nil && len(remains(t, f.memory, c.UID)) > 0 {
		t.Errorf("the name was free before the purge was done: %q", remains(t, f.memory, c.UID))
	}
}

// TestAWriterThatIsLateForThePurge has written a value when the client is purged: it
// cannot commit, and nothing of it stays.
func TestAWriterThatIsLateForThePurge(t *testing.T) {
	f := newFixture(t)
	other := f.replica(t)
	c := f.create(t, "acme")
	f.store.Once(brokertest.After(func(brokertest.Call) {
		if _, err := other.DeleteClient(context.Background(), "acme", ""); err != nil {
			t.Error(err)
		}
		if err := other.PurgeClient(context.Background(), broker.Purge{ID: "acme", Confirm: c.UID}); err != nil {
			t.Error(err)
		}
		// As if it had come only now: after the purge has looked.
		f.memory.Put("secrets/acme/"+c.UID+"-2", `{"schema":1,"uid":"`+c.UID+`","write_id":"w","number":2,"value":"next-secret"}`)
	}), brokertest.On(brokertest.OpWrite, "secrets/"))
	_, err := f.StageSecret(t.Context(), "acme", input("next-secret"), "")
	wantReason(t, "StageSecret", err, broker.ReasonConcurrentChange)
	if got := remains(t, f.memory, c.UID); len(got) != 0 {
		t.Errorf("%q are left", got)
	}
	f.wantGone(t)
}

// TestPurgeWaitsForARotation that is making a new secret.
func TestPurgeWaitsForARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := brokertest.NewMemory(), newAlmanac(brokertest.NewUpstream())
		f := scheduled(t, memory, memory, a)
		c := f.create(t, "acme", rotatedEvery(day))
		a.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable}})
		if _, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		_, err := f.DeleteClient(t.Context(), "acme", "")
		wantReason(t, "DeleteClient", err, "")
		wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Confirm: c.UID}), broker.ReasonRotationUnderWay)
		_, err = f.AbortRotation(t.Context(), "acme", "")
		wantReason(t, "AbortRotation", err, "")
		time.Sleep(2 * time.Minute)
		wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Confirm: c.UID}), "")
		time.Sleep(time.Hour)
		if got := remains(t, memory, c.UID); len(got) != 0 {
			t.Errorf("%q are left", got)
		}
	})
}

// TestDeletedClientsArePurged after the time that the configuration says, no sooner and
// not without one.
func TestDeletedClientsArePurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keeps := newFixture(t)
		keeps.run(t)
		memory := brokertest.NewMemory()
		f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) { cfg.PurgeDeletedAfter = 30 * time.Hour })
		f.run(t)
		c := f.deleted(t)
		f.create(t, "present")
		keeps.deleted(t)
		time.Sleep(29 * time.Hour)
		if _, err := f.GetClient(t.Context(), "acme"); err != nil {
			t.Errorf("purged too early: %v", err)
		}
		time.Sleep(4 * time.Hour)
		f.wantGone(t)
		if got := remains(t, memory, c.UID); len(got) != 0 {
			t.Errorf("%q are left", got)
		}
		f.token(t, "present")
		if got := keeps.get(t, "acme").State(); got != broker.StateDeleted {
			t.Errorf("without a time it is %s", got)
		}
	})
}

// TestAPurgedClientIsServedNowhere, neither by replicas that have its token nor by one
// that comes up later.
func TestAPurgedClientIsServedNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		c := f.create(t, "acme")
		for _, r := range replicas {
			r.token(t, "acme")
		}
		_, err := f.DeleteClient(t.Context(), "acme", "")
		wantReason(t, "DeleteClient", err, "")
		wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Confirm: c.UID}), "")
		time.Sleep(2 * time.Second)
		for _, r := range append(replicas, f.replica(t)) {
			r.wantGone(t)
		}
		made := f.create(t, "acme")
		time.Sleep(2 * time.Second)
		for _, r := range replicas {
			if got := r.token(t, "acme"); got.SecretVersion != 1 || r.get(t, "acme").UID != made.UID {
				t.Errorf("the next one of that name gets %+v", got)
			}
		}
	})
}

// TestWhatComesAfterAPurge is looked for during 30 days; what belongs to the next client
// of that name stays.
func TestWhatComesAfterAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		c := f.deleted(t)
		wantReason(t, "PurgeClient", f.PurgeClient(t.Context(), broker.Purge{ID: "acme", Confirm: c.UID}), "")
		late := func() {
			f.memory.Put("tokens/"+c.UID+"/late", `{"schema":1,"uid":"`+c.UID+`","write_id":"w","fence":1}`)
			f.orphan(c.UID, 3, "late-secret", time.Now())
			f.orphan("theuidofthenextone", 1, "another-secret", time.Now())
		}
		late()
		time.Sleep(29 * day)
		wantReason(t, "LookAfter", f.LookAfter(t.Context(), "acme"), broker.ReasonClientNotFound)
		if got := remains(t, f.memory, c.UID); len(got) != 0 {
			t.Errorf("%q are left", got)
		}
		if len(f.memory.Contains("another-secret")) == 0 {
			t.Error("the value of a client that is just being created is gone")
		}
		time.Sleep(2 * day)
		late()
		f.store.Reset()
		wantReason(t, "LookAfter", f.LookAfter(t.Context(), "acme"), broker.ReasonClientNotFound)
		if got := f.store.Calls(); len(got) != 1 {
			t.Errorf("after 30 days it still takes %v", got)
		}
		f.create(t, "acme")
		time.Sleep(2 * day)
		wantReason(t, "LookAfter", f.LookAfter(t.Context(), "acme"), "")
		if got := f.memory.Contains("late-secret"); len(got) != 0 {
			t.Errorf("its predecessor's value stays at %q", got)
		}
		f.wantTokenWith(t, password)
	})
}
