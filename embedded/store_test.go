package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// newConfig returns the place of a store that does not exist yet.
func newConfig(t testing.TB) embedded.Config {
	t.Helper()
	return embedded.Config{File: filepath.Join(t.TempDir(), "store"), Create: true}
}

// open opens a store until the end of the test.
func open(t testing.TB, config embedded.Config) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(config)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func object(n int) secret.Value { return secret.NewString(fmt.Sprintf(`{"n":%d}`, n)) }

// write puts {"n":n} at key and returns its version.
func write(t testing.TB, s broker.Store, key string, n int, version uint64) uint64 {
	t.Helper()
	version, err := s.Write(t.Context(), key, object(n), version)
	if err != nil {
		t.Fatalf("Write(%q): %v", key, err)
	}
	return version
}

func wantRecord(t testing.TB, s broker.Store, key string, n int, version uint64) {
	t.Helper()
	record, err := s.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("Read(%q): %v", key, err)
	}
	if got, want := record.Data.RevealString(), object(n).RevealString(); got != want || record.Version != version {
		t.Errorf("Read(%q) = %s at version %d, want %s at %d", key, got, record.Version, want, version)
	}
}

func wantReason(t testing.TB, what string, err error, want broker.Reason) {
	t.Helper()
	if got := broker.ReasonOf(err); got != want {
		t.Errorf("%s: reason %q (%v), want %q", what, got, err, want)
	}
}

func TestStoreConforms(t *testing.T) {
	brokertest.TestStore(t, func(t *testing.T) broker.Store { return open(t, newConfig(t)) })
}

func TestEverythingSurvivesAReopening(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	write(t, s, "clients/00/a", 2, write(t, s, "clients/00/a", 1, 0))
	write(t, s, "secrets/a/u-1", 3, 0)
	if err := s.Destroy(t.Context(), "secrets/a/u-1"); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	_, before := s.Read(t.Context(), "secrets/a/u-1")
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	config.Create = false
	s = open(t, config)
	wantRecord(t, s, "clients/00/a", 2, 2)
	_, after := s.Read(t.Context(), "secrets/a/u-1")
	var was, is *broker.AbsentError
	if !errors.As(before, &was) || !errors.As(after, &is) {
		t.Fatalf("Read of what was destroyed: %v, then %v", before, after)
	}
	if is.How != broker.AbsentDestroyed || is.Version != 1 || !is.Time.Equal(was.Time) || time.Since(is.Time) > time.Minute {
		t.Errorf("after reopening %+v, before %+v", is, was)
	}
	if got, want := write(t, s, "secrets/a/u-1", 4, 1), uint64(2); got != want {
		t.Errorf("the version after a destroyed one is %d, want %d", got, want)
	}
}

func TestCallsAfterClose(t *testing.T) {
	s := open(t, newConfig(t))
	write(t, s, "k", 1, 0)
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	_, errRead := s.Read(t.Context(), "k")
	_, errWrite := s.Write(t.Context(), "k", object(2), 1)
	_, errList := s.List(t.Context(), "")
	for what, err := range map[string]error{"Read": errRead, "Write": errWrite, "Destroy": s.Destroy(t.Context(), "k"), "List": errList} {
		wantReason(t, what, err, broker.ReasonStoreFailed)
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v, want fs.ErrClosed within", what, err)
		}
	}
}

func TestCloseDuringCalls(t *testing.T) {
	s := open(t, newConfig(t))
	const writers = 8
	var (
		wait    sync.WaitGroup
		writing = make(chan struct{}, writers) // gets one from each writer
	)
	for n := range writers {
		wait.Go(func() {
			key := fmt.Sprint("k", n)
			for version := uint64(0); ; version++ {
				if _, err := s.Write(t.Context(), key, object(n), version); err != nil {
					wantReason(t, "Write", err, broker.ReasonStoreFailed)
					return
				}
				if _, err := s.Read(t.Context(), key); err != nil {
					wantReason(t, "Read", err, broker.ReasonStoreFailed)
					return
				}
				if version == 3 {
					writing <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-writing
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wait.Wait()
}

// TestContextEndsDuringCommit tells a write that was taken up from one that waits.
func TestContextEndsDuringCommit(t *testing.T) {
	s := open(t, newConfig(t))
	release, err := s.HoldCommits()
	if err != nil {
		t.Fatalf("HoldCommits: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = s.Write(ctx, "taken", object(1), 0)
	wantReason(t, "Write that is being committed", err, broker.ReasonStoreAnswerLost)
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = s.Write(ctx, "waiting", object(1), 0)
	wantReason(t, "Write that waits", err, broker.ReasonDeadlineExceeded)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Write that waits: %v, want context.DeadlineExceeded within", err)
	}
	release()
	write(t, s, "after", 1, 0) // the writer takes it only when the first is done
	wantRecord(t, s, "taken", 1, 1)
	_, err = s.Read(t.Context(), "waiting")
	wantReason(t, "Read of what was taken back", err, broker.ReasonRecordAbsent)
}

// TestBatch has writers that conflict share a commit with writers that do not.
func TestBatch(t *testing.T) {
	s := open(t, newConfig(t))
	write(t, s, "taken", 0, 0)
	release, err := s.HoldCommits()
	if err != nil {
		t.Fatalf("HoldCommits: %v", err)
	}
	var wait sync.WaitGroup
	const writers = 40
	var errs [writers]error
	for n := range writers {
		wait.Go(func() {
			key := fmt.Sprint("k", n)
			if n%2 == 1 {
				key = "taken"
			}
			_, errs[n] = s.Write(t.Context(), key, object(n), 0)
		})
	}
	release()
	wait.Wait()
	for n, err := range errs {
		if n%2 == 1 {
			wantReason(t, "create of what is there", err, broker.ReasonStoreConflict)
		} else if err != nil {
			t.Errorf("create: %v", err)
		}
	}
	wantRecord(t, s, "taken", 0, 1)
}

// TestFailedCommit tells a commit that changed nothing from one whose head may or
// may not survive a crash.
func TestFailedCommit(t *testing.T) {
	cause := errors.New("input/output error")
	tests := []struct {
		name      string
		ahead     int // of the transaction that failed, before the one in effect
		want      broker.Reason
		wantAfter broker.Reason // of later calls
	}{
		{"head not written", 1, broker.ReasonStoreFailed, ""},
		{"head written", 0, broker.ReasonStoreAnswerLost, broker.ReasonStoreFailed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := newConfig(t)
			s := open(t, config)
			write(t, s, "k", 1, 0)
			var inEffect int
			if err := s.DB().View(func(tx *bbolt.Tx) error { inEffect = tx.ID(); return nil }); err != nil {
				t.Fatal(err)
			}
			err := s.CommitFailed(inEffect+test.ahead, cause)
			wantReason(t, "the commit", err, test.want)
			if !errors.Is(err, cause) {
				t.Errorf("the commit: %v, want the cause within", err)
			}
			_, err = s.Read(t.Context(), "k")
			wantReason(t, "Read afterwards", err, test.wantAfter)
			_, err = s.Write(t.Context(), "k", object(2), 1)
			wantReason(t, "Write afterwards", err, test.wantAfter)
			_, err = s.List(t.Context(), "")
			wantReason(t, "List afterwards", err, test.wantAfter)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := open(t, config).Read(t.Context(), "k"); err != nil {
				t.Errorf("Read after opening again: %v", err)
			}
		})
	}
}

func TestConflictCommitsNothing(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	write(t, s, "k", 1, 0)
	before := fileHash(t, config.File)
	_, err := s.Write(t.Context(), "k", object(2), 0)
	wantReason(t, "Write", err, broker.ReasonStoreConflict)
	if err := s.Destroy(t.Context(), "absent"); err != nil {
		t.Errorf("Destroy of what is absent: %v", err)
	}
	if fileHash(t, config.File) != before {
		t.Error("a conflict has changed the file")
	}
}

func TestMalformedKeys(t *testing.T) {
	s := open(t, newConfig(t))
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "A", "a b", "a\x00", "ä", "a%2fb", `a\b`, string(make([]byte, 2000))} {
		_, err := s.Write(t.Context(), key, object(1), 0)
		wantReason(t, fmt.Sprintf("Write(%.20q)", key), err, broker.ReasonInternal)
		_, err = s.Read(t.Context(), key)
		wantReason(t, fmt.Sprintf("Read(%.20q)", key), err, broker.ReasonInternal)
		wantReason(t, fmt.Sprintf("Destroy(%.20q)", key), s.Destroy(t.Context(), key), broker.ReasonInternal)
	}
	for _, prefix := range []string{"/", "a", "a//", "../", "A/"} {
		_, err := s.List(t.Context(), prefix)
		wantReason(t, fmt.Sprintf("List(%q)", prefix), err, broker.ReasonInternal)
	}
	if names, err := s.List(t.Context(), ""); err != nil || len(names) != 0 {
		t.Errorf("List = %q, %v; want nothing", names, err)
	}
}
