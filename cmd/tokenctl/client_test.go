package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// acmeFile describes a client that its profile completes.
const acmeFile = `name: acme-crm
labels: {team: crm}
client_id: "007"
provider: example
provider_variables: {tenant: acme}
default_scopes: [read, write]
token_policy:
  min_validity: 90s
`

func TestClientLife(t *testing.T) {
	r := newReal(t)
	path := r.file("acme.yaml", acmeFile)
	r.run("client", "create", "-f", path, "--dry-run").want(exitDone, "nothing was stored", "token_endpoint", "https://acme.example.com/token")
	r.run("client", "get", "acme-crm").want(exitNotFound, "CLIENT_NOT_FOUND")
	got := r.run("client", "create", "-f", path, "--file", r.file("secret", canary), "-o", "json").want(exitDone, `"client_id": "007"`)
	got.without(canary)
	r.run("client", "create", "-f", path).want(exitPrecondition, "CLIENT_ALREADY_EXISTS")
	r.run("client", "get", "acme-crm").want(exitDone, "clients/acme-crm", "active", "labels.team", "client_secret_post", "1m30s", "VERSION", "current").without("\x1b")
	r.run("client", "list").want(exitDone, "acme-crm", "example", "client_credentials", "team=crm")
	r.run("client", "disable", "acme-crm").want(exitDone, "gives no tokens")
	r.run("client", "list", "--filter", "state=disabled").want(exitDone, "acme-crm")
	r.run("client", "enable", "clients/acme-crm").want(exitDone, "gives tokens")
	r.run("client", "delete", "acme-crm", "--etag", "old").want(exitAborted, "ETAG_MISMATCH")
	r.run("client", "delete", "acme-crm").want(exitDone, "tokenctl client undelete acme-crm")
	if listed := r.run("client", "list").want(exitDone); strings.Contains(listed.stdout, "acme-crm") {
		t.Errorf("a deleted client is listed:\n%s", listed.stdout)
	}
	r.run("client", "list", "--deleted").want(exitDone, "acme-crm", "deleted")
	r.run("client", "undelete", "acme-crm").want(exitDone, "is back")
	r.run("client", "undelete", "acme-crm").want(exitPrecondition, "CLIENT_NOT_DELETED")
}

func TestProviders(t *testing.T) {
	r := newReal(t)
	r.run("provider", "list").want(exitDone, "example", "Example Inc.", "built in", "client_credentials", "tenant, [region]")
	r.run("provider", "get", "example").want(exitDone, "providers/example", "client_secret_post", "such as acme", "by default eu", "unverified", "name: example")
	r.run("provider", "get", "providers/nobody").want(exitNotFound, "PROVIDER_NOT_FOUND")
	if got := r.completed("provider", "get", "ex"); !slices.Equal(got, []string{"example"}) {
		t.Errorf("completed to %q", got)
	}
	r.run("provider", "list", "-o", "json").want(exitDone, `"name": "providers/example"`)
}

// TestClientFilesAreStrict: all that is wrong is said at once, with its line, and no
// value that may be a secret is repeated.
func TestClientFilesAreStrict(t *testing.T) {
	tests := []struct {
		name, content string
		want          []string
	}{
		{"empty", "", []string{"f.yaml:1: is empty"}},
		{"no YAML", "name: [a\n" + canary + ": x", []string{"f.yaml:", "is no YAML"}},
		{"a list", "- name: a\n", []string{"f.yaml:1: a client must be keys with values"}},
		{"two documents", "name: a\n---\nname: b\n", []string{"second document"}},
		{"no name", "client_id: a\n", []string{"f.yaml:1: name is required"}},
		{"unknown keys", "name: a\n\nclientid: x\ntoken_policy:\n  minimum: 1s\n", []string{`f.yaml:3: "clientid" is no field`, `f.yaml:5: "minimum" is no field of token_policy`}},
		{"a key twice", "name: a\nlabels:\n  x: y\n  x: z\n", []string{`f.yaml:4: "x" is there twice`}},
		{"wrong kinds", "name: a\ndefault_scopes: read\nmax_live_tokens: many\nlabels: [a]\nclient_id: {a: b}\n", []string{
			"f.yaml:2: default_scopes must be a list", `f.yaml:3: "max_live_tokens" has a value of another kind`, "f.yaml:4: labels must be keys", "f.yaml:5: client_id must be one value",
		}},
		{"unknown words", "name: a\nauthentication_method: basic\ngrant_type: implicit\n", []string{"f.yaml:2: authentication_method is none of client_secret_basic", "f.yaml:3: grant_type is none of"}},
		{"a duration", "name: a\ntoken_policy: {min_validity: soon}\n", []string{"f.yaml:2: min_validity must be a duration"}},
		{"an alias", "name: a\ndefault_scopes: &s [a]\nallowed_scopes: *s\n", []string{"f.yaml:3: aliases are not taken"}},
		{"no value", "name: a\naudience:\n", []string{"f.yaml:2: audience has no value"}},
		{"a plain secret", "name: a\nsecret:\n  client_secret: " + canary + "\n", []string{"f.yaml:3: secret.client_secret would be a secret in a file that is kept", "if it was committed, change it"}},
		{"a plain key", "name: a\nsecret: {private_key: " + canary + "}\n", []string{"f.yaml:2: secret.private_key would be a secret"}},
		{"a secret in the wrong place", "name: a\nclient_secret: " + canary + "\n", []string{`f.yaml:2: "client_secret" is no field`}},
		{"two secrets", "name: a\nsecret:\n  reference: a/b#c\n  wrapping_token: " + canary + "\n", []string{"f.yaml:4: secret says twice where it is"}},
		{"no secret", "name: a\nsecret: {expire_time: 2030-01-01}\n", []string{"f.yaml:2: secret must say where it is"}},
		{"secret of another kind", "name: a\nsecret: " + canary + "\n", []string{"f.yaml:2: secret must be keys with values"}},
		{"a bad reference", "name: a\nsecret: {reference: b}\n", []string{"f.yaml:2: secret.reference must be MOUNT/PATH#FIELD"}},
		{"a wrapping token that is not there", "name: a\nsecret: {wrapping_token_file: nowhere}\n", []string{"f.yaml:2:", "nowhere"}},
		{"unknown in secret", "name: a\nsecret: {value: " + canary + "}\n", []string{"f.yaml:2: secret.value is not known"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := newOperator(t)
			o.write("f.yaml", test.content)
			for _, args := range [][]string{{"create", "-f", filepath.Join(o.home, "f.yaml")}, {"apply", "-f", o.home}} {
				o.run(append([]string{"client"}, args...)...).want(exitUsage, test.want...).without(canary)
			}
		})
	}
}

// TestOutputOnlyFields are those of the contract.
func TestOutputOnlyFields(t *testing.T) {
	contract, err := os.ReadFile(filepath.Join("..", "..", "proto", "tokenbroker", "v1", "client_service.proto"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(contract), "\nmessage Client {")
	message, _, _ := strings.Cut(rest, "\n}")
	found := map[string]bool{}
	for _, field := range regexp.MustCompile(`(?m)((?:^ *//.*\n)+)^ +[\w.<>, ]+ (\w+) = \d+;`).FindAllStringSubmatch(message, -1) {
		found[field[2]] = strings.Contains(field[1], "// Output only.")
	}
	fields := (&pb.Client{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := fields.Get(i).Name()
		want, known := found[string(name)]
		if got := outputOnly(name); !known || got != want {
			t.Errorf("%s: output only: %t, the contract says %t (found: %t)", name, got, want, known)
		}
	}
}

// TestSettingsSurviveTheirFile: what is written is read as what it was.
func TestSettingsSurviveTheirFile(t *testing.T) {
	client := &pb.Client{}
	r := &clientReader{path: "f", line: 1, scrubber: &scrubber{}}
	file := r.read([]byte(acmeFile + `authentication_method: private_key_jwt
grant_type: authorization_code
token_binding: dpop
assertion: {signing_algorithm: ES256}
issue_budget: {tokens: 3, period: 1h30m}
single_active_token: true
redirect_uris: ["https://app.example.com/?a=b"]
parameters: {"yes": "no", empty: ""}
rotation:
  rotator: key_pair
  every: 720h
  windows: [{days: [mon], begin: "01:00", end: "02:00"}, {begin: "03:00", end: "04:00"}]
`))
	if err := r.err(); err != nil {
		t.Fatal(err)
	}
	client = file.client
	text, err := settingsYAML(client)
	if err != nil {
		t.Fatal(err)
	}
	again := &clientReader{path: "f", line: 1, scrubber: &scrubber{}}
	if got := again.read(text); again.err() != nil || !proto.Equal(got.client, client) {
		t.Errorf("written:\n%s\nread: %v (%v), want\n%v", text, got, again.err(), client)
	}
	if changes := compare(client, client); changes != nil {
		t.Errorf("a client differs from itself in %v", changes)
	}
	other := proto.CloneOf(client)
	other.Labels, other.Audience, other.Rotation.Every = nil, "x", nil
	want := []change{{"audience", "", "x"}, {"labels.team", "crm", ""}, {"rotation.every", "720h", ""}}
	if got := compare(client, other); !slices.Equal(got, want) {
		t.Errorf("got the difference %v, want %v", got, want)
	}
}

// editor makes a shell script the operator's editor; it gets the file as $1.
func (r *real) editor(script string) {
	r.t.Helper()
	path := r.file("editor", "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(path, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.environ = append(r.environ, "EDITOR="+path, "TMPDIR="+r.home)
}

func TestEdit(t *testing.T) {
	r := newReal(t)
	t.Setenv("TMPDIR", r.home)
	r.run("client", "create", "-f", r.file("acme.yaml", acmeFile)).want(exitDone)
	r.editor(`sed -i -e 's/team: crm/team: erp/' -e '/min_validity/s/:.*/: 2m/' "$1"`)
	r.run("client", "edit", "acme-crm").want(exitDone, "is changed", "~ labels.team: crm → erp", "1m30s → 2m")
	r.editor(`true`)
	r.run("client", "edit", "acme-crm").want(exitDone, "nothing was changed")
	r.editor(`echo "audiance: x" >> "$1"`)
	r.run("client", "edit", "acme-crm").want(exitUsage, `"audiance" is no field`, "your text is kept in")
	r.editor(`sed -i 's/acme-crm/other/' "$1"`)
	r.run("client", "edit", "acme-crm").want(exitUsage, "the name cannot be changed")
	r.editor(`exit 3`)
	r.run("client", "edit", "acme-crm").want(exitFailed, "the editor", "exit status 3")
	r.editor(`sed -i '/token_endpoint/s/:.*/: https:\/\/evil.example\/token/' "$1"`)
	r.run("client", "edit", "acme-crm").want(exitDone, "evil.example") // it has no secret yet
}
