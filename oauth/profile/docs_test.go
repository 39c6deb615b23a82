package profile_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

const providerPages = "../../docs/providers"

// TestTableOfProviders compares the table of docs/providers/README.md with the built-in
// profiles.
func TestTableOfProviders(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(providerPages, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{} // name → cells
	for _, row := range regexp.MustCompile(`(?m)^\| \[([a-z0-9.-]+)\]\(\.\./\.\./oauth/profile/builtin/([a-z0-9.-]+)\.yaml\) \|(.*)\|$`).FindAllStringSubmatch(string(content), -1) {
		var cells []string
		for _, cell := range strings.Split(row[3], "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		if row[1] != row[2] || len(cells) != 4 || cells[3] == "" {
			t.Errorf("the row of %s leads to %s.yaml and has %d cells: %q", row[1], row[2], len(cells), cells)
			continue
		}
		if rows[row[1]] != nil {
			t.Errorf("%s has two rows", row[1])
		}
		rows[row[1]] = cells
	}
	set := load(t, "")
	for _, name := range set.Names() {
		provider, _ := set.Provider(name)
		want := []string{provider.Title, joined(provider.GrantTypes), joined(provider.AuthenticationMethods)}
		if row, ok := rows[name]; !ok {
			t.Errorf("has no row for %s: %q", name, want)
		} else if !slices.Equal(row[:3], want) {
			t.Errorf("says of %s %q, want %q", name, row[:3], want)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("has a row for %s, which is not built in", name)
	}
}

func joined[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = string(word)
	}
	return strings.Join(texts, ", ")
}

// TestProfilesOfPages holds the profiles that the worked pages show, as "```yaml NAME", to
// the vocabulary.
func TestProfilesOfPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(providerPages, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?ms)^```yaml ([a-z-]+\\.yaml)\n(.*?)^```$").FindAllStringSubmatch(string(content), -1) {
			shown++
			if _, err := profile.Parse(block[1], []byte(block[2])); err != nil {
				t.Errorf("%s: %v", filepath.Base(page), err)
			}
		}
	}
	if shown < 2 {
		t.Errorf("the pages show %d profiles", shown)
	}
}

// TestReasonsOfPages: the worked pages name reasons that exist, each in its table of what
// can go wrong.
func TestReasonsOfPages(t *testing.T) {
	known := map[string]bool{}
	for _, info := range broker.Reasons() {
		known[string(info.Reason)] = true
	}
	pages, err := filepath.Glob(filepath.Join(providerPages, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		_, table, found := strings.Cut(string(content), "## What can go wrong")
		if !found {
			continue
		}
		for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
			for _, reason := range regexp.MustCompile(`[A-Z]{2,}[A-Z_]+`).FindAllString(row[1], -1) {
				told++
				if !known[reason] {
					t.Errorf("%s names the reason %s, which does not exist", filepath.Base(page), reason)
				}
			}
		}
	}
	if told < 20 {
		t.Errorf("the pages tell %d reasons", told)
	}
}
