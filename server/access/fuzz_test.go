package access_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// FuzzParse: whatever a file holds, it is refused with lines that it has, or it is a
// table that answers, grants nobody what no row says, and no beginning of which is one.
func FuzzParse(f *testing.F) {
	f.Add([]byte(readFile(f, "testdata/access.yaml")))
	f.Add([]byte(numbered(1)))
	f.Add([]byte(matrixFile(naiveRow{callers: []string{"*"}, exceptCallers: []string{"c1"}, permissions: []string{"role:caller"}, clients: []string{"*"}, exceptClients: []string{"prefix:a"}, limited: true})))
	f.Add([]byte(withHead("{}", "nothing", "{callers: [~, crm], permissions: [token.get], clients: [a], limits: {burst: 0}}")))
	f.Add([]byte("callers: &a [*a]\nrules: {}\n...\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		table, err := access.Parse("access.yaml", raw)
		if err != nil {
			checkProblems(t, raw, err)
			return
		}
		text := strings.TrimRight(string(raw), "\r\n")
		for _, cut := range []int{1, 4, len(text) / 2, len(text) - 1} {
			if _, err := access.Parse("access.yaml", []byte(text[:max(0, len(text)-cut)])); err == nil {
				t.Errorf("%d bytes less are a table too", cut)
			}
		}
		for _, identity := range []string{"dns:a", "spiffe://example.org/operator", access.InsecureIdentity} {
			caller, _ := table.Caller(identity)
			for _, p := range access.Permissions() {
				d := table.Decide(access.Request{Caller: caller, Permission: p, Client: "acme-crm", Labels: has(map[string]string{"team": "crm"})})
				if d.Allowed && !caller.May(p) || (d.Err() == nil) != d.Allowed {
					t.Errorf("%s %v: %+v", identity, p, d)
				}
				if _, err := d.Query(broker.TokenQuery{ClientID: "acme-crm"}); err == nil && !d.Allowed {
					t.Error("a denied query went through")
				}
				if e := table.Explain(identity, p, "acme-crm", map[string]string{"team": "crm"}); e.Allowed != d.Allowed || e.Row != d.Row {
					t.Errorf("%s %v: decided %+v, explained %v", identity, p, d, e)
				}
			}
			for _, g := range caller.Grants() {
				if g.Row.Line < 1 || len(g.Permissions) == 0 || len(g.Clients) == 0 {
					t.Errorf("grant %+v", g)
				}
			}
		}
	})
}

// FuzzParseExpectations: a file is refused with lines that it has, or can be tried.
func FuzzParseExpectations(f *testing.F) {
	table := mustParse(f, readFile(f, "testdata/access.yaml"))
	f.Add([]byte(readFile(f, "testdata/expectations.yaml")))
	f.Add([]byte("expectations:\n  - {caller: crm, permission: audit.read, allow: false, labels: {a: b}}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		expectations, err := access.ParseExpectations("expect.yaml", raw)
		if err != nil {
			checkProblems(t, raw, err)
			return
		}
		for _, failure := range table.Test(expectations) {
			if failure.Line < 1 || failure.Text == "" {
				t.Errorf("failure %+v", failure)
			}
		}
	})
}

// checkProblems fails unless err is made of problems, each on a line of the file or at
// its end.
func checkProblems(t *testing.T, raw []byte, err error) {
	t.Helper()
	var e *strictyaml.Error
	if !errors.As(err, &e) || len(e.Problems) == 0 || len(e.Problems) > 101 {
		t.Fatalf("got %T: %.500v", err, err)
	}
	lines := 2 // YAML has more line breaks than one
	for _, r := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		lines += strings.Count(string(raw), r)
	}
	for _, p := range e.Problems {
		if p.Line < 1 || p.Line > lines || p.Text == "" {
			t.Errorf("problem %+v in a file of %d lines", p, lines)
		}
	}
}
