package broker_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// shard is how ids are spread (design §4); written here once more, because a
// change of it loses every client.
func shard(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:1])
}

// damage changes a record's text.
type damage struct {
	name   string
	change func(record string) string
	want   broker.Reason
	// detail is what the error must name.
	detail string
}

func replaced(old, with string) func(string) string {
	return func(record string) string {
		if !strings.Contains(record, old) {
			panic("the record has no " + old)
		}
		return strings.Replace(record, old, with, 1)
	}
}

func whole(text string) func(string) string { return func(string) string { return text } }

// headerDamages can happen to each record.
var headerDamages = []damage{
	{"empty", whole(""), broker.ReasonRecordCorrupt, ""},
	{"no JSON", whole("canary"), broker.ReasonRecordCorrupt, ""},
	{"cut off", func(r string) string { return r[:len(r)/2] }, broker.ReasonRecordCorrupt, ""},
	{"an array", whole(`["canary"]`), broker.ReasonRecordCorrupt, ""},
	{"empty object", whole(`{}`), broker.ReasonRecordFieldMissing, "schema"},
	{"foreign object", whole(`{"password":"canary"}`), broker.ReasonRecordFieldMissing, "schema"},
	{"newer schema", replaced(`"schema":1`, `"schema":2`), broker.ReasonRecordSchemaNewer, "schema 2"},
	{"schema as text", replaced(`"schema":1`, `"schema":"canary"`), broker.ReasonRecordCorrupt, "schema"},
	{"schema 0", replaced(`"schema":1`, `"schema":0`), broker.ReasonRecordCorrupt, "schema"},
	{"negative schema", replaced(`"schema":1`, `"schema":-1`), broker.ReasonRecordCorrupt, "schema"},
	{"no uid", replaced(`"uid"`, `"xid"`), broker.ReasonRecordFieldMissing, "uid"},
	{"uid is no text", replaced(`"uid":"`, `"uid":7,"x":"`), broker.ReasonRecordCorrupt, "wrong type"},
	{"no write_id", replaced(`"write_id"`, `"xrite_id"`), broker.ReasonRecordFieldMissing, "write_id"},
}

func TestDamagedClientRecords(t *testing.T) {
	damages := append(slices.Clone(headerDamages),
		damage{"no id", replaced(`"id":"acme"`, `"xd":"acme"`), broker.ReasonRecordFieldMissing, "id"},
		damage{"empty id", replaced(`"id":"acme"`, `"id":""`), broker.ReasonRecordFieldMissing, "id"},
		damage{"of another client", replaced(`"id":"acme"`, `"id":"other"`), broker.ReasonRecordCorrupt, "another client"},
		damage{"id in two spellings", replaced(`"id":"acme"`, `"id":"acme","ID":"other"`), broker.ReasonRecordCorrupt, "another client"},
		damage{"no upstream", replaced(`"upstream"`, `"xpstream"`), broker.ReasonRecordFieldMissing, "upstream"},
		damage{"null for upstream", replaced(`"upstream":`, `"upstream":null,"x":`), broker.ReasonRecordFieldMissing, "upstream"},
		damage{"upstream is a list", replaced(`"upstream":`, `"upstream":["canary"],"x":`), broker.ReasonRecordCorrupt, "upstream"},
		damage{"no next_version", replaced(`"next_version"`, `"xext_version"`), broker.ReasonRecordFieldMissing, "next_version"},
		damage{"next_version is a text", replaced(`"next_version":2`, `"next_version":"canary"`), broker.ReasonRecordCorrupt, "next_version"},
		damage{"next_version out of range", replaced(`"next_version":2`, `"next_version":99999999999999999999`), broker.ReasonRecordCorrupt, "next_version"},
		damage{"scopes are a text", replaced(`["read"]`, `"canary"`), broker.ReasonRecordCorrupt, "default_scopes"},
		damage{"a time is none", replaced(`"create_time":"`, `"create_time":"canary`), broker.ReasonRecordCorrupt, ""},
	)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			key := keyUnder(t, f.memory, "clients/")
			f.memory.Put(key, d.change(recordOf(t, f.memory, key)))
			before := content(t, f.memory)
			errs := withID(t, f.replica(t), "acme")
			delete(errs, "CheckLookup")
			for _, operation := range slices.Sorted(maps.Keys(errs)) {
				err := errs[operation]
				wantReason(t, operation, err, d.want)
				if text := err.Error(); !strings.Contains(text, key) || !strings.Contains(text, d.detail) || strings.Contains(text, "canary") {
					t.Errorf("%s: %v, want %s and %q named and nothing quoted", operation, err, key, d.detail)
				}
			}
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
			page, err := f.ListClients(t.Context(), broker.ListQuery{})
			if err != nil || len(page.Clients) != 0 || !slices.Equal(page.Unreadable, []broker.UnreadableClient{{ID: "acme", Reason: d.want}}) {
				t.Errorf("ListClients = %+v, %v, want acme unreadable: %s", page, err, d.want)
			}
			wantRootCause(t, f, "acme", broker.StageIndex, d.want)
		})
	}
}

// wantRootCause checks what CheckLookup blames.
func wantRootCause(t *testing.T, f *fixture, id, stage string, reason broker.Reason) {
	t.Helper()
	report, err := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: id, Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
	if err != nil {
		t.Fatalf("CheckLookup: %v", err)
	}
	cause, _ := report.RootCause()
	if cause.Stage != stage || cause.Reason != reason {
		t.Errorf("CheckLookup: %s %s, want %s %s", cause.Stage, cause.Reason, stage, reason)
	}
}

func TestAbsentClientRecords(t *testing.T) {
	for how, want := range map[broker.Absence]broker.Reason{
		broker.AbsentDeleted: broker.ReasonRecordDeleted, broker.AbsentDestroyed: broker.ReasonRecordDestroyed,
		broker.AbsentPruned: broker.ReasonRecordPruned,
	} {
		t.Run(how.String(), func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.memory.Remove(keyUnder(t, f.memory, "clients/"), how)
			errs := withID(t, f.replica(t), "acme")
			delete(errs, "CheckLookup")
			for _, operation := range slices.Sorted(maps.Keys(errs)) {
				wantReason(t, operation, errs[operation], want)
			}
			wantRootCause(t, f, "acme", broker.StageIndex, want)
		})
	}
}

func TestDamagedSecretRecords(t *testing.T) {
	damages := append(slices.Clone(headerDamages),
		damage{"no value", replaced(`"value"`, `"xalue"`), broker.ReasonRecordFieldMissing, "value"},
		damage{"empty value", replaced(password, ``), broker.ReasonRecordFieldMissing, "value"},
		damage{"value is a number", replaced(`"`+password+`"`, `7`), broker.ReasonRecordCorrupt, "value"},
		damage{"no number", replaced(`"number"`, `"xumber"`), broker.ReasonRecordFieldMissing, "number"},
		damage{"another value", replaced(password, "canary"), broker.ReasonSecretChangedOutside, "fingerprint"},
		damage{"value with a newline", replaced(password, password+`\n`), broker.ReasonSecretChangedOutside, "fingerprint"},
		damage{"value in another case", replaced(password, strings.ToUpper(password)), broker.ReasonSecretChangedOutside, "fingerprint"},
		damage{"another number", replaced(`"number":1`, `"number":2`), broker.ReasonSecretChangedOutside, "fingerprint"},
		damage{"another uid", replaced(`"uid":"`, `"uid":"x`), broker.ReasonSecretChangedOutside, "fingerprint"},
	)
	for how, reason := range map[broker.Absence]broker.Reason{
		broker.AbsentNeverExisted: broker.ReasonSecretAbsent, broker.AbsentDeleted: broker.ReasonSecretDeleted,
		broker.AbsentDestroyed: broker.ReasonSecretDestroyed, broker.AbsentPruned: broker.ReasonSecretPruned,
	} {
		damages = append(damages, damage{how.String(), nil, reason, how.String()})
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			key := keyUnder(t, f.memory, "secrets/")
			if d.change != nil {
				f.memory.Put(key, d.change(recordOf(t, f.memory, key)))
			}
			for how := broker.AbsentNeverExisted; d.change == nil && how <= broker.AbsentPruned; how++ {
				if how.String() == d.name {
					f.memory.Remove(key, how)
				}
			}
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, d.want)
			if text := err.Error(); !strings.Contains(text, key) || !strings.Contains(text, d.detail) || strings.Contains(text, "canary") {
				t.Errorf("%v, want %s and %q named and nothing quoted", err, key, d.detail)
			}
			if got := len(f.sent.all()); got != 0 {
				t.Errorf("%d requests left with a secret that is not the one that was stored", got)
			}
			stage := broker.StageSecretIntact
			if d.change == nil {
				stage = broker.StageSecretPresent
			}
			wantRootCause(t, f, "acme", stage, d.want)
		})
	}
}

// TestFingerprints: what a fingerprint covers cannot be changed in the store
// without being noticed, by one who does not have the key.
func TestFingerprints(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, m *brokertest.Memory, a, b *broker.Client)
	}{
		{"two clients' values swapped", func(t *testing.T, m *brokertest.Memory, a, b *broker.Client) {
			keyA, keyB := "secrets/a/"+a.UID+"-1", "secrets/b/"+b.UID+"-1"
			valueA, valueB := recordOf(t, m, keyA), recordOf(t, m, keyB)
			m.Put(keyA, valueB)
			m.Put(keyB, valueA)
		}},
		{"another client's value with the uid put right", func(t *testing.T, m *brokertest.Memory, a, b *broker.Client) {
			m.Put("secrets/a/"+a.UID+"-1", strings.ReplaceAll(recordOf(t, m, "secrets/b/"+b.UID+"-1"), b.UID, a.UID))
		}},
		{"an older version's value with the number put right", func(t *testing.T, m *brokertest.Memory, a, _ *broker.Client) {
			older := recordOf(t, m, "secrets/a/"+a.UID+"-1")
			m.Put("secrets/a/"+a.UID+"-2", strings.Replace(older, `"number":1`, `"number":2`, 1))
			m.Put("clients/"+shard("a")+"/a", strings.NewReplacer(`"number":1,"stage":"current"`, `"number":1`, `"number":2,"stage":"pending"`, `"number":2,"stage":"current"`).
				Replace(recordOf(t, m, "clients/"+shard("a")+"/a")))
		}},
		{"other destinations in the record", func(t *testing.T, m *brokertest.Memory, _, _ *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			m.Put("clients/"+shard("a")+"/a", strings.ReplaceAll(record, "https://as.example", "https://evil.example"))
		}},
		{"one more destination in the record", func(t *testing.T, m *brokertest.Memory, _, _ *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			record = strings.ReplaceAll(record, `["https://as.example"]`, `["https://as.example","https://evil.example"]`)
			m.Put("clients/"+shard("a")+"/a", strings.Replace(record, `"https://as.example/token"`, `"https://evil.example/token"`, 1))
		}},
		{"two destinations in one", func(t *testing.T, m *brokertest.Memory, _, _ *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			m.Put("clients/"+shard("a")+"/a", strings.ReplaceAll(record, `["https://as.example"]`, `["https://as.example",""]`))
		}},
		{"another client's fingerprint", func(t *testing.T, m *brokertest.Memory, a, b *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			m.Put("clients/"+shard("a")+"/a", strings.Replace(record, a.Secrets[0].Fingerprint, b.Secrets[0].Fingerprint, 1))
		}},
		{"no fingerprint", func(t *testing.T, m *brokertest.Memory, a, _ *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			m.Put("clients/"+shard("a")+"/a", strings.Replace(record, a.Secrets[0].Fingerprint, "", 1))
		}},
		{"fingerprint of an unknown key", func(t *testing.T, m *brokertest.Memory, a, _ *broker.Client) {
			record := recordOf(t, m, "clients/"+shard("a")+"/a")
			other := strings.Replace(a.Secrets[0].Fingerprint, "hmac-sha256:", "hmac-sha256:x", 1)
			m.Put("clients/"+shard("a")+"/a", strings.Replace(record, a.Secrets[0].Fingerprint, other, 1))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			a := f.create(t, "a")
			b := f.create(t, "b", func(n *broker.NewClient) { n.Secret = input("secret-of-b") })
			f.stage(t, "a", "next-secret")
			test.change(t, f.memory, a, b)
			replica := f.replica(t)
			_, _, err := replica.GetToken(t.Context(), broker.TokenQuery{ClientID: "a"})
			wantReason(t, "GetToken", err, broker.ReasonSecretChangedOutside)
			wantRootCause(t, replica, "a", broker.StageSecretIntact, broker.ReasonSecretChangedOutside)
			if got := len(replica.sent.all()); got != 0 {
				t.Errorf("%d requests left", got)
			}
		})
	}
}

// unchecked is a store that hands out whatever it finds at one key.
type unchecked struct {
	broker.Store
	key, text string
}

func (u unchecked) Read(ctx context.Context, key string) (broker.Record, error) {
	if key == u.key {
		return broker.Record{Data: secret.NewString(u.text), Version: 1}, nil
	}
	return u.Store.Read(ctx, key)
}

// TestAStoreThatChecksNothing: what is no JSON is refused here, too, without being quoted.
func TestAStoreThatChecksNothing(t *testing.T) {
	f := newFixture(t)
	c := f.create(t, "acme")
	for _, key := range []string{"clients/" + shard("acme") + "/acme", "secrets/acme/" + c.UID + "-1", "meta"} {
		for _, text := range []string{"", "canary", `"canary"`, `["canary"]`, `{"canary":`, `{"schema":1,"uid":"canary\x00"}`, "null"} {
			b := open(t, f.memory, f.store, f.upstream, func(cfg *broker.Config) { cfg.Store = unchecked{f.memory, key, text} })
			_, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			switch reason := broker.ReasonOf(err); {
			case reason == broker.ReasonInternal || reason == "":
				t.Errorf("%q at %s: %v", text, key, err)
			case strings.Contains(err.Error(), "canary"):
				t.Errorf("%q at %s is quoted: %v", text, key, err)
			}
		}
	}
}
