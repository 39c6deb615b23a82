package access_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/server/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// head lists the callers that the tables of most tests have; rules follow it.
const head = `callers:
  - {name: crm, identities: ["spiffe://example.org/crm", "dns:crm.example.org"]}
  - {name: erp, identities: ["spiffe://example.org/erp"]}
  - {name: ops, identities: ["spiffe://example.org/ops"]}
rules:
`

// withHead makes a file of rows, each a flow mapping on a line of its own.
func withHead(rows ...string) string {
	return head + "  - " + strings.Join(rows, "\n  - ") + "\n...\n"
}

func mustParse(t testing.TB, file string) *access.Table {
	t.Helper()
	table, err := access.Parse("access.yaml", []byte(file))
	if err != nil {
		t.Fatalf("the table was refused:\n%v\n%s", err, file)
	}
	return table
}

func callerOf(t testing.TB, table *access.Table, identity string) access.Caller {
	t.Helper()
	caller, ok := table.Caller(identity)
	if !ok {
		t.Fatalf("nobody has the identity %s", identity)
	}
	return caller
}

func permission(t testing.TB, name string) access.Permission {
	t.Helper()
	p, ok := access.ParsePermission(name)
	if !ok {
		t.Fatalf("%s is no permission", name)
	}
	return p
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// has returns a Labels function.
func has(labels map[string]string) func() map[string]string {
	return func() map[string]string { return labels }
}
