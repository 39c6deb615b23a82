package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// page is the page that describes the tool.
var page = filepath.Join("..", "..", "docs", "tokenctl.md")

func readPage(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestExitStatusesAreDocumented compares the table of docs/tokenctl.md with the code.
func TestExitStatusesAreDocumented(t *testing.T) {
	const begin, end = "<!-- exit-statuses:begin -->\n", "<!-- exit-statuses:end -->"
	var want bytes.Buffer
	fmt.Fprintln(&want, "| status | codes | what it means |\n| --- | --- | --- |")
	for _, cause := range exitStatuses() {
		var names []string
		for _, code := range cause.codes {
			names = append(names, codeName(code))
		}
		fmt.Fprintf(&want, "| %d | %s | %s |\n", cause.status, strings.Join(names, ", "), cause.meaning)
	}
	before, rest, found := strings.Cut(readPage(t, page), begin)
	table, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != want.String() {
		t.Errorf("the table of %s is not that of the code; run `go test ./cmd/tokenctl -update`:\n%s", page, want.String())
	}
	for _, status := range regexp.MustCompile(`\b(\d+) `).FindAllStringSubmatch(appHelp[strings.Index(appHelp, "Exit statuses"):], -1) {
		if !strings.Contains(table, "| "+status[1]+" |") {
			t.Errorf("--help names the status %s, which is none", status[1])
		}
	}
}

// section returns the part of the page below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(readPage(t, page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %s", page, heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// firstCells returns what stands in backquotes in the first cells of a section's table.
func firstCells(text string) (cells []string) {
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(text, -1) {
		for _, cell := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			cells = append(cells, cell[1])
		}
	}
	slices.Sort(cells)
	return cells
}

func TestCommandsAreDocumented(t *testing.T) {
	var want []string
	for _, leaf := range model(t).Leaves(true) {
		want = append(want, strings.TrimPrefix(leaf.Path(), "tokenctl "))
	}
	for i := range want {
		want[i] = regexp.MustCompile(` \(.*?\)| <.*?>| \[.*?\]`).ReplaceAllString(want[i], "")
	}
	slices.Sort(want)
	if got := firstCells(section(t, "Commands")); !slices.Equal(got, want) {
		t.Errorf("the page has\n%q, the code\n%q", got, want)
	}
}

func TestConfigurationIsDocumented(t *testing.T) {
	keys := []string{"current"}
	if n := reflect.TypeFor[configFile]().NumField(); n != 2 {
		t.Errorf("the configuration has %d keys at its top, the page knows 2", n)
	}
	for field := range reflect.TypeFor[contextConfig]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if asJSON, _, _ := strings.Cut(field.Tag.Get("json"), ","); asJSON != name {
			t.Errorf("%s is %q in YAML and %q in JSON", field.Name, name, asJSON)
		}
		keys = append(keys, "contexts.NAME."+name)
	}
	slices.Sort(keys)
	text := section(t, "The configuration file")
	if got := firstCells(text); !slices.Equal(got, keys) {
		t.Errorf("the page has\n%q, the code\n%q", got, keys)
	}
	sample := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindStringSubmatch(text)
	o := newOperator(t)
	o.write(".config/tokenctl/config.yaml", sample[1])
	o.run("context", "list").want(exitDone, "*        prod   broker.example.org:7443    certificate")
}

// TestDocumentedCommandsParse: what README and docs tell to type is understood.
func TestDocumentedCommandsParse(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range append(paths, filepath.Join("..", "..", "README.md")) {
		for _, block := range regexp.MustCompile("(?ms)^```(?:sh|console)\n(.*?)^```").FindAllStringSubmatch(readPage(t, path), -1) {
			for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
				line = strings.TrimPrefix(line, "$ ")
				if strings.Contains(line, "tokenctl ") {
					found++
					parseExample(t, filepath.Base(path), line)
				}
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d lines were found", found)
	}
}

// TestDocumentedFlagsExist, and those of the sources of a secret are all described.
func TestDocumentedFlagsExist(t *testing.T) {
	known := map[string]*kong.Flag{}
	for _, leaf := range model(t).Leaves(true) {
		for _, flags := range leaf.AllFlags(true) {
			for _, flag := range flags {
				known[flag.Name] = flag
			}
		}
	}
	text := readPage(t, page)
	for _, name := range regexp.MustCompile("--([a-z-]+)").FindAllStringSubmatch(text, -1) {
		if known[name[1]] == nil && name[1] != "-" && !strings.HasPrefix(name[1], "-") {
			t.Errorf("the page names --%s, which is no flag", name[1])
		}
	}
	for name, flag := range known {
		if flag.Group != nil && !strings.Contains(text, "--"+name) {
			t.Errorf("the page does not describe --%s", name)
		}
	}
}
