package access_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// The world of the matrix. Each pattern that a row may have matches a client that no
// narrower pattern matches, and "someone" is only ever named as "*", so that what holds
// for this world holds for all.
var (
	matrixCallers  = []string{"c1", "c2", "c3", "someone"}
	matrixPatterns = []string{"*", "prefix:a", "prefix:ab", "prefix:ab-", "prefix:b", "a-1", "ab-1", "ab-2", "b-1", "label:k=1", "label:k=2", "label:m=1"}
	matrixClients  = []string{"a-1", "ab-1", "ab-2", "b-1", "a0q", "ab0q", "ab-0q", "b0q", "zzz", ""}
	matrixLabels   = []map[string]string{nil, {}, {"k": "1"}, {"k": "2"}, {"m": "1"}, {"k": "1", "m": "1"}, {"k": "2", "m": "1", "x": "y"}, {"k": "3"}}
	matrixScopes   = []string{"", "x", "y"}
)

// naiveRow is a row in the simplest form.
type naiveRow struct {
	callers, exceptCallers, permissions, clients, exceptClients []string
	scope                                                       string // its default scope; "" for no restriction
	limited                                                     bool
}

func (r naiveRow) String() string {
	quoted := func(list []string) string {
		var texts []string
		for _, s := range list {
			texts = append(texts, fmt.Sprintf("%q", s))
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	text := fmt.Sprintf("{callers: %s, permissions: %s, clients: %s", quoted(r.callers), quoted(r.permissions), quoted(r.clients))
	var except []string
	if len(r.exceptCallers) > 0 {
		except = append(except, "callers: "+quoted(r.exceptCallers))
	}
	if len(r.exceptClients) > 0 {
		except = append(except, "clients: "+quoted(r.exceptClients))
	}
	if len(except) > 0 {
		text += ", except: {" + strings.Join(except, ", ") + "}"
	}
	if r.scope != "" {
		text += ", scopes: {default: [" + r.scope + "]}"
	}
	if r.limited {
		text += ", limits: {concurrent: 1}"
	}
	return text + "}"
}

func (r naiveRow) matchesPattern(pattern, client string, labels map[string]string) bool {
	if slices.ContainsFunc(r.exceptClients, func(e string) bool {
		prefix, isPrefix := strings.CutPrefix(e, "prefix:")
		return client == e || isPrefix && strings.HasPrefix(client, prefix) || client == ""
	}) {
		return false
	}
	if client == "" {
		return pattern == "*"
	}
	if prefix, ok := strings.CutPrefix(pattern, "prefix:"); ok {
		return strings.HasPrefix(client, prefix)
	}
	if label, ok := strings.CutPrefix(pattern, "label:"); ok {
		key, value, _ := strings.Cut(label, "=")
		got, has := labels[key]
		return has && got == value
	}
	return pattern == "*" || pattern == client
}

func (r naiveRow) matches(caller string, p access.Permission, client string, labels map[string]string) bool {
	return r.grantsTo(caller, p) && r.matchesClient(client, labels)
}

func (r naiveRow) matchesClient(client string, labels map[string]string) bool {
	return slices.ContainsFunc(r.clients, func(pattern string) bool { return r.matchesPattern(pattern, client, labels) })
}

func (r naiveRow) grantsTo(caller string, p access.Permission) bool {
	if slices.Contains(r.exceptCallers, caller) || !slices.Contains(r.callers, caller) && !slices.Contains(r.callers, "*") {
		return false
	}
	return slices.ContainsFunc(r.permissions, func(name string) bool {
		return name == p.String() || name == "role:operator" && p != access.ClientRetarget || name == "role:caller" && (p == access.TokenGet || p == access.TokenWatch)
	})
}

// everyCall calls visit for each call of the world.
func everyCall(visit func(caller string, p access.Permission, client string, labels map[string]string)) {
	for _, caller := range matrixCallers {
		for _, p := range access.Permissions() {
			for _, client := range matrixClients {
				for _, labels := range matrixLabels {
					visit(caller, p, client, labels)
				}
			}
		}
	}
}

// contradict reports whether two rows match one call and say different things of it.
func contradict(a, b naiveRow) bool {
	both := func(client string, labels map[string]string) bool {
		return a.matchesClient(client, labels) && b.matchesClient(client, labels)
	}
	meet := slices.ContainsFunc(matrixClients, func(client string) bool {
		return slices.ContainsFunc(matrixLabels, func(labels map[string]string) bool { return both(client, labels) })
	})
	for _, caller := range matrixCallers {
		for _, p := range access.Permissions() {
			token := p == access.TokenGet || p == access.TokenWatch
			if (a.limited || b.limited || token && a.scope != b.scope) && meet && a.grantsTo(caller, p) && b.grantsTo(caller, p) {
				return true
			}
		}
	}
	return false
}

// idle reports whether for each caller, permission and pattern of a row there is
// another row that matches all the same clients.
func idle(rows []naiveRow, i int) bool {
	r := rows[i]
	others := slices.Delete(slices.Clone(rows), i, i+1)
	for _, caller := range matrixCallers {
		for _, p := range access.Permissions() {
			for _, pattern := range r.clients {
				if r.grantsTo(caller, p) && !slices.ContainsFunc(others, func(o naiveRow) bool { return o.coversPattern(r, pattern, caller, p) }) {
					return false
				}
			}
		}
	}
	return true
}

func (r naiveRow) coversPattern(narrow naiveRow, pattern, caller string, p access.Permission) bool {
	for _, client := range matrixClients {
		for _, labels := range matrixLabels {
			if narrow.matchesPattern(pattern, client, labels) && !r.matches(caller, p, client, labels) {
				return false
			}
		}
	}
	return true
}

// some picks up to most of list, at least one, in the list's order.
func some(random *rand.Rand, list []string, most int) []string {
	picked := slices.Clone(list)
	random.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:1+random.IntN(most)]
}

// randomRow returns a row that is sound by itself.
func randomRow(t *testing.T, random *rand.Rand) naiveRow {
	var names []string
	for _, p := range access.Permissions()[:6] {
		names = append(names, p.String())
	}
	for {
		r := naiveRow{
			callers: some(random, matrixCallers[:3], 2), permissions: some(random, names, 3), clients: some(random, matrixPatterns, 3),
			scope: matrixScopes[max(0, random.IntN(8)-5)], limited: random.IntN(10) == 0,
		}
		if random.IntN(4) == 0 {
			r.callers = []string{"*"}
			if random.IntN(2) == 0 {
				r.exceptCallers = some(random, matrixCallers[:3], 2)
			}
		}
		if random.IntN(8) == 0 {
			r.permissions = []string{[]string{"role:caller", "role:operator"}[random.IntN(2)]}
		}
		if random.IntN(3) == 0 {
			r.exceptClients = some(random, matrixPatterns[1:9], 2)
		}
		if _, err := access.Parse("row", []byte(matrixFile(r))); err == nil {
			return r
		}
	}
}

func matrixFile(rows ...naiveRow) string {
	var b strings.Builder
	b.WriteString("callers:\n")
	for _, name := range matrixCallers {
		fmt.Fprintf(&b, "  - {name: %s, identities: [\"dns:%s\"]}\n", name, name)
	}
	b.WriteString("rules:\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "  - %v\n", r)
	}
	return b.String() + "...\n"
}

// TestMatrix makes tables at random and compares what is refused, and each decision of
// those that are not, with the naive evaluator above: permissions × callers × clients ×
// labels × rows.
func TestMatrix(t *testing.T) {
	tables := 60
	if testing.Short() {
		tables = 20
	}
	random := rand.New(rand.NewPCG(1, 2))
	refused := map[string]int{}
	decided := map[bool]int{}
	for range tables {
		var rows []naiveRow
		for range 9 {
			more := append(slices.Clip(rows), randomRow(t, random))
			if kind := compareParse(t, more); kind != "" {
				refused[kind]++
			} else {
				rows = more
			}
		}
		compareDecisions(t, rows, decided)
		if t.Failed() {
			t.Fatalf("in the table\n%s", matrixFile(rows...))
		}
	}
	t.Logf("%d tables; rows refused: %v; decisions: %v", tables, refused, decided)
	if refused["contradicts"] < tables/2 || refused["adds nothing"] < tables/10 || decided[true] < 1000 || decided[false] < 1000 {
		t.Error("the tables are too plain to show anything")
	}
}

// compareParse returns why a table is refused, "" if it is not, and fails if it should
// have been otherwise.
func compareParse(t *testing.T, rows []naiveRow) string {
	t.Helper()
	want := ""
	for i := range rows {
		for j := range i {
			if contradict(rows[i], rows[j]) {
				want = "contradicts"
			}
		}
	}
	for i := range rows {
		if want == "" && idle(rows, i) {
			want = "adds nothing"
		}
	}
	_, err := access.Parse("access.yaml", []byte(matrixFile(rows...)))
	got := ""
	var problems *strictyaml.Error
	if errors.As(err, &problems) {
		got = "adds nothing"
		for _, p := range problems.Problems {
			if strings.Contains(p.Text, "contradicts") {
				got = "contradicts"
			} else if !strings.Contains(p.Text, "adds nothing") {
				t.Errorf("unexpected problem: %v", p)
			}
		}
	}
	if got != want {
		t.Fatalf("refused because it %q, want %q:\n%v\n%s", got, want, err, matrixFile(rows...))
	}
	return got
}

func compareDecisions(t *testing.T, rows []naiveRow, decided map[bool]int) {
	t.Helper()
	table := mustParse(t, matrixFile(rows...))
	everyCall(func(caller string, p access.Permission, client string, labels map[string]string) {
		identity := "dns:" + caller
		d := table.Decide(access.Request{Caller: callerOf(t, table, identity), Permission: p, Client: client, Labels: has(labels)})
		matching := func(r naiveRow) bool { return r.matches(caller, p, client, labels) }
		want := slices.ContainsFunc(rows, matching)
		decided[want]++
		switch {
		case d.Allowed != want:
			t.Errorf("%s %v %q %v: allowed %v, want %v", caller, p, client, labels, d.Allowed, want)
		case !want:
		case !matching(rows[d.Row.Index]):
			t.Errorf("%s %v %q %v: granted by row %d, which does not match", caller, p, client, labels, d.Row.Index)
		case (p == access.TokenGet || p == access.TokenWatch) && (d.Scopes != nil) != (rows[d.Row.Index].scope != ""):
			t.Errorf("%s %v %q %v: scopes %v are not those of row %d", caller, p, client, labels, d.Scopes, d.Row.Index)
		case (d.Limits != nil) != rows[d.Row.Index].limited:
			t.Errorf("%s %v %q %v: limits %v are not those of row %d", caller, p, client, labels, d.Limits, d.Row.Index)
		}
		byName := slices.ContainsFunc(rows, func(r naiveRow) bool { return r.matches(caller, p, client, nil) })
		if d.Labelled && byName {
			t.Errorf("%s %v %q: hangs on labels though a row grants by name", caller, p, client)
		}
		if e := table.Explain(identity, p, client, labels); e.Allowed != d.Allowed || e.Row != d.Row {
			t.Errorf("%s %v %q %v: explained as %v", caller, p, client, labels, e)
		}
	})
}
