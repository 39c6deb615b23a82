package embedded_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	crashVariable = "EMBEDDED_CRASH_FILE"
	crashWriters  = 8
)

// crashRecord is version n of a writer's record. Its length differs from one
// version to the next, and all of it depends on n.
func crashRecord(n uint64) secret.Value {
	text := strings.Repeat(fmt.Sprintf("%06d ", n), 1+int(n*7919%3000))
	return secret.NewString(fmt.Sprintf(`{"n":%d,"text":%q}`, n, text))
}

// TestCrashChild is the process that TestKilled kills. Each writer writes its
// record again and again, and says so when a write has returned; every so often it
// destroys the record in between.
func TestCrashChild(t *testing.T) {
	file := os.Getenv(crashVariable)
	if file == "" {
		t.Skip("runs in a process of its own, started by TestKilled")
	}
	s, err := embedded.Open(embedded.Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	var (
		wait sync.WaitGroup
		mu   sync.Mutex // guards the output
	)
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for n := range crashWriters {
		wait.Go(func() {
			key := fmt.Sprintf("clients/00/w%d", n)
			version, _ := versionOf(t, s, key)
			for {
				next := version + 1
				if version, err := s.Write(t.Context(), key, crashRecord(next), version); err != nil || version != next {
					say("error %v %v", version, err)
					return
				}
				version = next
				say("wrote %s %d", key, version)
				if version%5 == 0 {
					if err := s.Destroy(t.Context(), key); err != nil {
						say("error %v", err)
						return
					}
					say("destroyed %s %d", key, version)
				}
			}
		})
	}
	wait.Wait()
}

// versionOf returns the version of a record and whether it is destroyed; it checks
// that the record is all of that version.
func versionOf(t *testing.T, s broker.Store, key string) (version uint64, destroyed bool) {
	t.Helper()
	record, err := s.Read(t.Context(), key)
	var absent *broker.AbsentError
	if errors.As(err, &absent) {
		return absent.Version, absent.How == broker.AbsentDestroyed
	}
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	if !record.Data.Equal(crashRecord(record.Version)) {
		t.Errorf("%s at version %d is %.60q...", key, record.Version, record.Data.Reveal())
	}
	return record.Version, false
}

// TestKilled kills a process in the middle of its writes, again and again. What
// had returned is there afterwards, what had not is there as a whole or not at all.
func TestKilled(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	total := uint64(0)
	for round := 0; round < rounds || total < crashWriters*3 && round < 5*rounds; round++ { // more where the disk is slow
		wrote, destroyed := runAndKill(t, config.File, time.Duration(5+rand.IntN(150))*time.Millisecond)
		s, err := embedded.Open(config)
		if err != nil {
			t.Fatalf("round %d: Open: %v", round, err)
		}
		inspectNow(t, s, config.File)
		total = 0
		for n := range crashWriters {
			key := fmt.Sprintf("clients/00/w%d", n)
			version, gone := versionOf(t, s, key)
			total += version
			if acknowledged := wrote[key]; version < acknowledged || acknowledged > 0 && version > acknowledged+1 {
				t.Errorf("round %d: %s has version %d after version %d had been written", round, key, version, acknowledged)
			}
			if !gone && destroyed[key] == version && version > 0 {
				t.Errorf("round %d: %s version %d is back although it had been destroyed", round, key, version)
			}
			if gone && version%5 != 0 {
				t.Errorf("round %d: %s version %d was never destroyed and is", round, key, version)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total < crashWriters*3 {
		t.Errorf("only %d writes took place in all: the test shows nothing", total)
	}
	left, err := os.ReadDir(filepath.Dir(config.File))
	if err != nil || len(left) != 2 {
		t.Errorf("files left: %v, %v; want the store and its key", left, err)
	}
}

// runAndKill returns the last version of each key that the child said it had
// written, and the last that it said it had destroyed.
func runAndKill(t *testing.T, file string, after time.Duration) (wrote, destroyed map[string]uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashVariable+"="+file)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wrote, destroyed = map[string]uint64{}, map[string]uint64{}
	lines := bufio.NewScanner(output)
	var timer *time.Timer
	for lines.Scan() {
		if timer == nil { // counts from the first write, not from the start of the process
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
		}
		var verb, key string
		var version uint64
		if _, err := fmt.Sscan(lines.Text(), &verb, &key, &version); err != nil {
			continue // a line that the kill has cut, or what package testing says
		}
		switch verb {
		case "wrote":
			wrote[key] = version
		case "destroyed":
			destroyed[key] = version
		}
		if verb == "error" {
			t.Errorf("child: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	return wrote, destroyed
}
