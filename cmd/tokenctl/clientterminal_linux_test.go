package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPruneAsks: only a yes deletes.
func TestPruneAsks(t *testing.T) {
	r := newReal(t)
	dir := filepath.Join(r.home, "clients")
	r.file("clients/acme.yaml", acmeFile)
	r.run("client", "apply", "-f", dir).want(exitDone)
	r.remove("clients/acme.yaml")
	for _, answer := range []struct {
		typed  string
		status int
		want   string
		state  string
	}{
		{"\r", exitFailed, "nothing was changed", "active"},
		{"n\r", exitFailed, "nothing was changed", "active"},
		{"yes, but\r", exitFailed, "nothing was changed", "active"},
		{"Y\r", exitDone, "1 done", "deleted"},
	} {
		x := newTerminal(t)
		x.types(answer.typed)
		r.stdin = x.tty
		r.run("client", "apply", "-f", dir, "--prune").want(answer.status, "Delete 1 clients?", answer.want)
		r.run("client", "get", "acme-crm").want(exitDone, answer.state)
	}
}

// TestColours are for terminals, and for those who want them.
func TestColours(t *testing.T) {
	r := newReal(t)
	dir := filepath.Join(r.home, "clients")
	r.file("clients/acme.yaml", acmeFile)
	for _, test := range []struct {
		name    string
		environ []string
		args    []string
		want    bool
	}{
		{"at a terminal", nil, nil, true},
		{"unwanted", []string{"NO_COLOR=1"}, nil, false},
		{"for programs", nil, []string{"-o", "json"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newTerminal(t)
			args := append([]string{"client", "apply", "-f", dir, "--dry-run"}, test.args...)
			if status := run(t.Context(), args, append(r.environ, test.environ...), x.tty, x.tty, &buffer{}); status != exitDone {
				t.Errorf("status %d", status)
			}
			x.close()
			if got := strings.Contains(x.screen.String(), green); got != test.want {
				t.Errorf("on the screen:\n%q, want colours: %t", x.screen.String(), test.want)
			}
		})
	}
}

// TestEditAgain: who makes a mistake may mend it.
func TestEditAgain(t *testing.T) {
	r := newReal(t)
	t.Setenv("TMPDIR", r.home)
	r.run("client", "create", "-f", r.file("acme.yaml", acmeFile)).want(exitDone)
	x := newTerminal(t)
	r.stdin = x.tty
	r.editor(`if grep -q wrong "$1"; then sed -i '/wrong/d; s/team: crm/team: erp/' "$1"; else echo "wrong: x" >> "$1"; fi`)
	x.types("y\r")
	r.run("client", "edit", "acme-crm").want(exitDone, `"wrong" is no field`, "Edit it again?", "~ labels.team: crm → erp")
}
