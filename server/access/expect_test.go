package access_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/server/access"
)

func TestExpectations(t *testing.T) {
	table := mustParse(t, readFile(t, "testdata/access.yaml"))
	expectations, err := access.ParseExpectations("expect.yaml", []byte(readFile(t, "testdata/expectations.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if failures := table.Test(expectations); len(failures) > 0 {
		t.Errorf("got %v, want all met", failures)
	}
}

// TestFailures: each expectation is on a line of its own, and none is met.
func TestFailures(t *testing.T) {
	tests := []struct{ expectation, want string }{
		{"{caller: crm, permission: token.get, client: acme-crm, allow: false}", "expected to be denied; allowed: crm, token.get, acme-crm\n    row: rules[0] at access.yaml:17"},
		{"{caller: crm, permission: token.get, client: acme-crm, scopes: [admin], allow: true}", `expected to be allowed; client acme-crm: SCOPE_NOT_ALLOWED: rules[0] (line 17) does not allow the scope "admin"`},
		{"{caller: crm, permission: token.get, client: acme-crm, audience: x, allow: true}", "expected to be allowed; client acme-crm: TARGET_NOT_ALLOWED"},
		{"{caller: crm, permission: token.get, client: acme-billing, allow: true}", "expected to be allowed; client acme-billing: SCOPE_NOT_ALLOWED: rules[1] (line 26) has no default scope"},
		{"{caller: crm, permission: token.get, client: acme-crm, allow: true, gets: [contacts.write]}", "expected the scopes contacts.write, got contacts.read; allowed"},
		{"{caller: operator, permission: token.get, client: acme-crm, allow: true, gets: [contacts.read]}", "expected the scopes contacts.read, got the client's default scopes; allowed"},
		{"{caller: rotator, permission: secret.promote, client: acme-crm, allow: true}", "expected to be allowed; denied: rotator"},
		{"{caller: rotater, permission: secret.promote, client: acme-crm, allow: false}", `no caller is named "rotater"; callers: crm, erp, operator, portal, rotator, sidecar`},
		{"{caller: \"spiffe://evil.example.org/x\", permission: audit.read, allow: true}", "expected to be allowed; denied: no caller has"},
		{"{caller: sidecar, permission: token.get, client: acme-crm, labels: {access: everyone}, allow: false}", "expected to be denied; allowed"},
	}
	file := "expectations:\n"
	for _, test := range tests {
		file += "  - " + test.expectation + "\n"
	}
	expectations, err := access.ParseExpectations("expect.yaml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	table, err := access.Parse("access.yaml", []byte(readFile(t, "testdata/access.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	failures := table.Test(expectations)
	if len(failures) != len(tests) {
		t.Fatalf("got %d failures, want %d: %v", len(failures), len(tests), failures)
	}
	for i, f := range failures {
		if f.Line != i+2 || !strings.HasPrefix(f.Text, tests[i].want) {
			t.Errorf("got  line %d: %s\nwant line %d: %s", f.Line, f.Text, i+2, tests[i].want)
		}
	}
}

func TestExpectationProblems(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"1: expectations: is required"}},
		{"none", "expectations: []\n", []string{"1: expectations: is empty"}},
		{"nothing said", "expectations:\n  - {}\n", []string{
			"2: expectations[0].permission: is required", "2: expectations[0].caller: is required: a name or an identity", "2: expectations[0].allow: is required: true or false",
		}},
		{"typing error", "expectations:\n  - {caller: a, permision: token.get, client: a, allow: true}\n", []string{"2: unknown key permision"}},
		{"unknown permission", "expectations:\n  - {caller: a, permission: token.gt, client: a, allow: yes please}\n", []string{
			"2: `yes please` is text where true or false is needed", `2: expectations[0].permission: "token.gt" is no permission; there are token.get,`,
		}},
		{"no meaning", "expectations:\n  - {caller: a, permission: audit.read, client: A, scopes: [x], allow: true}\n  - {caller: a, permission: token.get, allow: false, gets: [x]}\n", []string{
			"2: expectations[0]: scopes, audience, resources and gets are for token.get and token.watch", `2: expectations[0].client: "A" is no client's id`,
			"3: expectations[1].client: is required for token.get and token.watch", "3: expectations[1].gets: is for requests that are allowed",
		}},
		{"null", "expectations:\n  - {caller: a, permission: audit.read, client: , allow: true}\n", []string{"2: expectations[0].client: has no value"}},
		{"too large", strings.Repeat("#", 1<<20+1), []string{"1: has 1048577 bytes; at most 1048576"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := access.ParseExpectations("expect.yaml", []byte(test.file))
			var problems *strictyaml.Error
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			var got []string
			for _, p := range problems.Problems {
				got = append(got, fmt.Sprintf("%d: %s", p.Line, p))
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}
