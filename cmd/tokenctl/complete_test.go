package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// completed returns how a command line may go on; the last word is unfinished.
func (o *operator) completed(words ...string) (texts []string) {
	o.t.Helper()
	for line := range strings.Lines(o.run(append([]string{completeWord}, words...)...).want(exitDone).stdout) {
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
	if got := o.run(completeWord, "rotate", ""); got.stdout+got.stderr != "" {
		t.Errorf("what cannot be asked is told: %q", got.stdout+got.stderr)
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

// TestCompleteInBash types Tab in a real bash, and loads the script into the other
// shells where there are any.
func TestCompleteInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatalf("no bash: %v", err)
	}
	dir := t.TempDir()
	// Stands for the program: it shows what it is asked and answers it.
	fake := "#!" + bash + "\nprintf '<%s>' \"$@\" >> " + dir + "/asked\nprintf 'acme-crm\\ta client\\nacme two\\t\\n'\n"
	if err := os.WriteFile(filepath.Join(dir, "tokenctl"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	script := newOperator(t).run("completion", "bash").want(exitDone).stdout
	for _, test := range []struct{ name, words, asked, want string }{
		{"word", `tokenctl secret stage ac`, "<__complete><secret><stage><ac>", "acme-crm|acme two|"},
		{"empty word", `tokenctl rotate ''`, "<__complete><rotate><>", "acme-crm|acme two|"},
		{"behind =", `tokenctl --output = js`, "<__complete><--output><js>", "acme-crm|acme two|"},
		{"at =", `tokenctl --output =`, "<__complete><--output><>", "acme-crm|acme two|"},
		{"= before", `tokenctl --output = json rotate ac`, "<__complete><--output><json><rotate><ac>", "acme-crm|acme two|"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(filepath.Join(dir, "asked"))
			command := exec.CommandContext(t.Context(), bash, "--norc", "-c", script+"\nCOMP_WORDS=("+test.words+"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _tokenctl; printf '%s|' \"${COMPREPLY[@]}\"")
			command.Env = []string{"PATH=" + dir + ":/bin:/usr/bin"}
			got, err := command.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, got)
			}
			if asked, _ := os.ReadFile(filepath.Join(dir, "asked")); string(asked) != test.asked || string(got) != test.want {
				t.Errorf("it asked %q and got %q, want %q and %q", asked, got, test.asked, test.want)
			}
		})
	}
}

// TestScriptsAreSound: each shell that is here can read its script.
func TestScriptsAreSound(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			script := newOperator(t).run("completion", shell).want(exitDone, completeWord, filesLine).stdout
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("no %s here", shell)
			}
			command := exec.CommandContext(t.Context(), path, "-n", "/dev/stdin")
			command.Stdin = strings.NewReader(script)
			if said, err := command.CombinedOutput(); err != nil || len(said) > 0 {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
}
