package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// documented is a line of a document that a reader is to type.
type documented struct {
	where, line string
}

// documentedLines returns the lines of the fenced sh blocks of a document.
func documentedLines(t *testing.T, path string) []documented {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []documented
	within := false
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			within = !within && (line == "```sh" || strings.HasPrefix(line, "```sh "))
		case within:
			// A comment behind a command is not part of it.
			command, _, _ := strings.Cut(line, " #")
			lines = append(lines, documented{filepath.Base(path), strings.TrimPrefix(strings.TrimSpace(command), "$ ")})
		}
	}
	return lines
}

func documents(t *testing.T) (root string, lines []documented) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(documentPaths(t, root), filepath.Join(root, "README.md")) {
		lines = append(lines, documentedLines(t, path)...)
	}
	return root, lines
}

// documentPaths returns the pages of docs and docs/providers.
func documentPaths(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	for _, folder := range []string{"docs", filepath.Join("docs", "providers")} {
		found, err := filepath.Glob(filepath.Join(root, folder, "*.md"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%d pages in %s: %v", len(found), folder, err)
		}
		paths = append(paths, found...)
	}
	return paths
}

// TestDocumentedTargetsExist checks every `make …` of README and docs by a dry run.
func TestDocumentedTargetsExist(t *testing.T) {
	root, lines := documents(t)
	checked := map[string]bool{}
	for _, d := range lines {
		if !strings.HasPrefix(d.line, "make ") && d.line != "make" || checked[d.line] {
			continue
		}
		checked[d.line] = true
		command := makeCommand(t, root, append([]string{"--dry-run"}, strings.Fields(d.line)[1:]...)...)
		if printed, err := command.CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", d.where, d.line, err, printed)
		}
	}
	if !checked["make demo ONCE=1"] && !checked["make demo"] {
		t.Error("README.md does not tell how to see it work: make demo")
	}
}

// makeCommand is make as a person runs it, also where make runs this test.
func makeCommand(t *testing.T, root string, args ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), "make", args...)
	command.Dir = root
	command.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "MAKE") || strings.HasPrefix(entry, "MFLAGS") })
	return command
}

var (
	ownCommand = regexp.MustCompile(`^(?:\./)?(?:bin/)?tokenbroker +((?:access|audit|provider) +[a-z-]+|[a-z-]+)(.*)$`)
	flagName   = regexp.MustCompile(`(?:^|\s)(--[a-z-]+)`)
)

// TestDocumentedCommandsExist checks every `tokenbroker …` of README and docs: the
// command is there and knows the flags.
func TestDocumentedCommandsExist(t *testing.T) {
	needServers(t)
	_, lines := documents(t)
	checked := 0
	for _, d := range lines {
		found := ownCommand.FindStringSubmatch(d.line)
		if found == nil {
			continue
		}
		checked++
		help, stderr, status := output(t, append(strings.Fields(found[1]), "--help")...)
		if status != 0 {
			t.Errorf("%s: %s: there is no such command: %s", d.where, d.line, stderr)
			continue
		}
		before, _, _ := strings.Cut(found[2], "|") // what it is piped into has flags of its own
		for _, flag := range flagName.FindAllStringSubmatch(before, -1) {
			if !strings.Contains(help, flag[1]) {
				t.Errorf("%s: %s: there is no flag %s", d.where, d.line, flag[1])
			}
		}
	}
	if checked == 0 {
		t.Error("README.md and docs show no tokenbroker command")
	}
}

var (
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	reference = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	noAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns what the headings of a document are called in links.
func anchors(t *testing.T, path string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, match := range heading.FindAllSubmatch(content, -1) {
		found[strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(string(match[1])), ""), " ", "-")] = true
	}
	return found
}

// TestDocumentedLinksLead follows the links of README and docs to files of this
// repository, and to their headings.
func TestDocumentedLinksLead(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	followed := 0
	for _, path := range append(documentPaths(t, root), filepath.Join(root, "README.md"), filepath.Join(root, "SECURITY.md")) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range reference.FindAllSubmatch(content, -1) {
			file, anchor, _ := strings.Cut(string(match[1]), "#")
			if strings.Contains(file, "://") {
				continue
			}
			followed++
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(file))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(path), match[1], err)
			} else if anchor != "" && strings.HasSuffix(target, ".md") && !anchors(t, target)[anchor] {
				t.Errorf("%s: %s: there is no such heading", filepath.Base(path), match[1])
			}
		}
	}
	if followed < 50 {
		t.Errorf("only %d links were found", followed)
	}
}

// TestMakeDemo runs what README tells a newcomer to run.
func TestMakeDemo(t *testing.T) {
	t.Parallel()
	needServers(t)
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	printed, err := makeCommand(t, root, "demo", "ONCE=1").CombinedOutput()
	if err != nil || !strings.Contains(string(printed), "SECRET_DESTROYED") {
		t.Errorf("make demo ONCE=1: %v\n%s", err, printed)
	}
}
