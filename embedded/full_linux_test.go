package embedded_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
)

const fullVariable = "EMBEDDED_FULL_FILE"

// TestFullChild runs out of space: a limit on the size of files is what a process
// can impose on itself. Writes then fail and change nothing, and go on when there
// is space again.
func TestFullChild(t *testing.T) {
	file := os.Getenv(fullVariable)
	if file == "" {
		t.Skip("runs in a process of its own, started by TestDiskFull")
	}
	signal.Ignore(syscall.SIGXFSZ)
	s := open(t, embedded.Config{File: file})
	version := write(t, s, "k", 1, 0)
	limit(t, uint64(len(readFile(t, file))))

	full := 0
	for n := range 40 { // each needs pages of its own
		key := fmt.Sprint("big", n)
		_, err := s.Write(t.Context(), key, sized(60_000), 0)
		if err == nil {
			continue // there were free pages
		}
		full++
		wantReason(t, "Write to a full disk", err, broker.ReasonStoreFailed)
		_, err = s.Read(t.Context(), key)
		wantReason(t, "Read of what was not written", err, broker.ReasonRecordAbsent)
		wantRecord(t, s, "k", 1, version)
	}
	if full == 0 {
		t.Error("the disk was never full")
	}

	limit(t, 1<<40)
	for n := range 40 {
		key := fmt.Sprint("later", n)
		if _, err := s.Write(t.Context(), key, sized(60_000), 0); err != nil {
			t.Errorf("Write when there is space again: %v", err)
		}
	}
	inspectNow(t, s, file)
	version = write(t, s, "k", 2, version)
	wantRecord(t, s, "k", 2, version)
	fmt.Println("full and well again")
}

func limit(t *testing.T, size uint64) {
	t.Helper()
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &now); err != nil {
		t.Fatal(err)
	}
	now.Cur = min(size, now.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &now); err != nil {
		t.Fatal(err)
	}
}

func TestDiskFull(t *testing.T) {
	config := newConfig(t)
	if err := open(t, config).Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullChild$")
	cmd.Env = append(os.Environ(), fullVariable+"="+config.File)
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "full and well again") {
		t.Fatalf("%v\n%s", err, output)
	}
	s := open(t, config)
	wantRecord(t, s, "k", 2, 2)
}
