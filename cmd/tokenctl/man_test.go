package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMan writes one page in which every command and flag is.
func TestMan(t *testing.T) {
	o := newOperator(t)
	page := o.run("man").want(exitDone).stdout
	dir := filepath.Join(o.home, "man", "man1")
	o.run("man", dir).want(exitDone, filepath.Join(dir, "tokenctl.1"))
	written, err := os.ReadFile(filepath.Join(dir, "tokenctl.1"))
	if err != nil || string(written) != page {
		t.Errorf("%v: what was written is not what was printed", err)
	}
	o.run("man", filepath.Join(dir, "tokenctl.1")).want(exitUsage, "not a directory")
	for _, leaf := range model(t).Leaves(true) {
		if name := `.SS "` + strings.ReplaceAll(strings.TrimSuffix(leaf.Path(), " [flags]"), "-", `\-`); !strings.Contains(page, name) {
			t.Errorf("%s is not on the page", name)
		}
		for _, flag := range leaf.Flags {
			if !flag.Hidden && !strings.Contains(page, escaped("--"+flag.Name)) {
				t.Errorf("--%s of %s is not on the page", flag.Name, leaf.Path())
			}
		}
	}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "'") || strings.TrimSpace(line) == "" || strings.HasSuffix(line, " \n") {
			t.Errorf("%q has a meaning in roff that is not meant", line)
		}
	}
}

// TestManIsClean asks the formatters that are here.
func TestManIsClean(t *testing.T) {
	page := newOperator(t).run("man").want(exitDone).stdout
	asked := 0
	for _, formatter := range [][]string{{"mandoc", "-Tlint", "-Werror"}, {"groff", "-man", "-ww", "-Tutf8", "-z"}} {
		path, err := exec.LookPath(formatter[0])
		if err != nil {
			continue
		}
		asked++
		command := exec.CommandContext(t.Context(), path, formatter[1:]...)
		command.Stdin = strings.NewReader(page)
		if said, err := command.CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("%v: %v\n%s", formatter, err, said)
		}
	}
	if asked == 0 {
		t.Skip("neither mandoc nor groff is here")
	}
}
