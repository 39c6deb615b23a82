package broker_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestAStoreThatIsNotOurs: whatever is wrong with the meta record, nothing is
// written and nothing is read on.
func TestAStoreThatIsNotOurs(t *testing.T) {
	shortKey := func(record string) string {
		begin, end := strings.Index(record, `"key":"`)+len(`"key":"`), strings.LastIndex(record, `"}]`)
		return record[:begin] + "AAAA" + record[end:]
	}
	noKeys := func(record string) string {
		return record[:strings.Index(record, `"fingerprint_keys"`)] + `"fingerprint_keys":[]}`
	}
	change := func(edit func(string) string) func(*testing.T, *brokertest.Memory) {
		return func(t *testing.T, m *brokertest.Memory) { m.Put("meta", edit(recordOf(t, m, "meta"))) }
	}
	gone := func(how broker.Absence) func(*testing.T, *brokertest.Memory) {
		return func(_ *testing.T, m *brokertest.Memory) { m.Remove("meta", how) }
	}
	tests := []struct {
		name    string
		prepare func(*testing.T, *brokertest.Memory)
		want    broker.Reason
		stage   string
	}{
		{"no meta, but our data", gone(broker.AbsentNeverExisted), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"no meta, but foreign data", func(_ *testing.T, m *brokertest.Memory) {
			for _, key := range m.Keys() {
				m.Remove(key, broker.AbsentNeverExisted)
			}
			m.Put("app/config", `{"password":"canary"}`)
		}, broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"another product's", change(replaced("tokenbroker", "something")), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"foreign record of that name", change(whole(`{"password":"canary"}`)), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"no product", change(replaced(`"product"`, `"x"`)), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"no keys", change(noKeys), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"key too short", change(shortKey), broker.ReasonStoreForeignData, broker.StageStoreUsable},
		{"no JSON", change(whole("canary")), broker.ReasonRecordCorrupt, broker.StageStoreUsable},
		{"newer schema", change(replaced(`"schema":1`, `"schema":2`)), broker.ReasonRecordSchemaNewer, broker.StageStoreUsable},
		{"deleted", gone(broker.AbsentDeleted), broker.ReasonRecordDeleted, broker.StageStoreUsable},
		{"destroyed", gone(broker.AbsentDestroyed), broker.ReasonRecordDestroyed, broker.StageStoreUsable},
		{"pruned", gone(broker.AbsentPruned), broker.ReasonRecordPruned, broker.StageStoreUsable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			test.prepare(t, f.memory)
			before := content(t, f.memory)
			b := f.replica(t)
			for range 2 { // the failure is not remembered as success
				err := b.Ready(t.Context())
				wantReason(t, "Ready", err, test.want)
				if strings.Contains(err.Error(), "canary") {
					t.Errorf("Ready quotes the record: %v", err)
				}
			}
			_, err := b.CreateClient(t.Context(), newClient("other"))
			wantReason(t, "CreateClient", err, test.want)
			n := newClient("other")
			n.Secret = broker.SecretInput{}
			_, err = b.CreateClient(t.Context(), n)
			wantReason(t, "CreateClient without secret", err, test.want)
			_, _, err = b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			if err == nil {
				t.Error("a token was served")
			}
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
			wantRootCause(t, b, "acme", test.stage, test.want)
		})
	}
}

// TestReady makes an empty store one's own, once.
func TestReady(t *testing.T) {
	f := newFixture(t)
	for range 2 {
		if err := f.Ready(t.Context()); err != nil {
			t.Fatalf("Ready: %v", err)
		}
		if got, want := f.memory.Keys(), []string{"meta"}; !slices.Equal(got, want) {
			t.Errorf("keys = %q, want %q", got, want)
		}
	}
	first := recordOf(t, f.memory, "meta")
	if err := f.replica(t).Ready(t.Context()); err != nil || recordOf(t, f.memory, "meta") != first {
		t.Errorf("another replica: %v, or it wrote a meta record of its own", err)
	}
}

// TestReadyAfterAFailure: it may be called again until the store answers.
func TestReadyAfterAFailure(t *testing.T) {
	f := newFixture(t)
	f.store.Always(brokertest.Fail(broker.ReasonStoreSealed), brokertest.Any)
	wantReason(t, "Ready", f.Ready(t.Context()), broker.ReasonStoreSealed)
	f.store.Heal()
	wantReason(t, "Ready", f.Ready(t.Context()), "")
}

// TestForeignDataBesideOurs is left alone and not shown.
func TestForeignDataBesideOurs(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	foreign := []string{"app/config", "clients/readme", "clients/zz/x", "clients/82/Not An Id", "clients/00/acme", "secrets/acme/other-1", "tokens/x"}
	for _, key := range foreign {
		f.memory.Put(key, `{"password":"canary"}`)
	}
	b := f.replica(t)
	if err := b.Ready(t.Context()); err != nil {
		t.Fatalf("Ready: %v", err)
	}
	b.token(t, "acme")
	page, err := b.ListClients(t.Context(), broker.ListQuery{})
	if err != nil || len(page.Clients) != 1 || len(page.Unreadable) != 0 {
		t.Errorf("ListClients = %+v, %v, want acme once", page, err)
	}
	for _, key := range foreign {
		if got, want := recordOf(t, f.memory, key), `{"password":"canary"}`; got != want {
			t.Errorf("%s = %s, want %s", key, got, want)
		}
	}
}
