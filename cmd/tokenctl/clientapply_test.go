package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestApply(t *testing.T) {
	r := newReal(t)
	r.references.Put("secret", "oauth/crm", map[string]any{"value": "a-referenced-secret"})
	dir := filepath.Join(r.home, "clients")
	r.file("clients/acme.yaml", acmeFile+"secret: {reference: secret/oauth/crm#value}\n")
	r.file("clients/below/other.yml", strings.NewReplacer("acme-crm", "other", "tenant: acme", "tenant: other").Replace(acmeFile))
	r.file("clients/.hidden.yaml", "not: read")
	r.file("clients/README.md", "not: read")

	r.run("client", "apply", "-f", dir, "--dry-run").want(exitDone, "create clients/acme-crm, with a secret by reference", "+ token_endpoint: https://acme.example.com/token", "2 to create, 0 to update, 0 to delete, 0 unchanged").without("\x1b")
	r.run("client", "list").want(exitDone).without("acme-crm")
	r.run("client", "apply", "-f", dir).want(exitDone, "2 done")
	r.run("client", "get", "acme-crm").want(exitDone, "labels.apply-set", "default", "current")
	before := len(r.memory.Contains(`"write_id"`))
	r.run("client", "apply", "-f", dir).want(exitDone, "0 to create, 0 to update, 0 to delete, 2 unchanged")
	if after := len(r.memory.Contains(`"write_id"`)); after != before {
		t.Errorf("applying again made %d records of %d", after, before)
	}

	r.file("clients/acme.yaml", strings.Replace(acmeFile, "min_validity: 90s", "min_validity: 2m", 1)+"secret: {reference: secret/oauth/crm#value}\n")
	r.remove("clients/below/other.yml")
	r.run("client", "apply", "-f", dir, "--dry-run").want(exitDone, "update clients/acme-crm\n", "~ token_policy.min_validity: 1m30s → 2m", "0 to delete")
	got := r.run("client", "apply", "-f", dir, "--prune", "--dry-run", "-o", "json").want(exitDone)
	var shown plan
	if err := json.Unmarshal([]byte(got.stdout), &shown); err != nil || !shown.DryRun || len(shown.Clients) != 2 || shown.Clients[1].Action != actionDelete {
		t.Errorf("got %s (%v)", got.stdout, err)
	}
	r.run("client", "apply", "-f", dir, "--prune").want(exitUsage, "nobody can be asked", "--yes")
	r.run("client", "get", "other").want(exitDone, "active")
	r.run("client", "apply", "-f", dir, "--prune", "--set", "another", "--yes").want(exitPrecondition, "nothing was changed", "belongs to the set default")
	r.run("client", "apply", "-f", dir, "--prune", "--yes").want(exitDone, "delete clients/other", "2 done")
	r.run("client", "get", "other").want(exitDone, "deleted")
	r.run("client", "apply", "-f", dir, "--prune", "--yes").want(exitDone, "0 to delete, 1 unchanged")
}

// TestApplyChecksAllBefore anything is changed.
func TestApplyChecksAllBefore(t *testing.T) {
	r := newReal(t)
	dir := filepath.Join(r.home, "clients")
	r.file("clients/a.yaml", acmeFile)
	r.file("clients/b.yaml", "name: bad\nprovider: example\nclient_id: x\n")
	r.file("clients/c.yaml", "name: worse\nclient_id: x\nauthentication_method: none\ntoken_endpoint: https://as.example/\n")
	r.run("client", "apply", "-f", dir).want(exitUsage, "nothing was changed", "b.yaml: INVALID_REQUEST", "tenant", "c.yaml: INVALID_REQUEST", "authentication_method")
	r.run("client", "get", "acme-crm").want(exitNotFound)
	r.remove("clients/b.yaml")
	r.remove("clients/c.yaml")
	r.file("clients/twice.yaml", acmeFile)
	r.run("client", "apply", "-f", dir).want(exitUsage, "clients/acme-crm is in "+filepath.Join(dir, "a.yaml")+" already")
	r.run("client", "apply", "-f", filepath.Join(dir, "nowhere")).want(exitUsage, "no such file")
	r.run("client", "apply", "-f", filepath.Dir(r.file("empty/x.txt", ""))).want(exitUsage, "has no YAML file")
}

// TestApplyWithAWrappingToken uses it once, and not for a dry run.
func TestApplyWithAWrappingToken(t *testing.T) {
	r := newReal(t)
	dir := filepath.Join(r.home, "clients")
	r.file("clients/token", r.wrapping.Wrap(map[string]any{"value": canary}).RevealString()+"\n")
	r.file("clients/acme.yaml", acmeFile+"secret:\n  wrapping_token_file: token\n")
	r.run("client", "apply", "-f", dir, "--dry-run").want(exitDone, "with a secret by wrapping token")
	r.run("client", "apply", "-f", dir).want(exitDone, "1 done")
	if got := r.wrapping.Calls(); got != 1 {
		t.Errorf("it was unwrapped %d times, want once", got)
	}
	r.run("client", "apply", "-f", dir).want(exitDone, "1 unchanged")
	moved := strings.Replace(acmeFile, "tenant: acme", "tenant: moved", 1)
	r.file("clients/acme.yaml", moved)
	r.run("client", "apply", "-f", dir).want(exitPrecondition, "DESTINATION_NOT_BOUND", "nothing was changed")
	r.file("clients/token", r.wrapping.Wrap(map[string]any{"value": "another-secret"}).RevealString())
	r.file("clients/acme.yaml", moved+"secret: {wrapping_token_file: token}\n")
	r.run("client", "apply", "-f", dir).want(exitDone, "~ token_endpoint: https://acme.example.com/token → https://moved.example.com/token", "1 done").without(canary)
}

func TestImport(t *testing.T) {
	r := newReal(t)
	var lines strings.Builder
	for i := range 300 {
		fmt.Fprintf(&lines, `{"name": "fleet-%d", "client_id": "id-%d", "provider": "example", "provider_variables": {"tenant": "t%d"}, "secret": {"client_secret": "%s-%d"}}`+"\n", i, i, i%7, canary, i)
	}
	path := r.file("fleet.ndjson", lines.String())
	r.run("client", "import", "-f", path, "--dry-run").want(exitDone, "nothing was stored; this would be: 300 created").without(canary)
	r.run("client", "import", "-f", path).want(exitDone, "300 created, 0 updated, 0 unchanged, 0 failed").without(canary)
	r.run("client", "import", "-f", path, "--update").want(exitDone, "0 created, 0 updated, 300 unchanged, 0 failed")
	r.run("client", "import", "-f", path).want(exitFailed, "line 1: clients/fleet-0: CLIENT_ALREADY_EXISTS", "300 of 300 clients failed").without(canary)
	piped := r.pipe(`{"name": "one", "client_id": "x", "token_endpoint": "https://as.example/", "authentication_method": "client_secret_post"}

{"name": "bad", "client_id": "x"}
{"name": "two", "client_id": "x", "token_endpoint": "https://as.example/", "authentication_method": "client_secret_post"}
`)
	piped.run("client", "import", "-f", "-").want(exitFailed, "line 3: clients/bad: INVALID_REQUEST", "2 created, 0 updated, 0 unchanged, 1 failed")
	r.run("client", "import", "-f", r.file("broken.ndjson", `{"name": "three", "client_id": "x", "token_endpoint": "https://as.example/", "authentication_method": "client_secret_post"}
{"name": "four", "secret": {"client_secret": "`+canary+`}
`)).want(exitUsage, "broken.ndjson:2: is no YAML", "1 lines were answered").without(canary)
	r.run("client", "get", "three").want(exitDone)
	got := r.run("client", "import", "-f", path, "--update", "-o", "json").want(exitDone)
	if n := strings.Count(got.stdout, "IMPORT_OUTCOME_UNCHANGED"); n != 300 {
		t.Errorf("%d lines of JSON, want 300", n)
	}
}
