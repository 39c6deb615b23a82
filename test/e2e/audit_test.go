package e2e_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// audited is a deployment whose audit log is looked into.
type audited struct {
	t    *testing.T
	site *site
	path string // of the program
	log  string
}

// verify runs the program's own verification and returns what it printed and whether
// it found everything sound.
func (a *audited) verify(args ...string) (string, bool) {
	a.t.Helper()
	files, err := filepath.Glob(a.log + "*")
	if err != nil {
		a.t.Fatal(err)
	}
	command := exec.Command(a.path, append(append([]string{"audit", "verify"}, args...), files...)...)
	output, err := command.CombinedOutput()
	if err == nil {
		return string(output), true
	}
	if command.ProcessState.ExitCode() != 1 {
		a.t.Fatalf("verify: %v\n%s", err, output)
	}
	return string(output), false
}

func (a *audited) get(n *node) {
	a.t.Helper()
	if _, err := n.token(a.t.Context(), "clients/acme"); err != nil {
		a.t.Fatal(err)
	}
}

// TestAuditLog follows the log through a rotation by signal, a kill, a restart and a
// forger.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret)
	a := &audited{t: t, site: newSite(t, embeddedStore(t.TempDir()), up.ca), path: program(t)}
	a.log = filepath.Join(a.site.dir, "audit.log")
	key := filepath.Join(a.site.dir, "audit.key")

	n := a.site.start(t, a.path)
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("acme", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	a.get(n)
	if err := os.Rename(a.log, a.log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "an entry in the new file", func() error {
		a.get(n)
		_, err := os.Stat(a.log)
		return err
	})
	if report, sound := a.verify("--key", key, "--running", "1"); !sound || !strings.Contains(report, "still running") {
		t.Errorf("while it runs: sound %t\n%s", sound, report)
	}
	n.Kill()
	<-n.Done()

	n = a.site.start(t, a.path)
	a.get(n)
	n.stop(t)
	report, sound := a.verify("--key", key)
	if killed := regexp.MustCompile(`--killed (\S+/\d+)`).FindStringSubmatch(report); sound || killed == nil {
		t.Errorf("after a kill: sound %t\n%s", sound, report)
	} else if report, sound = a.verify("--key", key, "--killed", killed[1]); !sound {
		t.Errorf("told of the kill:\n%s", report)
	}

	public, err := exec.Command(a.path, "audit", "public-key", "--key", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	publicFile := a.site.write(t, "audit.pub", public)
	content, err := os.ReadFile(a.log)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(content, []byte(`"caller":"crm"`), []byte(`"caller":"erp"`), 1)
	if bytes.Equal(forged, content) {
		t.Fatal("the log does not name the caller")
	}
	if err := os.WriteFile(a.log, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range [][]string{{"--key", key}, {"--public-key", publicFile}} {
		if report, sound := a.verify(flag...); sound || !strings.Contains(report, "WRONG: "+a.log+":") {
			t.Errorf("%v: a forged caller: sound %t\n%s", flag, sound, report)
		}
	}
}

// TestAuditLogThatCannotBeWritten lets the only sink fail for want of space: no token is
// handed out until there is space again.
func TestAuditLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	needServers(t)
	up := newUpstream(t, firstSecret)
	s := newSite(t, embeddedStore(t.TempDir()), up.ca)
	s.config["tokens"] = map[string]any{"unshared": true} // else the store would grow too
	// A limit of the file's size stands for a full disk: the kernel refuses to write.
	limited := s.write(t, "limited", []byte("#!/bin/sh\nulimit -f 64\ntrap '' XFSZ\nexec "+program(t)+" \"$@\"\n"))
	if err := os.Chmod(limited, 0o700); err != nil {
		t.Fatal(err)
	}
	// The store is made before, because it is larger than that.
	first := s.start(t, program(t))
	if _, err := first.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("acme", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	first.stop(t)
	n := s.start(t, limited)
	var problem error
	for range 500 { // entries of half a kilobyte
		if _, problem = n.token(t.Context(), "clients/acme"); problem != nil {
			break
		}
	}
	if problem == nil || !strings.Contains(problem.Error(), "AUDIT_UNAVAILABLE") {
		t.Fatalf("with a full disk: %v, want AUDIT_UNAVAILABLE", problem)
	}
	if err := os.Truncate(filepath.Join(s.dir, "audit.log"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := n.token(t.Context(), "clients/acme"); err != nil {
		t.Errorf("with space again: %v", err)
	}
	eventually(t, 10*time.Second, "log lines about the sink", func() error {
		if text := n.log.String(); !strings.Contains(text, "audit sink fails") || !strings.Contains(text, "audit sink works again") {
			return errors.New("not there")
		}
		return nil
	})
}
