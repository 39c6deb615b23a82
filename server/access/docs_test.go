package access_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/access"
)

const docs = "../../docs/access.md"

// blocks returns the code blocks of a kind in docs/access.md.
func blocks(t *testing.T, kind string) []string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(readFile(t, docs), -1) {
		found = append(found, m[1])
	}
	return found
}

// TestDocs: what docs/access.md shows is what the tests of this package use.
func TestDocs(t *testing.T) {
	yaml := blocks(t, "yaml")
	if len(yaml) != 2 || yaml[0] != readFile(t, "testdata/access.yaml") || yaml[1] != readFile(t, "testdata/expectations.yaml") {
		t.Error("the YAML in docs/access.md is not testdata/access.yaml and testdata/expectations.yaml")
	}
	text := readFile(t, docs)
	for _, p := range access.Permissions() {
		if !strings.Contains(text, "`"+p.String()+"`") {
			t.Errorf("docs/access.md does not name %v", p)
		}
	}
}

// TestDocsExplain runs the commands of docs/access.md.
func TestDocsExplain(t *testing.T) {
	table := mustParse(t, readFile(t, "testdata/access.yaml"))
	command := regexp.MustCompile(`^\$ tokenbroker access explain --file access.yaml --caller (\S+) --permission (\S+) --client (\S+)$`)
	var shown, want []string
	for _, line := range strings.Split(strings.TrimSpace(strings.Join(blocks(t, "console"), "")), "\n") {
		if m := command.FindStringSubmatch(line); m != nil {
			want = append(want, strings.Split(table.Explain(m[1], permission(t, m[2]), m[3], nil).String(), "\n")...)
			continue
		}
		shown = append(shown, line)
	}
	if got, want := strings.Join(shown, "\n"), strings.Join(want, "\n"); got != want || want == "" {
		t.Errorf("docs/access.md shows\n%s\nwant\n%s", got, want)
	}
}
