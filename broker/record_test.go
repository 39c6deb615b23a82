package broker_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs; if the change is meant, run go test ./broker -update. Got\n%s\nwant\n%s", path, text, want)
	}
}

// random is what differs from run to run, and what stands for it in a golden file.
var random = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`hmac-sha256:[a-z2-7]{8}:[0-9a-f]{32}`), "hmac-sha256:<key id>:<32 hex digits>"},
	{regexp.MustCompile(`"[a-z2-7]{26}"`), `"<26 characters>"`},
	{regexp.MustCompile(`"id": "[a-z2-7]{8}"`), `"id": "<8 characters>"`},
	{regexp.MustCompile(`"[A-Za-z0-9+/]{43}="`), `"<32 bytes>"`},
}

func maskRandom(text string) string {
	for _, r := range random {
		text = r.pattern.ReplaceAllLiteralString(text, r.name)
	}
	return text
}

func indented(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

// noRotator takes settings and is never asked for more.
type noRotator struct{ broker.Rotator }

func (noRotator) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{Shape: broker.ShapeOverlapping, Optional: []string{"application_id"}}
}

// everything returns a store with a client that has a value in each field.
func everything(t *testing.T) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.Rotators = map[string]broker.Rotator{"entra": noRotator{}}
	})
	now := time.Now()
	f.create(t, "acme", func(n *broker.NewClient) {
		n.Labels, n.RequestID = map[string]string{"env": "prod", "team": "crm"}, "request-1"
		n.Upstream.Authentication = broker.Authentication{
			Method: broker.PrivateKeyJWT, SigningAlgorithm: "ES256", KeyID: "key-1", AssertionAudience: "https://as.example",
		}
		n.Upstream.Parameters = map[string]string{"tenant": "a&b"}
		n.Upstream.RevocationEndpoint = "https://as.example/revoke"
		n.Upstream.IssueBudget, n.Upstream.MaxLiveTokens = broker.IssueBudget{Tokens: 50, Period: 12 * time.Hour}, 10
		n.Upstream.TokenDestinations = []string{"https://management.example"}
		n.Rotation = broker.RotationSettings{
			Rotator: "entra", Parameters: map[string]string{"application_id": "a"}, Endpoint: "https://management.example/v1", ManagementClient: "manager",
			Account: "tenant-1", TokensEndWithSecret: true, VerifyTokens: 2, VerifySpacing: time.Second, Propagation: time.Minute, Overlap: 2 * time.Hour,
			Every: 90 * 24 * time.Hour, BeforeExpiry: 24 * time.Hour, Windows: []broker.RotationWindow{{Days: []string{"mon"}, Begin: "22:00", End: "04:00"}},
		}
		n.TokenPolicy = broker.TokenPolicy{MinValidity: time.Minute, AssumedLifetime: time.Hour, RequireAllScopes: true}
		n.Secret = broker.SecretInput{Value: secret.NewString(`{"kty":"1"}`), ExpireTime: now.Add(24 * time.Hour)}
	})
	time.Sleep(time.Minute)
	f.stage(t, "acme", `{"kty":"2"}`)
	f.promote(t, "acme")
	if _, err := f.StageSecret(t.Context(), "acme", input(`{"kty":"3"}`), "request-2"); err != nil {
		t.Fatalf("StageSecret: %v", err)
	}
	f.stage(t, "acme", `{"kty":"4"}`)
	f.promote(t, "acme")
	f.store.Once(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.On(brokertest.OpDestroy, "secrets/"))
	wantReason(t, "RetireSecret", f.RetireSecret(t.Context(), "acme", 1), broker.ReasonStoreUnreachable)
	f.stage(t, "acme", `{"kty":"5"}`)
	if _, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: 4, DropTokens: true}); err != nil {
		t.Fatalf("PromoteSecret: %v", err)
	}
	if _, err := f.RevokeTokens(t.Context(), "acme"); err != nil {
		t.Fatalf("RevokeTokens: %v", err)
	}
	if _, err := f.SetDisabled(t.Context(), "acme", true); err != nil {
		t.Fatalf("SetDisabled: %v", err)
	}
	if _, err := f.DeleteClient(t.Context(), "acme", ""); err != nil {
		t.Fatalf("DeleteClient: %v", err)
	}
	return f
}

// TestRecordFields notices each field that comes or goes. Which ones need a new schema, since
// older releases write records without what they do not know: docs/adr/0031.
func TestRecordFields(t *testing.T) {
	var fields []string
	for where, record := range broker.Stored() {
		fields = append(fields, membersOf(where, reflect.TypeOf(record))...)
	}
	slices.Sort(fields)
	golden(t, "fields.golden.txt", strings.Join(fields, "\n")+"\n")
	if len(fields) < 150 {
		t.Errorf("%d fields only", len(fields))
	}
}

// membersOf lists the members of the JSON of a type, those of what is in it too.
func membersOf(path string, t reflect.Type) []string {
	switch kind := t.Kind(); {
	case kind == reflect.Pointer, kind == reflect.Slice && t.Elem().Kind() != reflect.Uint8, kind == reflect.Map:
		return membersOf(path, t.Elem())
	case kind != reflect.Struct || t == reflect.TypeFor[time.Time]():
		return []string{path + " " + strings.TrimPrefix(t.String(), "broker.")}
	}
	var fields []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			fields = append(fields, membersOf(path, f.Type)...)
		case name != "-" && f.IsExported():
			fields = append(fields, membersOf(path+"."+cmp.Or(name, f.Name), f.Type)...)
		}
	}
	return fields
}

// TestRecordFormats notices a change of what is stored: a field that is renamed or
// removed needs a new schema and a way to read the old one.
func TestRecordFormats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := everything(t)
		golden(t, "client.golden.json", maskRandom(indented(t, recordOf(t, f.memory, "clients/82/acme"))))
		golden(t, "secret.golden.json", maskRandom(indented(t, recordOf(t, f.memory, keysUnder(f.memory, "secrets/")[1]))))
		golden(t, "rotation.golden.json", maskRandom(indented(t, recordOf(t, f.memory, keysUnder(f.memory, "rotations/")[0]))))
		golden(t, "meta.golden.json", maskRandom(indented(t, recordOf(t, f.memory, "meta"))))
		f.memory.Remove("clients/82/acme", broker.AbsentNeverExisted)
		_, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: broker.Upstream{
			TokenEndpoint: endpoint, ClientID: "c", Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
		}})
		wantReason(t, "CreateClient", err, "")
		golden(t, "client-least.golden.json", maskRandom(indented(t, recordOf(t, f.memory, "clients/82/acme"))))
	})
}

// TestWhereRecordsAre: the paths are part of the format, and of Vault's policy.
func TestWhereRecordsAre(t *testing.T) {
	f := newFixture(t)
	a, b := f.create(t, "acme"), f.create(t, "b.c_d-e")
	got := strings.Join(f.memory.Keys(), "\n")
	want := strings.Join([]string{
		"clients/82/acme", "clients/" + shard("b.c_d-e") + "/b.c_d-e", "meta",
		"secrets/acme/" + a.UID + "-1", "secrets/b.c_d-e/" + b.UID + "-1",
	}, "\n")
	if got != want {
		t.Errorf("keys =\n%s\nwant\n%s", got, want)
	}
}

func writeStore(t *testing.T, path string, memory *brokertest.Memory) {
	records := map[string]json.RawMessage{}
	for _, key := range memory.Keys() {
		records[key] = json.RawMessage(recordOf(t, memory, key))
	}
	encoded, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(encoded, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAStoreOfSchema1 opens a store as the first release wrote it. The file is
// never written anew: whoever changes a format changes the reading, too.
func TestAStoreOfSchema1(t *testing.T) {
	path := filepath.Join("testdata", "store-schema1.json")
	if _, err := os.Stat(path); *update && os.IsNotExist(err) {
		synctest.Test(t, func(t *testing.T) { writeStore(t, path, everything(t).memory) })
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]json.RawMessage
	if err := json.Unmarshal(text, &records); err != nil {
		t.Fatal(err)
	}
	memory := brokertest.NewMemory()
	for key, record := range records {
		memory.Put(key, string(record))
	}
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), nil)
	f.upstream.Register("client-id-of-acme", `{"kty":"4"}`)

	c := f.get(t, "acme")
	if got, want := stages(c), "1 destroying, 2 previous, 3 unlabelled, 4 current, 5 pending"; got != want {
		t.Errorf("stages = %q, want %q", got, want)
	}
	if c.State() != broker.StateDeleted || !c.Disabled || c.MinSecretVersion != 4 || c.NextVersion != 6 || c.CreateRequestID != "request-1" {
		t.Errorf("client = %s", describe(t, c))
	}
	wantSound(t, memory, "acme")
	_, err = f.UndeleteClient(t.Context(), "acme")
	wantReason(t, "UndeleteClient", err, "")
	_, err = f.SetDisabled(t.Context(), "acme", false)
	wantReason(t, "SetDisabled", err, "")
	f.token(t, "acme")
	if r := f.sent.all()[0]; r.Secret.RevealString() != `{"kty":"4"}` || r.Parameters["tenant"] != "a&b" || r.Authentication.KeyID != "key-1" {
		t.Errorf("request = %+v", r)
	}
	wantReason(t, "RetireSecret", f.RetireSecret(t.Context(), "acme", 1), "")
	wantSound(t, memory, "acme")
}
