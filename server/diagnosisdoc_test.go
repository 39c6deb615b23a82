package server_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestDiagnosisDoc: each stage has its heading, in the order of a lookup, and stands at
// the depth that the table promises.
func TestDiagnosisDoc(t *testing.T) {
	document, err := os.ReadFile("../docs/diagnosis.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, stage := range broker.LookupStages() {
		want = append(want, strings.ToLower(stage.Name))
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(document), -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/diagnosis.md has the stages %q, want %q", got, want)
	}
	for _, link := range regexp.MustCompile(`\]\(#([a-z_]+)\)`).FindAllStringSubmatch(string(document), -1) {
		if !slices.Contains(want, link[1]) {
			t.Errorf("docs/diagnosis.md links to #%s, which is no stage", link[1])
		}
	}
}
