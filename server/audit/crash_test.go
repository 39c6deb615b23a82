//go:build unix

package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// children are what this binary can be in a process of its own.
var children = map[string]func(args []string){
	"append":     childAppends,
	"full disk":  childFillsDisk,
	"no reader":  childHasNoReader,
	"create key": childCreatesKeys,
}

// child returns this binary as the child of that name.
func child(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, args...)
	command.Env = append(os.Environ(), childVariable+"="+name)
	command.Stderr = os.Stderr
	return command
}

// childLog is a log in a child; args are the key and the file.
func childLog(args []string, more ...audit.Sink) (*audit.Log, func()) {
	key, err := audit.LoadKey(args[0])
	must(err)
	file, err := audit.OpenFile(args[1], 0)
	must(err)
	l, err := audit.New(audit.Config{Key: key, Sinks: append(more, file)})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	return l, func() {
		cancel()
		must(<-done)
	}
}

// childAppends appends as much as it can, and says of each entry that it was accepted.
func childAppends(args []string) {
	l, _ := childLog(args)
	var said sync.Mutex
	for a := range 16 {
		go func() {
			for n := 0; ; n++ {
				e := entry(n)
				e.RequestID = fmt.Sprintf("%d-%d-%d", os.Getpid(), a, n)
				e.Scopes = []string{strings.Repeat("s", 1000)}
				must(l.Append(e))
				said.Lock()
				fmt.Println(e.RequestID)
				said.Unlock()
			}
		}()
	}
	select {}
}

// TestKilled kills processes in the middle of writing. What was accepted is there, the
// next process goes on in the same file, and verify says what happened.
func TestKilled(t *testing.T) {
	const processes = 6
	folder := t.TempDir()
	keyPath, path := filepath.Join(folder, "audit.key"), filepath.Join(folder, "audit.log")
	must(audit.CreateKey(keyPath))
	var accepted []string
	for n := range processes {
		command := child(t, "append", keyPath, path)
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		must(command.Start())
		lines := bufio.NewScanner(output)
		for i := 0; lines.Scan(); i++ {
			accepted = append(accepted, lines.Text())
			if i == 50+97*n {
				must(command.Process.Kill())
			}
		}
		_ = command.Wait()
	}
	key := loadKey(t, keyPath)
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{openFile(t, path, 0)}})
	appendEntry(t, l, 1)
	must(l.stop())
	text := read(t, path)
	for _, id := range accepted[:len(accepted)-processes] { // the last that a process said may be said in part
		if !strings.Contains(text, `"request_id":"`+id+`"`) {
			t.Errorf("%s was accepted and is not there", id)
		}
	}
	cfg := audit.VerifyConfig{Keys: []audit.Key{key}}
	report := verifyFiles(t, cfg, path)
	if len(report.Findings) != processes || len(report.Chains) != processes+1 {
		t.Errorf("got %s, want %d chains that were killed", report, processes)
	}
	for _, chain := range report.Chains[:processes] {
		if chain.Ending != audit.Broken {
			t.Errorf("got ending %q of chain %s", chain.Ending, chain.ID)
		}
		cfg.Killed = append(cfg.Killed, fmt.Sprintf("%s/%d", chain.ID, chain.Last))
	}
	report = verifyFiles(t, cfg, path)
	wantSound(t, report)
	t.Logf("%d entries accepted, %d written, notes %v", len(accepted), report.Entries(), report.Notes)
}

// childFillsDisk meets a disk that is full in the middle of a write, twice, and goes on
// after there is room. It prints how many entries were accepted.
func childFillsDisk(args []string) {
	const most = 10_000
	limit := syscall.Rlimit{}
	must(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	l, stop := childLog(args)
	accepted := 0
	for _, size := range []uint64{most, 2 * most} {
		// The kernel takes what fits and then says that the file is too large.
		must(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: limit.Max}))
		for {
			err := l.Append(entry(accepted))
			if errors.Is(err, audit.ErrAllSinksFailed) {
				break
			}
			must(err)
			accepted++
		}
	}
	must(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit.Max, Max: limit.Max}))
	must(l.Append(entry(accepted)))
	stop()
	fmt.Println(accepted + 1)
}

func TestDiskFull(t *testing.T) {
	folder := t.TempDir()
	keyPath, path := filepath.Join(folder, "audit.key"), filepath.Join(folder, "audit.log")
	must(audit.CreateKey(keyPath))
	output, err := child(t, "full disk", keyPath, path).Output()
	if err != nil {
		t.Fatal(err)
	}
	report := verifyFiles(t, audit.VerifyConfig{Keys: []audit.Key{loadKey(t, keyPath)}}, path)
	wantSound(t, report)
	if got, want := fmt.Sprintln(report.Entries()), string(output); got != want {
		t.Errorf("got %s entries, want %s", got, want)
	}
	if len(report.Chains) != 3 || report.Chains[0].Ending != audit.SinksFailed || len(report.Notes) != 0 {
		t.Errorf("got %s, want three chains and no part of a line", report)
	}
}

// childHasNoReader writes to a standard output that nobody reads, and to a file.
func childHasNoReader(args []string) {
	stdout, err := audit.OpenStdout()
	must(err)
	_, _ = io.ReadAll(os.Stdin) // until the reader is gone
	l, stop := childLog(args, stdout)
	for n := range 10 {
		must(l.Append(entry(n)))
	}
	stop()
}

// TestStdoutWithoutReader: Go ends a process that writes to such a standard output,
// unless it is written to through another descriptor.
func TestStdoutWithoutReader(t *testing.T) {
	folder := t.TempDir()
	keyPath, path := filepath.Join(folder, "audit.key"), filepath.Join(folder, "audit.log")
	must(audit.CreateKey(keyPath))
	command := child(t, "no reader", keyPath, path)
	input, err := command.StdinPipe()
	must(err)
	output, err := command.StdoutPipe()
	must(err)
	must(command.Start())
	must(output.Close())
	must(input.Close())
	if err := command.Wait(); err != nil {
		t.Errorf("got %v, want the process to go on", err)
	}
	report := verifyFiles(t, audit.VerifyConfig{Keys: []audit.Key{loadKey(t, keyPath)}}, path)
	wantSound(t, report)
	if report.Entries() != 10 {
		t.Errorf("got %s, want 10 entries", report)
	}
}

// childCreatesKeys makes key files until it is killed.
func childCreatesKeys(args []string) {
	for n := 0; ; n++ {
		must(audit.CreateKey(filepath.Join(args[0], fmt.Sprintf("%d.key", n))))
		fmt.Println(n)
	}
}

// TestKilledWhileCreatingKey: a key file is there whole or not at all.
func TestKilledWhileCreatingKey(t *testing.T) {
	folder := t.TempDir()
	command := child(t, "create key", folder)
	output, err := command.StdoutPipe()
	must(err)
	must(command.Start())
	lines := bufio.NewScanner(output)
	lines.Scan() // the first is there
	time.AfterFunc(20*time.Millisecond, func() { _ = command.Process.Kill() })
	for lines.Scan() {
	}
	_ = command.Wait()
	files, err := filepath.Glob(filepath.Join(folder, "*.key"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got files %v, %v", files, err)
	}
	for _, file := range files {
		if _, err := audit.LoadKey(file); err != nil {
			t.Errorf("load: %v", err)
		}
	}
}
