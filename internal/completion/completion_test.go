package completion_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/internal/completion"
)

func mustScript(t *testing.T, shell string) string {
	t.Helper()
	script, err := completion.Script("tokenctl", shell)
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// TestWithoutNames: the zero Completer knows what kong knows; what it prints fits on
// lines of its own, whatever stands in a help text.
func TestWithoutNames(t *testing.T) {
	var cli struct {
		Open struct {
			Way  string   `help:"Which\n\tway\x1b[31m." enum:"in,out" default:"in"`
			Name string   `complete:"door" short:"n"`
			File []string `arg:"" type:"path"`
		} `cmd:""`
		Close struct {
			Door string `arg:"" complete:"door"`
		} `cmd:""`
	}
	parser, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"":                  "open\t\nclose\t\n",
		"open --w":          "--way\tWhich  way [31m.\n",
		"open --way ":       "in\t\nout\t\n",
		"open --way=o":      "--way=out\t\n",
		"open --name ":      "",
		"open -n x ":        completion.FilesLine + "\n",
		"open a b c ":       completion.FilesLine + "\n",
		"open -- --way":     completion.FilesLine + "\n",
		"close ":            "",
		"close x ":          "",
		"open --nothing=":   "",
		"shut the front do": "",
	} {
		var out strings.Builder
		completion.Completer{}.Complete(t.Context(), parser.Model, strings.Split(line, " "), &out)
		if out.String() != want {
			t.Errorf("%q: got %q, want %q", line, out.String(), want)
		}
	}
}

func TestUnknownShell(t *testing.T) {
	if script, err := completion.Script("tokenctl", "tcsh"); err == nil {
		t.Errorf("got %q for a shell that there is no script for", script)
	}
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
	script := mustScript(t, "bash")
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
	for _, shell := range strings.Split(completion.Shells, ",") {
		t.Run(shell, func(t *testing.T) {
			script := mustScript(t, shell)
			if !strings.Contains(script, completion.Word) || !strings.Contains(script, completion.FilesLine) || strings.Contains(script, "PROGRAM") {
				t.Errorf("the script is\n%s", script)
			}
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
