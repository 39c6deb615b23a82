package server_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
)

var rewrite = flag.Bool("update", false, "rewrite the tables of docs/errors.md")

const (
	errorsPage   = "../docs/errors.md"
	reasonsBegin = "<!-- reasons:begin -->\n"
	reasonsEnd   = "<!-- reasons:end -->"
)

// TestErrorsDoc compares the table of docs/errors.md with what the server answers.
// `go test ./server -run ErrorsDoc -update` writes it.
func TestErrorsDoc(t *testing.T) {
	content, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(content), reasonsBegin)
	got, after, ended := strings.Cut(rest, reasonsEnd)
	if !begun || !ended {
		t.Fatalf("%s has no section between %q and %q", errorsPage, reasonsBegin, reasonsEnd)
	}
	want := reasonsTable()
	if *rewrite {
		must(t, os.WriteFile(errorsPage, []byte(before+reasonsBegin+want+reasonsEnd+after), 0o644))
		return
	}
	for _, info := range broker.Reasons() {
		if !strings.Contains(before, "\n| "+string(info.Recovery)+" | ") {
			t.Errorf("%s does not explain the recovery %s", errorsPage, info.Recovery)
		}
	}
	if got != want {
		t.Errorf("%s is not what the code says; run go test ./server -run ErrorsDoc -update\ngot:\n%s\nwant:\n%s", errorsPage, got, want)
	}
}

func reasonsTable() string {
	codes := server.Codes()
	var table strings.Builder
	table.WriteString("| reason | code | recovery | what it means | what mends it |\n| --- | --- | --- | --- | --- |\n")
	for _, info := range broker.Reasons() {
		shown := "warning"
		if code, ok := codes[info.Reason]; ok {
			shown = protoName(code)
		}
		cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", info.Reason, shown, info.Recovery, cell(info.Summary), cell(info.Remedy))
	}
	return table.String()
}
