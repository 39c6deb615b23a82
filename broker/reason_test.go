package broker_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// constants returns the string constants of reason.go whose names begin with
// prefix :: name → value.
func constants(t *testing.T, prefix string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[spec.Names[0].Name] = value
		}
		return true
	})
	if len(found) == 0 {
		t.Fatalf("reason.go has no constants %s...", prefix)
	}
	return found
}

func TestReasonTable(t *testing.T) {
	rows := map[broker.Reason]int{}
	for _, info := range broker.Reasons() {
		rows[info.Reason]++
	}
	values := map[string]string{}
	for name, value := range constants(t, "Reason") {
		if rows[broker.Reason(value)] != 1 {
			t.Errorf("%s has %d rows in the table, want 1", name, rows[broker.Reason(value)])
		}
		if other, twice := values[value]; twice {
			t.Errorf("%s and %s are both %s", name, other, value)
		}
		values[value] = name
	}
	recoveries := constants(t, "Recovery")
	known := func(r broker.Recovery) bool {
		for _, value := range recoveries {
			if value == string(r) {
				return true
			}
		}
		return false
	}
	upperSnake := regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	for _, info := range broker.Reasons() {
		if values[string(info.Reason)] == "" {
			t.Errorf("%s is in the table and no constant", info.Reason)
		}
		if !upperSnake.MatchString(string(info.Reason)) {
			t.Errorf("%s is not in UPPER_SNAKE", info.Reason)
		}
		if !known(info.Recovery) {
			t.Errorf("%s: recovery %q is no constant", info.Reason, info.Recovery)
		}
		for what, text := range map[string]string{"summary": info.Summary, "remedy": info.Remedy} {
			if !isSentence(text) {
				t.Errorf("%s: %s %q is not a sentence with a capital and a period", info.Reason, what, text)
			}
		}
		if got := info.Reason.Info(); got != info {
			t.Errorf("%s.Info() = %+v, want its row", info.Reason, got)
		}
	}
}

func isSentence(text string) bool {
	return len(text) > 1 && text[0] >= 'A' && text[0] <= 'Z' && strings.HasSuffix(text, ".") &&
		strings.TrimSpace(text) == text && !strings.ContainsAny(text, "\n\t") && !strings.Contains(text, "  ")
}

func TestUnknownReason(t *testing.T) {
	if got, want := broker.Reason("NO_SUCH").Info(), broker.ReasonInternal.Info(); got != want {
		t.Errorf("Info() of an unknown reason = %+v, want that of INTERNAL", got)
	}
}

func TestReasonsIsACopy(t *testing.T) {
	broker.Reasons()[0].Summary = "changed"
	if got := broker.Reasons(); slices.ContainsFunc(got, func(i broker.ReasonInfo) bool { return i.Summary == "changed" }) {
		t.Error("a caller changed the table")
	}
}
