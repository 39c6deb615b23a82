package access_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/access"
)

var update = flag.Bool("update", false, "write the golden files")

// TestExplain compares explanations with testdata/explain.golden; -update writes it.
func TestExplain(t *testing.T) {
	const file = "testdata/access.yaml"
	table, err := access.Parse(file, []byte(readFile(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	type labels = map[string]string
	questions := []struct {
		who, permission, client string
		labels                  labels
	}{
		{"crm", "token.get", "acme-crm", nil},
		{"dns:CRM.example.org", "token.watch", "acme-crm", nil},
		{"crm", "token.get", "acme-billing", nil},
		{"crm", "token.watch", "acme-billing", nil},
		{"crm", "token.get", "other", labels{"access": "everyone"}},
		{"crm", "secret.promote", "acme-crm", nil},
		{"crm", "audit.read", "", nil},
		{"erp", "token.get", "acme-crm", nil},
		{"erp", "token.get", "acme-crm", labels{}},
		{"erp", "token.get", "acme-crm", labels{"access": "everyone"}},
		{"sidecar", "token.watch", "acme-billing", labels{"access": "everyone"}},
		{"rotator", "secret.promote", "acme-crm", nil},
		{"rotator", "secret.stage", "", nil},
		{"operator", "client.retarget", "acme-crm", nil},
		{"web", "token.get", "acme-crm", nil},
		{"spiffe://evil.example.org/crm", "token.get", "acme-crm", nil},
	}
	var b strings.Builder
	for _, q := range questions {
		e := table.Explain(q.who, permission(t, q.permission), q.client, q.labels)
		fmt.Fprintf(&b, "# %s %s %q %v\n%v\n\n", q.who, q.permission, q.client, q.labels, e)
		if e.Allowed != (e.Row.Index >= 0) || e.Allowed && (e.Nearest.Index >= 0 || e.Mismatches != nil) {
			t.Errorf("%v: the fields contradict each other: %+v", q, e)
		}
	}
	const golden = "testdata/explain.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, golden); b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestExplainNothingMatches: a table in which no row matches in anything.
func TestExplainNothingMatches(t *testing.T) {
	table := mustParse(t, withHead(`{callers: [erp], permissions: [token.get], clients: [a]}`))
	e := table.Explain("crm", access.AuditRead, "b", nil)
	if e.Nearest.Index != -1 || !strings.HasSuffix(e.String(), "no row matches caller, permission or client") {
		t.Errorf("got %v", e)
	}
}
