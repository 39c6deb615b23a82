package vault_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

// owners are those to whom other mounts belong. They act as root, by hand.
type owners struct {
	*corner
	theirs string
}

func (o *owners) Put(mount, path string, fields map[string]any) int64 {
	o.t.Helper()
	version := o.must("POST", mount+"/data/"+path, map[string]any{"data": fields})["version"].(float64)
	return int64(version)
}

func (o *owners) Delete(mount, path string, number int64) {
	o.t.Helper()
	o.must("PUT", mount+"/delete/"+path, map[string]any{"versions": []int64{number}})
}

// Wrap wraps what a KV mount answers, as `vault kv get -wrap-ttl` does.
func (o *owners) Wrap(fields map[string]any) secret.Value {
	o.t.Helper()
	o.Put(o.theirs, "oauth/wrapped", fields)
	return o.wrapped(http.MethodGet, o.theirs+"/data/oauth/wrapped", nil, "60s")
}

// WrapElsewhere is what is left to whoever has taken the content out of a token.
func (o *owners) WrapElsewhere(fields map[string]any) secret.Value {
	o.t.Helper()
	return o.wrapped(http.MethodPost, "sys/wrapping/wrap", fields, "60s")
}

// wrapped sends a request whose answer is wrapped.
func (o *owners) wrapped(method, path string, body any, ttl string) secret.Value {
	o.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		o.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(o.t.Context(), method, o.Addr()+"/v1/"+path, bytes.NewReader(encoded))
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", o.RootToken())
	request.Header.Set("X-Vault-Wrap-TTL", ttl)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Info struct{ Token string } `json:"wrap_info"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Info.Token == "" {
		o.t.Fatalf("%s %s: status %d, nothing wrapped: %v", method, path, response.StatusCode, err)
	}
	return secret.NewString(answer.Info.Token)
}

// newOwners returns a corner whose policy is the printed one with a place of a mount
// of others.
func newOwners(t *testing.T) (*owners, []vault.Place) {
	t.Helper()
	c := newCorner(t)
	o := &owners{c, c.NewKV()}
	places := []vault.Place{{Mount: o.theirs, Prefix: brokertest.ReferencesPrefix}}
	c.PutPolicy(c.role, vault.Policy(c.mount, c.prefix, places...))
	return o, places
}

func TestReferences(t *testing.T) {
	o, places := newOwners(t)
	brokertest.TestReferences(t, start(t, o.config).References(places), o, o.theirs)
}

// TestReferencesToOurOwn: whatever the places are, nothing of the broker's is read.
func TestReferencesToOurOwn(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	mustWrite(t, store, "secrets/a/u-1", secret.NewString(`{"value":"canary"}`), 0)
	own := c.prefix + "/secrets/a/u-1"
	before, after, _ := strings.Cut(c.mount+"/data/"+own, "/data/")
	for _, places := range [][]vault.Place{{{Mount: c.mount}}, {{Mount: c.mount, Prefix: c.prefix}}, {{Mount: before}, {Mount: "x"}}} {
		references := store.References(places)
		for _, r := range []broker.SecretReference{
			{Mount: c.mount, Path: own, Field: "value"},
			{Mount: c.mount, Path: after, Field: "value"},
			{Mount: c.mount + "/", Path: own, Field: "value"},
			{Mount: "/" + c.mount, Path: own, Field: "value"},
			{Mount: c.mount + "/data", Path: own, Field: "value"},
			{Mount: "x/../" + c.mount, Path: own, Field: "value"},
			{Mount: "x", Path: "../../" + c.mount + "/data/" + own, Field: "value"},
			{Mount: "x", Path: "..%2F..%2F" + c.mount + "%2Fdata%2F" + own, Field: "value"},
			{Mount: "", Path: c.mount + "/data/" + own, Field: "value"},
		} {
			_, err := references.Read(t.Context(), r, 0)
			wantReason(t, "Read of "+r.String(), err, broker.ReasonReferenceNotAllowed)
			_, err = references.Version(t.Context(), r)
			wantReason(t, "Version of "+r.String(), err, broker.ReasonReferenceNotAllowed)
		}
	}
}

// TestReferencesUnreadable has what a real Vault alone can show.
func TestReferencesUnreadable(t *testing.T) {
	o, places := newOwners(t)
	first := o.NewKV()
	o.MountKV(first+"-v1", 1)
	places = append(places, vault.Place{Mount: first}, vault.Place{Mount: first + "-v1"}, vault.Place{Mount: "nothing-is-mounted-here"})
	o.PutPolicy(o.role, vault.Policy(o.mount, o.prefix, places[0], places[2], places[3]))
	references := start(t, o.config).References(places)
	reference := func(mount, path string) broker.SecretReference {
		return broker.SecretReference{Mount: mount, Path: path, Field: "value"}
	}
	pruned := reference(o.theirs, "oauth/pruned")
	for n := range 12 { // Vault keeps 10
		o.Put(o.theirs, pruned.Path, map[string]any{"value": "canary-" + strconv.Itoa(n)})
	}
	destroyed := reference(o.theirs, "oauth/destroyed")
	o.Put(o.theirs, destroyed.Path, map[string]any{"value": "canary"})
	o.must("PUT", o.theirs+"/destroy/"+destroyed.Path, map[string]any{"versions": []int{1}})
	o.Put(first, "oauth/denied", map[string]any{"value": "canary"})
	o.must("POST", first+"-v1/oauth/acme", map[string]any{"value": "canary"})
	tests := []struct {
		name      string
		reference broker.SecretReference
		number    int64
		parts     []string
	}{
		{"pruned", pruned, 1, []string{"no version 1", "pushed it out"}},
		{"destroyed", destroyed, 0, []string{"destroyed version 1"}},
		{"not granted", reference(first, "oauth/denied"), 0, []string{"lacks read", first + "/data/oauth/denied"}},
		{"KV version 1", reference(first+"-v1", "oauth/acme"), 0, nil},
		{"no mount", reference("nothing-is-mounted-here", "a"), 0, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := references.Read(t.Context(), test.reference, test.number)
			wantReason(t, "Read", err, broker.ReasonReferenceUnreadable, append(test.parts, test.reference.String())...)
			if test.number > 0 {
				return
			}
			_, err = references.Version(t.Context(), test.reference)
			wantReason(t, "Version", err, broker.ReasonReferenceUnreadable, test.reference.String())
		})
	}
}

func TestSourcesValidate(t *testing.T) {
	tests := []struct {
		name    string
		sources vault.Sources
		want    []string
	}{
		{"nothing", vault.Sources{}, nil},
		{"sound", vault.Sources{
			Wrapping:   vault.Wrapping{CreationPaths: []string{"kv/data/oauth/acme", "kv/data/oauth/*", "azure/creds/crm-*", vault.RewrapPath}},
			References: []vault.Place{{Mount: "team/kv", Prefix: "crm/oauth"}, {Mount: "other"}},
		}, nil},
		{"paths that are none", vault.Sources{Wrapping: vault.Wrapping{CreationPaths: []string{"", "*", "/*", "kv/*/acme", "a/../b", "a b"}}}, []string{
			"wrapping.creation_paths[0]", "wrapping.creation_paths[1]", "wrapping.creation_paths[2]", "wrapping.creation_paths[3]", "wrapping.creation_paths[4]", "wrapping.creation_paths[5]",
		}},
		{"places that are none", vault.Sources{References: []vault.Place{{}, {Mount: "kv/"}, {Mount: "kv", Prefix: "../x"}, {Mount: "kv", Prefix: "a*"}, {Mount: "kv"}, {Mount: "kv"}}}, []string{
			"references[0].mount", "references[1].mount", "references[2].prefix", "references[3].prefix", "references[5]",
		}},
		{"our own", vault.Sources{References: []vault.Place{{Mount: "own"}, {Mount: "own", Prefix: "a"}, {Mount: "own/data"}}}, []string{
			"references[0].mount", "references[1].mount", "references[2].mount",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			if err := test.sources.Validate("own"); err != nil {
				for line := range strings.Lines(err.Error()) {
					key, _, _ := strings.Cut(line, ": ")
					got = append(got, key)
				}
			}
			if strings.Join(got, " ") != strings.Join(test.want, " ") {
				t.Errorf("Validate names %q, want %q", got, test.want)
			}
		})
	}
	if err := (vault.Sources{References: []vault.Place{{Mount: "tokenbroker"}}}).Validate(""); err == nil {
		t.Error("Validate takes the default mount as one of others")
	}
}
