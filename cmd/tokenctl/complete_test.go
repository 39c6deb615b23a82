package main

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/internal/completion"
)

// completed returns how a command line may go on; the last word is unfinished.
func (o *operator) completed(words ...string) (texts []string) {
	o.t.Helper()
	for line := range strings.Lines(o.run(append([]string{completion.Word}, words...)...).want(exitDone).stdout) {
		text, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		texts = append(texts, text)
	}
	return texts
}

func TestComplete(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("context", "set", "other", "--unix-socket", "/nowhere").want(exitDone)
	tests := []struct {
		name, line string // a blank at the end begins a new word
		want       string
	}{
		{"commands", "", "context client provider secret rotate rotations token check sweep explain watch access audit doctor whoami completion man version"},
		{"begun command", "rotat", "rotate rotations"},
		{"below a command", "secret r", "rollback retire"},
		{"clients", "secret stage ", "acme-billing acme-crm zeta"},
		{"begun client", "rotate acme-c", "acme-crm"},
		{"long names of clients", "rotate clients/a", "clients/acme-billing clients/acme-crm"},
		{"client behind flags", "rotate --timeout 5s --dry-run -o json z", "zeta"},
		{"client behind --", "rotate -- z", "zeta"},
		{"no second client", "rotate acme-crm ", ""},
		{"flags", "rotate --d", "--drop-tokens --dry-run"},
		{"flags of all commands", "whoami --c", "--config --context"},
		{"flag of a flag", "rotate --x=", ""},
		{"enumeration", "whoami -o ", "json markdown text yaml"},
		{"enumeration behind =", "whoami --output=j", "--output=json"},
		{"states", "rotations list --state ro", "rolled-back"},
		{"until", "rotate --until p", "promoted"},
		{"contexts", "context use ", "other test"},
		{"contexts of a flag", "--context t", "test"},
		{"shells", "completion ", "bash fish zsh"},
		{"files", "secret stage --file ", ":files"},
		{"client of a check", "check --depth token acme-c", "acme-crm"},
		{"depths", "check --depth ", "api connect enforcement index secret token"},
		{"depths of a sweep", "sweep --depth t", "token"},
		{"client behind a caller", "access explain crm z", "zeta"},
		{"audit files", "audit verify ", ":files"},
		{"value of no kind", "secret retire --secret-version ", ""},
		{"context that cannot be asked", "--context other rotate ", ""},
		{"no such configuration", "--config /nowhere rotate ", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			words := strings.Split(test.line, " ")
			if got := strings.Join(o.completed(words...), " "); got != test.want && !sameWords(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	f.refuse(refusal(codes.PermissionDenied, "CALLER_NOT_ALLOWED", "FIX_CALLER", "No."))
	if got := o.run(completion.Word, "rotate", ""); got.stdout+got.stderr != "" {
		t.Errorf("what cannot be asked is told: %q", got.stdout+got.stderr)
	}
	for _, shell := range strings.Split(completion.Shells, ",") {
		o.run("completion", shell).want(exitDone, "tokenctl "+completion.Word)
	}
	if got := o.completed(); got != nil {
		t.Errorf("got %v for no words", got)
	}
}

func sameWords(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}
