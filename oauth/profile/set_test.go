package profile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// TestLoad: the operator's profile wins over the built-in one of its name.
func TestLoad(t *testing.T) {
	dir := folder(t, head)
	for name, text := range map[string]string{"aspire.yaml": "name: aspire\ntitle: Ours\nrefresh: {with: access_token, rotation: always, grace: 10s}\n", ".hidden": "["} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "..data.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	set := load(t, dir)
	names := set.Names()
	for _, name := range []string{"acme", "aspire", "generic", "generic-oidc"} {
		if !slices.Contains(names, name) {
			t.Errorf("got %v, want %s among them", names, name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("%v are not sorted", names)
	}
	got, ok := set.Provider("aspire")
	if !ok || got.BuiltIn || got.Title != "Ours" {
		t.Errorf("got %+v, want the operator's", got)
	}
	if want := (broker.RefreshPolicy{Rotation: broker.RotationAlways, Grace: 10 * time.Second, WithAccessToken: true}); got.Refresh != want {
		t.Errorf("got %+v, want %+v", got.Refresh, want)
	}
	if generic, _ := set.Provider("generic"); generic.Refresh.Rotation != broker.RotationUnknown || !generic.BuiltIn {
		t.Errorf("got %+v", generic)
	}
	if _, ok := set.Provider("acne"); ok || set.Profile("acne") != nil || (*profile.Set)(nil).Profile("acme") != nil {
		t.Error("there is a profile that is not there")
	}
}

// TestLoadBroken: one error names every file, line and key.
func TestLoadBroken(t *testing.T) {
	dir := folder(t, "name: acme\ntitel: Acme\n")
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("name: b\ntitle: B\nrequest:\n  format: xml\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "readme.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := profile.Load(dir)
	var wrong *strictyaml.Error
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want problems", err)
	}
	for _, want := range []string{
		filepath.Join(dir, "acme.yaml") + ":2: unknown key titel", filepath.Join(dir, "b.yaml") + ":4: request.format: is \"xml\"",
		filepath.Join(dir, "readme.txt") + ":1: is not called *.yaml",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if _, err := profile.Load(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a folder that is not there", err)
	}
}

func TestPath(t *testing.T) {
	decoder := json.NewDecoder(strings.NewReader(`{"a": {"b": [[{"c": "deep"}], 12345678901234567890]}, "n": null, "t": true, "e": ""}`))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"a.b[0][0].c": "deep true", "a.b[1]": "12345678901234567890 true", "a.b": " false", "a.b[2]": " false", "a.c": " false", "n": " false", "t": "true true", "a[0]": " false",
		"t.x": " false", "e": " true",
	} {
		path, err := profile.ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		found, ok := path.Text(document)
		if got := fmt.Sprint(found, " ", ok); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if path.String() != text {
			t.Errorf("got %q, want %q", path, text)
		}
	}
	first, _ := profile.ParsePath("n")
	second, _ := profile.ParsePath("e")
	third, _ := profile.ParsePath("t")
	paths := profile.Paths{first, second, third}
	if found, ok := paths.Find(document); !ok || found != "" {
		t.Errorf("got %v, %t, want the first that is not null", found, ok)
	}
	if text, ok := paths.Text(document); !ok || text != "true" {
		t.Errorf("got %q, %t, want the first that is not empty", text, ok)
	}
}

func TestSucceeded(t *testing.T) {
	p, err := profile.Parse("acme.yaml", []byte(head+"response: {success: {path: ok, equals: \"true\"}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := profile.Parse("acme.yaml", []byte(head))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		document any
		want     bool
	}{{map[string]any{"ok": true}, true}, {map[string]any{"ok": "true"}, true}, {map[string]any{"ok": false}, false}, {map[string]any{}, false}, {nil, false}} {
		if p.Succeeded(test.document) != test.want || !plain.Succeeded(test.document) {
			t.Errorf("%v: is believed wrongly", test.document)
		}
	}
}

func TestJudgement(t *testing.T) {
	p, err := profile.Parse("acme.yaml", []byte(head+`
errors:
  aliases: {bad_secret: CLIENT_REJECTED}
  retryable: [busy]
  descriptions:
    - {match: 'try again in (?P<minutes>\d+) min', reason: UPSTREAM_RATE_LIMITED}
`))
	if err != nil {
		t.Fatal(err)
	}
	a := p.Answer()
	if a.Aliases["bad_secret"] != broker.ReasonClientRejected || !a.Retryable["busy"] || a.Retryable["bad_secret"] {
		t.Errorf("got %+v", a)
	}
	j := a.Descriptions[0]
	found := j.Match.FindStringSubmatch("Too many; try again in 12 min.")
	if j.Seconds != -1 || found == nil || found[j.Minutes] != "12" || j.Reason != broker.ReasonUpstreamRateLimited {
		t.Errorf("got %+v, %q", j, found)
	}
}
