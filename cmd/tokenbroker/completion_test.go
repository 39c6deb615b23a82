package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/completion"
)

func TestCompletion(t *testing.T) {
	own := t.TempDir()
	if err := os.WriteFile(filepath.Join(own, "okra.yaml"), []byte(strings.Replace(providerExample, "name: ", "name: okra # ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, line string // a blank at the end begins a new word
		want       string
	}{
		{"commands", "", "serve dev check-config access audit provider vault-policy doctor health completion version"},
		{"below a command", "provider ", "list show check"},
		{"flags", "dev --o", "--once"},
		{"files", "serve --config ", completion.FilesLine},
		{"files of many", "audit verify a.log ", completion.FilesLine},
		{"profiles", "provider show okt", "okta okta-org"},
		{"profiles of one's own", "provider show --dir " + own + " ok", "okra okta okta-org"},
		{"profiles of a folder that is none", "provider show --dir /nowhere okt", "okta okta-org"},
		{"shells", "completion ", "bash fish zsh"},
		{"value of no kind", "health --timeout ", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := command(t, append([]string{completion.Word}, strings.Split(test.line, " ")...)...)
			got.want(t, 0)
			var texts []string
			for line := range strings.Lines(got.stdout) {
				text, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
				texts = append(texts, text)
			}
			if strings.Join(texts, " ") != test.want || got.stderr != "" {
				t.Errorf("got %q and %q on standard error, want %q", texts, got.stderr, test.want)
			}
		})
	}
	got := commandIn(t.Context(), []string{providersDirVariable + "=" + own}, completion.Word, "provider", "show", "okr")
	if got.want(t, 0); got.stdout != "okra\t\n" {
		t.Errorf("with the folder in a variable: got %q", got.stdout)
	}
	for _, shell := range strings.Split(completion.Shells, ",") {
		if got := command(t, "completion", shell); !strings.Contains(got.stdout, "tokenbroker "+completion.Word) {
			t.Errorf("%s: got %q", shell, got.stdout)
		}
	}
	command(t, "completion", "tcsh").want(t, 2, "must be one of")
}
