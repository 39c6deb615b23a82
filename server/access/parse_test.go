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

// problemsOf returns what is wrong with a file as "line: key: text".
func problemsOf(t testing.TB, file string) []string {
	t.Helper()
	_, err := access.Parse("access.yaml", []byte(file))
	if err == nil {
		return nil
	}
	var e *strictyaml.Error
	if !errors.As(err, &e) || e.File != "access.yaml" {
		t.Fatalf("got %T of %v, want a *strictyaml.Error", err, err)
	}
	var list []string
	for _, p := range e.Problems {
		list = append(list, fmt.Sprintf("%d: %s", p.Line, p))
	}
	return list
}

func TestForm(t *testing.T) {
	const row = `{callers: [crm], permissions: [token.get], clients: [acme]}`
	const unfinished = `the last line must be "...", which shows that the file is whole`
	tests := []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"1: " + unfinished, "1: callers: is required", "1: rules: is required"}},
		{"only an end", "...\n", []string{"1: did not find expected node content"}},
		{"only a comment", "# nothing\n...\n", []string{"2: did not find expected node content"}},
		{"no end", strings.TrimSuffix(withHead(row), "...\n"), []string{"6: " + unfinished}},
		{"end within a line", head + "  - " + row + " # ...\n", []string{"6: " + unfinished}},
		{"two documents", withHead(row) + "---\na: b\n...\n", []string{"8: begins a second document; put all settings into one"}},
		{"syntax", withHead("{callers: [crm], permissions: [token.get, clients: [acme]}"), []string{"6: did not find expected ',' or ']'"}},
		{"unknown keys", "caller: []\n" + withHead("{caller: [crm], permissions: [token.get], clients: [acme]}"), []string{"1: unknown key caller", "7: unknown key caller"}},
		{"empty lists", "callers: []\nrules: []\n...\n", []string{"1: callers: is empty", "2: rules: is empty"}},
		{
			"keys without a value", withHead("{callers: [crm], permissions: [token.get], clients: [acme], scopes: , limits: {burst: }}", "{callers: [~], permissions: , clients: [acme]}"),
			[]string{
				"6: rules[0].scopes: has no value", "6: rules[0].limits.burst: has no value",
				"7: rules[1].callers[0]: has no value", "7: rules[1].permissions: has no value",
			},
		},
		{
			"wrong forms", withHead("{callers: crm, permissions: [token.get], clients: [acme]}", "{callers: [crm], permissions: [token.get], clients: [acme], limits: {concurrent: many}}"),
			[]string{"6: `crm` is text where a list is needed", "7: `many` is text where a whole number is needed"},
		},
		{"a row that is none", withHead("nothing", "{callers: [web], permissions: [token.get], clients: [acme]}"), []string{"6: `nothing` is text, which cannot stand here"}},
		{"alias", withHead("{callers: &c [crm], permissions: [token.get], clients: [acme]}", "{callers: *c, permissions: [token.watch], clients: [acme]}"), []string{"7: *c is an alias; write out what it stands for"}},
		{"merge", withHead("&r {callers: [crm], permissions: [token.get], clients: [acme]}", "{<<: *r, permissions: [token.watch]}"), []string{"7: *r is an alias; write out what it stands for"}},
		{"duplicate key", withHead("{callers: [crm], permissions: [token.get], clients: [acme], clients: [b]}"), []string{`6: mapping key "clients" already defined at line 6`}},
		{"what is missing", withHead("{}", "{callers: [crm]}"), []string{
			"6: rules[0].callers: is required", "6: rules[0].permissions: is required", "6: rules[0].clients: is required",
			"7: rules[1].permissions: is required", "7: rules[1].clients: is required",
		}},
		{"what is empty", withHead("{callers: [], permissions: [], clients: [], scopes: {}, resources: {allowed: []}, limits: {}, except: {}}"), []string{
			"6: rules[0].callers: is empty", "6: rules[0].permissions: is empty", "6: rules[0].clients: is empty",
			"6: rules[0].except: is empty; leave it out, or name callers or clients", "6: rules[0].scopes: needs default, allowed, or both",
			"6: rules[0].resources.allowed: is empty", "6: rules[0].limits: needs at least one of requests_per_second, concurrent, client_requests_per_second, client_concurrent and scope_sets",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := problemsOf(t, test.file); !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestCallers(t *testing.T) {
	file := `callers:
  - name: crm
    identities: ["spiffe://example.org/crm", "dns:crm.example.org"]
  - name: crm
    identities: ["DNS:x.example.org", "dns:CRM.example.org", "spiffe://example.org/crm"]
  - identities: []
  - {name: "*", identities: [insecure-loopback, "dns:*.example.org", "https://"]}
  - {name: " a", identities: [crm, "jwt:https://i.example#", "jwt:i#s", "unix:uid=-1", "cn:", "spiffe://example.org/a b", ""]}
rules:
  - {callers: [crm], permissions: [token.get], clients: [acme]}
...
`
	want := []string{
		`4: callers[1].name: "crm" is the name of callers[0].name (line 2) already`,
		`5: callers[1].identities[0]: "DNS:x.example.org" must name one host, such as dns:crm.example.org`,
		`5: callers[1].identities[1]: "dns:CRM.example.org" is that of callers[0].identities[1] (line 3) already`,
		`5: callers[1].identities[2]: "spiffe://example.org/crm" is that of callers[0].identities[0] (line 3) already`,
		`6: callers[2].name: is required`,
		`6: callers[2].identities: is empty`,
		`7: callers[3].name: "*" stands for every caller and is no name`,
		`7: callers[3].identities[1]: "dns:*.example.org" must name one host, such as dns:crm.example.org`,
		`7: callers[3].identities[2]: "https://" is none; an identity is one of`,
		`8: callers[4].name: " a" begins or ends with a space, or has a control character`,
		`8: callers[4].identities[0]: "crm" is none; an identity is one of`,
		`8: callers[4].identities[1]: "jwt:https://i.example#" must name issuer and subject`,
		`8: callers[4].identities[3]: "unix:uid=-1" must name a user`,
		`8: callers[4].identities[4]: "cn:" must be a common name`,
		`8: callers[4].identities[5]: "spiffe://example.org/a b" is none; an identity is one of`,
		`8: callers[4].identities[6]: is empty; an identity is one of`,
	}
	got := problemsOf(t, file)
	if len(got) != len(want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

// TestRows: what is wrong with one row by itself; each is the first of its file.
func TestRows(t *testing.T) {
	tests := []struct {
		row  string
		want []string
	}{
		{"{callers: [web], permissions: [token.gt], clients: [Acme]}", []string{
			"callers[0]: no caller is named \"web\"", "permissions[0]: \"token.gt\" is no permission; there are token.get, token.watch,", "clients[0]: \"Acme\" names no client; write an id such as",
		}},
		{"{callers: [crm, crm], permissions: [token.get, token.get], clients: [a, a]}", []string{
			"callers[1]: \"crm\" is there twice", "permissions[1]: \"token.get\" is granted by the entries before it already", "clients[1]: \"a\" is covered by \"a\" (line 6)",
		}},
		{"{callers: [\"*\", crm], permissions: [\"role:caller\", token.get], clients: [\"*\", a, \"label:a=b\"]}", []string{
			"callers[0]: \"*\" is every caller; the other names add nothing", "permissions[1]: \"token.get\" is granted", "clients[1]: \"a\" is covered by \"*\" (line 6)", "clients[2]: \"label:a=b\" is covered by \"*\" (line 6)",
		}},
		{"{callers: [crm], permissions: [token.get], clients: [acme-a, \"prefix:acme\", \"prefix:acme-\"]}", []string{
			"clients[0]: \"acme-a\" is covered by \"prefix:acme\"", "clients[2]: \"prefix:acme-\" is covered by \"prefix:acme\"",
		}},
		{"{callers: [crm], permissions: [token.get], clients: [\"prefix:\", \"prefix:-a\", \"prefix:a..\", \"label:team\", \"label:team=\", \"label:Team=a\", \"regex:a.*\", \"..\"]}", []string{
			"clients[0]: \"prefix:\" has nothing behind it", "clients[1]: \"prefix:-a\": no client's id begins so", "clients[2]: \"prefix:a..\": no client's id begins so",
			"clients[3]: \"label:team\" has no value", "clients[4]: \"label:team=\" has no value", "clients[5]: \"label:Team=a\": a label's key has", "clients[6]: \"regex:a.*\" names no client", "clients[7]: \"..\" names no client",
		}},
		{"{callers: [crm], permissions: [client.read], clients: [a], scopes: {default: [x]}, limits: {scope_sets: 3}}", []string{
			"scopes: restricts token.get and token.watch, which the row does not grant", "limits.scope_sets: bounds token.get and token.watch, which the row does not grant",
		}},
		{`{callers: [crm], permissions: [token.get], clients: [a], scopes: {default: [x, x], allowed: ["a b", "", "\""]}, audiences: {default: [a, b]}, resources: {allowed: [here, "https://a#b"]}}`, []string{
			"scopes.default[1]: \"x\" is there twice", "scopes.allowed[0]: \"a b\" is no scope", "scopes.allowed[1]: \"\" is no scope", "scopes.allowed[2]: \"\\\"\" is no scope",
			"audiences.default: has 2 entries; at most 1", "resources.allowed[0]: \"here\" is not an absolute URI", "resources.allowed[1]: \"https://a#b\" is not an absolute URI",
		}},
		{"{callers: [crm], permissions: [token.get], clients: [a], limits: {requests_per_second: 0, burst: -1, concurrent: 2000000, scope_sets: 0}}", []string{
			"limits.requests_per_second: is 0; it must be above 0", "limits.burst: is -1; it must be above 0", "limits.concurrent: is 2e+06; it must be above 0", "limits.scope_sets: is 0; it must be above 0",
		}},
		{"{callers: [crm], permissions: [token.get], clients: [a], limits: {requests_per_second: .nan}}", []string{"limits.requests_per_second: is NaN; it must be above 0"}},
		{"{callers: [crm], permissions: [token.get], clients: [a], limits: {burst: 3}}", []string{"limits.burst: needs requests_per_second"}},
		{"{callers: [crm], permissions: [token.get], clients: [a], except: {callers: [erp]}}", []string{"except.callers: is for rows whose callers are \"*\""}},
		{"{callers: [\"*\"], permissions: [token.get], clients: [a, \"prefix:b-\"], except: {callers: [erp, web, \"*\"], clients: [a, c, \"label:a=b\", \"*\"]}}", []string{
			"except.callers[1]: no caller is named \"web\"", "except.callers[2]: \"*\" would leave nobody",
			"except.clients[0]: \"a\" is covered by \"*\"", "except.clients[1]: \"c\" is covered by \"*\"", "except.clients[2]: \"label:a=b\" is covered by \"*\"",
			"except.clients[1]: \"c\" takes away nothing that clients names", "except.clients[2]: labels cannot take away", "except.clients[3]: \"*\" would leave nothing",
			"clients[0]: \"a\" is taken away by except", "clients[1]: \"prefix:b-\" is taken away by except",
		}},
	}
	for _, test := range tests {
		t.Run(test.row, func(t *testing.T) {
			got := problemsOf(t, withHead(test.row))
			if len(got) != len(test.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for i := range got {
				if want := "6: rules[0]." + test.want[i]; !strings.HasPrefix(got[i], want) {
					t.Errorf("got  %s\nwant %s", got[i], want)
				}
			}
		})
	}
}

// TestRowsBesideEachOther: contradictions and rows that add nothing. Rows begin at
// line 6.
func TestRowsBesideEachOther(t *testing.T) {
	const (
		get   = "{callers: [crm], permissions: [token.get], clients: [%s], scopes: {default: [%s]}}"
		plain = "{callers: [%s], permissions: [%s], clients: [%s]}"
	)
	f := fmt.Sprintf
	contradicts := func(clients string) []string {
		return []string{"7: rules[1]: contradicts rules[0] (line 6): both grant token.get to crm for " + clients + ", with other scopes; make them agree, or take it out of one by except"}
	}
	tests := []struct {
		name string
		rows []string
		want []string
	}{
		{"same id", []string{f(get, "a", "x"), f(get, "a", "y")}, contradicts("a")},
		{"id and prefix", []string{f(get, "acme-a", "x"), f(get, `"prefix:acme-"`, "y")}, contradicts("acme-a")},
		{"prefixes", []string{f(get, `"prefix:acme-"`, "x"), f(get, `"prefix:ac"`, "y")}, contradicts("prefix:acme-")},
		{"all and a label", []string{f(get, `"*"`, "x"), f(get, `"label:a=b"`, "y")}, contradicts("any client labelled a=b")},
		{"prefix and label", []string{f(get, `"label:a=b"`, "x"), f(get, `"prefix:ac"`, "y")}, contradicts("prefix:ac labelled a=b")},
		{"two labels", []string{f(get, `"label:a=b"`, "x"), f(get, `"label:c=d"`, "y")}, contradicts("any client labelled a=b and c=d")},
		{"one label", []string{f(get, `"label:a=b"`, "x"), f(get, `"label:a=b"`, "y")}, contradicts("any client labelled a=b")},
		{"two values of a label", []string{f(get, `"label:a=b"`, "x"), f(get, `"label:a=c"`, "y")}, nil},
		{"two ids", []string{f(get, "a", "x"), f(get, "b", "y")}, nil},
		{"prefixes apart", []string{f(get, `"prefix:a-"`, "x"), f(get, `"prefix:ab"`, "y")}, nil},
		{"taken out", []string{f(get, `"prefix:acme-"`, "x"), `{callers: [crm], permissions: [token.get], clients: ["*"], except: {clients: ["prefix:acme-"]}}`}, nil},
		{"only half taken out", []string{f(get, `"prefix:acme-"`, "x"), `{callers: [crm], permissions: [token.get], clients: ["*"], except: {clients: ["prefix:acme-a"]}}`}, contradicts("prefix:acme-")},
		{"caller taken out", []string{f(get, "a", "x"), `{callers: ["*"], permissions: [token.get], clients: ["*"], except: {callers: [crm]}}`}, nil},
		{"no terms and terms", []string{f(plain, `"*"`, "token.get", `"*"`), f(get, "a", "x")}, contradicts("a")},
		{"same terms in another order", []string{
			`{callers: [crm], permissions: [token.get], clients: [a, b], scopes: {default: [x, y], allowed: [x, z]}}`,
			`{callers: [crm, erp], permissions: [token.get], clients: [a, c], scopes: {default: [y, x], allowed: [z]}}`,
		}, nil},
		{"another default", []string{
			`{callers: [crm], permissions: [token.get], clients: [a, b], scopes: {default: [x], allowed: [y]}}`, `{callers: [crm], permissions: [token.get], clients: [a, c], scopes: {default: [y], allowed: [x]}}`,
		}, contradicts("a")},
		{"terms that do not matter", []string{
			`{callers: [crm], permissions: [token.get, client.read], clients: [a], scopes: {default: [x]}}`, f(plain, "crm", "client.read, client.write", `"prefix:a"`),
		}, nil},
		{"limits", []string{f(plain, "crm, erp", "client.read", "a, b"), `{callers: [crm], permissions: [client.read], clients: [a], limits: {concurrent: 1}}`}, []string{
			"7: rules[1]: contradicts rules[0] (line 6): both grant client.read to crm for a, with other limits; make them agree, or take it out of one by except",
		}},
		{"the same limits twice", []string{`{callers: [crm], permissions: [token.get], clients: [a, b], limits: {concurrent: 1}}`, `{callers: [crm], permissions: [token.get], clients: [b, c], limits: {concurrent: 1}}`}, []string{
			"7: rules[1]: contradicts rules[0] (line 6): both grant token.get to crm for b, with other limits; make them agree, or take it out of one by except",
		}},
		{"reported once", []string{f(get, "a, b", "x"), f(get, "a, b", "y")}, contradicts("a")},

		{"twice the same", []string{f(plain, "crm", "token.get", "a"), f(plain, "crm", "token.get", "a")}, []string{"7: rules[1]: adds nothing, because all of it is granted by rules[0] (line 6)"}},
		{"the wider one comes later", []string{f(plain, "crm", "token.get", "a"), f(plain, "crm", `"role:operator"`, `"*"`)}, []string{"6: rules[0]: adds nothing, because all of it is granted by rules[1] (line 7)"}},
		{"covered by two", []string{f(plain, "crm", "token.get, client.read", "acme"), f(plain, "crm, erp", "token.get", `"prefix:ac"`), f(plain, `"*"`, "client.read", `"prefix:a"`)}, []string{"6: rules[0]: adds nothing, because all of it is granted by rules[1] (line 7), rules[2] (line 8)"}},
		{"label below all", []string{f(plain, "crm", "token.get", `"label:a=b"`), f(plain, "crm", "token.get", `"*"`)}, []string{"6: rules[0]: adds nothing, because all of it is granted by rules[1] (line 7)"}},
		{"one permission more", []string{f(plain, "crm", "token.get, client.read", "a"), f(plain, "crm", "token.get", `"*"`)}, nil},
		{"one caller more", []string{f(plain, "crm, erp", "token.get", "a"), f(plain, "crm", "token.get", `"*"`)}, nil},
		{"one client more", []string{f(plain, "crm", "token.get", "a, b"), f(plain, "crm", "token.get", `"prefix:a"`)}, nil},
		{"each caller and every caller", []string{f(plain, `"*"`, "token.get", "a"), f(plain, "crm, erp, ops", "token.get", `"*"`)}, nil},
		{"above a hole", []string{f(plain, "crm", "token.get", `"prefix:acme-"`), `{callers: [crm], permissions: [token.get], clients: ["*"], except: {clients: [acme-a]}}`}, nil},
		{"the same hole", []string{`{callers: [crm], permissions: [token.get], clients: ["prefix:acme-"], except: {clients: [acme-a]}}`, `{callers: [crm], permissions: [token.get], clients: ["*"], except: {clients: [acme-a]}}`}, []string{"6: rules[0]: adds nothing, because all of it is granted by rules[1] (line 7)"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := problemsOf(t, withHead(test.rows...)); !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// TestBounds: a file that is too large in any way is refused at once.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	tests := []struct{ name, file, want string }{
		{"bytes", strings.Repeat("#", 1<<20+1), "has 1048577 bytes; at most 1048576"},
		{"callers", "callers:\n" + many(5001, "  - {name: c%[1]d, identities: [\"dns:c%[1]d\"]}\n") + "rules:\n  - {callers: [\"*\"], permissions: [token.get], clients: [a]}\n...\n", "callers: has 5001 entries; at most 5000"},
		{"rules", head + many(1001, "  - {callers: [crm], permissions: [token.get], clients: [c%d]}\n") + "...\n", "rules: has 1001 entries; at most 1000"},
		{"clients", head + "  - {callers: [crm], permissions: [token.get], clients: [" + many(10_001, "c%d,") + "]}\n...\n", "rules: have 10001 clients; at most 10000"},
		{"problems", head + many(1000, "  - {callers: [nobody], permissions: [token.get], clients: [c%d]}\n") + "...\n", "and 900 more problems"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := problemsOf(t, test.file); len(got) == 0 || len(got) > 101 || !strings.Contains(strings.Join(got, "\n"), test.want) {
				t.Errorf("got %.2000q, want %q", got, test.want)
			}
		})
	}
}

// TestAHalfWrittenFile: no beginning of a whole file is taken for one.
func TestAHalfWrittenFile(t *testing.T) {
	whole := readFile(t, "testdata/access.yaml")
	mustParse(t, whole)
	for n := range len(strings.TrimSuffix(whole, "\n")) {
		if table, err := access.Parse("access.yaml", []byte(whole[:n])); err == nil {
			t.Fatalf("the first %d of %d bytes were taken: %v", n, len(whole), table)
		}
	}
}
