package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestDevOnce is what a newcomer runs first: it shows everything and ends well.
func TestDevOnce(t *testing.T) {
	t.Parallel()
	needServers(t)
	dir := t.TempDir()
	command := exec.CommandContext(t.Context(), program(t), "dev", "--once")
	command.Dir, command.Env = dir, environment(dir)
	var stdout, stderr logBuffer
	command.Stdout, command.Stderr = &stdout, &stderr
	began := time.Now()
	if err := command.Run(); err != nil {
		t.Fatalf("dev --once: %v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	shown := stdout.String()
	for _, want := range []string{`"accessToken":`, "SECRET_DESTROYED", "PermissionDenied", "PROMOTE", "secretVersion", "RECOVERY_ROTATE_SECRET"} {
		if !strings.Contains(strings.ToUpper(shown), strings.ToUpper(want)) {
			t.Errorf("the demonstration does not show %s", want)
		}
	}
	for name, text := range map[string]string{"standard output": shown, "standard error": stderr.String()} {
		if strings.Contains(text, "s3cr3t") {
			t.Errorf("%s shows a secret", name)
		}
	}
	if strings.Contains(stderr.String(), "eyJ") {
		t.Error("standard error shows a token")
	}
	if left := folderOf(t, dir); len(left) != 0 {
		t.Errorf("it left %q behind", left)
	}
}

// grpcurl builds the pinned grpcurl and returns a PATH on which it stands first.
func grpcurl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := goCommand("build", "-modfile=tools/run.mod", "-o", filepath.Join(dir, "grpcurl"), "github.com/fullstorydev/grpcurl/cmd/grpcurl"); err != nil {
		harness.Missing(t, err) // its modules are downloaded on first use
	}
	return "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// TestDevBanner pastes what `tokenbroker dev` prints into a shell, in the folder in
// which it was started, twice over: the second start finds what the first one left.
func TestDevBanner(t *testing.T) {
	t.Parallel()
	needServers(t)
	path, dir := grpcurl(t), t.TempDir()
	args := []string{"dev", "--address", harness.UnusedAddress(t), "--authorization-server", harness.UnusedAddress(t)}
	for _, round := range []string{"first", "second"} {
		p := start(t, program(t), dir, nil, args...)
		eventually(t, startsWithin, "the banner", func() error {
			if !strings.Contains(p.log.String(), "Stop with Ctrl-C.") {
				return fmt.Errorf("it printed %q", p.log.String())
			}
			return nil
		})
		banner := p.log.String()
		if strings.Contains(banner, "s3cr3t") {
			t.Errorf("the banner shows a secret: %s", banner)
		}
		pasted := strings.Join(regexp.MustCompile(`(?m)^(#|grpcurl) .*$`).FindAllString(banner, -1), "\n")
		answers := shell(t, dir, path, pasted)
		if got := len(answers); got != 7 {
			t.Fatalf("the %s banner yields %d answers, want 7:\n%s", round, got, banner)
		}
		if answers[0]["accessToken"] == nil || answers[1]["client"] == nil || answers[2]["secretVersion"] == nil ||
			answers[3]["secretVersion"] == nil || answers[4]["current"] == nil || answers[5]["stages"] == nil || answers[5]["rootCause"] != nil ||
			answers[6]["caller"] == nil {
			t.Errorf("the %s banner's answers: %v", round, answers)
		}
		for _, name := range folderOf(t, filepath.Join(dir, ".tokenbroker-dev")) {
			info, err := os.Stat(filepath.Join(dir, ".tokenbroker-dev", name))
			if err != nil {
				t.Fatal(err)
			}
			secretive := strings.HasSuffix(name, "-key.pem") || slices.Contains([]string{"store.db", "store.key", "stage.json", "audit.key", "audit.log"}, name)
			if secretive && info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
			}
		}
		began := time.Now()
		if err := p.end(syscall.SIGINT, 10*time.Second); err != nil {
			t.Errorf("the %s end: %v\n%s", round, err, p.log.String())
		}
		t.Logf("the %s run ended %v after Ctrl-C", round, time.Since(began).Round(time.Millisecond))
	}
}

// shell runs lines as if they were pasted and returns the JSON objects printed.
func shell(t *testing.T, dir, path, lines string) []map[string]any {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-e")
	command.Dir, command.Env = dir, append(environment(dir), path)
	command.Stdin = strings.NewReader(lines + "\n")
	var stderr logBuffer
	command.Stderr = &stderr
	printed, err := command.Output()
	if err != nil {
		t.Fatalf("pasting: %v: %s\n%s\n%s", err, stderr.String(), lines, printed)
	}
	var answers []map[string]any
	for decoder := json.NewDecoder(strings.NewReader(string(printed))); decoder.More(); {
		var answer map[string]any
		if err := decoder.Decode(&answer); err != nil {
			t.Fatalf("%v in %s", err, printed)
		}
		answers = append(answers, answer)
	}
	return answers
}

// TestDevInUse says which address is taken, and which flag chooses another.
func TestDevInUse(t *testing.T) {
	t.Parallel()
	needServers(t)
	taken := newUpstream(t)
	address := strings.TrimPrefix(taken.origin, "https://")
	for flag, other := range map[string]string{"--address": "--authorization-server", "--authorization-server": "--address"} {
		_, stderr, status := output(t, "dev", "--dir", t.TempDir(), flag, address, other, harness.UnusedAddress(t))
		if status != 1 || !strings.Contains(stderr, address) || !strings.Contains(stderr, flag) {
			t.Errorf("%s %s: status %d: %s", flag, address, status, stderr)
		}
	}
}
