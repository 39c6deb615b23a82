package brokertest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func testReadAbsent(t *testing.T, s broker.Store) {
	wantNever(t, s, "clients/00/absent")
	_, err := s.Read(t.Context(), "clients/00/absent")
	wantReason(t, "Read", err, broker.ReasonRecordAbsent)
}

func testCreate(t *testing.T, s broker.Store) {
	version := mustWrite(t, s, "clients/00/a", object(1), 0)
	wantRecord(t, s, "clients/00/a", object(1), version)
}

func testCreateConflict(t *testing.T, s broker.Store) {
	version := mustWrite(t, s, "clients/00/a", object(1), 0)
	_, err := s.Write(t.Context(), "clients/00/a", object(2), 0)
	wantReason(t, "second create", err, broker.ReasonStoreConflict)
	wantRecord(t, s, "clients/00/a", object(1), version)
}

func testUpdate(t *testing.T, s broker.Store) {
	var version uint64
	for n := range 20 { // more than the 10 versions that KV v2 keeps by default
		version = mustWrite(t, s, "clients/00/a", object(n), version)
		wantRecord(t, s, "clients/00/a", object(n), version)
	}
	// The same data again is a write like any other.
	next := mustWrite(t, s, "clients/00/a", object(19), version)
	wantRecord(t, s, "clients/00/a", object(19), next)
}

func testStaleVersion(t *testing.T, s broker.Store) {
	first := mustWrite(t, s, "clients/00/a", object(1), 0)
	second := mustWrite(t, s, "clients/00/a", object(2), first)
	third := mustWrite(t, s, "clients/00/a", object(3), second)
	for _, stale := range []uint64{0, first, second} {
		_, err := s.Write(t.Context(), "clients/00/a", object(4), stale)
		wantReason(t, fmt.Sprintf("Write with version %d", stale), err, broker.ReasonStoreConflict)
		wantRecord(t, s, "clients/00/a", object(3), third)
	}
	mustWrite(t, s, "clients/00/a", object(5), third)
}

func testFutureVersion(t *testing.T, s broker.Store) {
	_, err := s.Write(t.Context(), "clients/00/absent", object(1), 7)
	wantReason(t, "Write of a version where nothing is", err, broker.ReasonStoreConflict)
	wantNever(t, s, "clients/00/absent")

	version := mustWrite(t, s, "clients/00/a", object(1), 0)
	_, err = s.Write(t.Context(), "clients/00/a", object(2), version+1)
	wantReason(t, "Write of a version to come", err, broker.ReasonStoreConflict)
	wantRecord(t, s, "clients/00/a", object(1), version)
}

func testKeysDoNotMeet(t *testing.T, s broker.Store) {
	keys := []string{"meta", "clients/00/a", "clients/00/ab", "clients/00/a.b", "clients/01/a", "secrets/a/u-1", "secrets/a/u-10"}
	versions := make([]uint64, len(keys))
	for n, key := range keys {
		versions[n] = mustWrite(t, s, key, object(n), 0)
	}
	if err := s.Destroy(t.Context(), "secrets/a/u-1"); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	for n, key := range keys {
		if key != "secrets/a/u-1" {
			wantRecord(t, s, key, object(n), versions[n])
		}
	}
}

func testRecordBesideFolder(t *testing.T, s broker.Store) {
	record := mustWrite(t, s, "clients/a", object(1), 0)
	below := mustWrite(t, s, "clients/a/b", object(2), 0)
	wantRecord(t, s, "clients/a", object(1), record)
	wantRecord(t, s, "clients/a/b", object(2), below)
	wantNever(t, s, "clients")
}

// racers is how many writers want the same thing.
const racers = 16

// race lets all racers write key at version at once; it returns the version and
// the data of the one that won.
func race(t *testing.T, s broker.Store, key string, version uint64) (uint64, secret.Value) {
	t.Helper()
	var (
		wait    sync.WaitGroup
		start   = make(chan struct{})
		written [racers]uint64
		errs    [racers]error
	)
	for n := range racers {
		wait.Go(func() {
			<-start
			written[n], errs[n] = s.Write(t.Context(), key, object(n), version)
		})
	}
	close(start)
	wait.Wait()
	winner := -1
	for n, err := range errs {
		switch {
		case err != nil:
			wantReason(t, "Write that lost the race", err, broker.ReasonStoreConflict)
		case winner >= 0:
			t.Fatalf("writers %d and %d both replaced version %d of %s", winner, n, version, key)
		default:
			winner = n
		}
	}
	if winner < 0 {
		t.Fatalf("none of %d writers replaced version %d of %s", racers, version, key)
	}
	return written[winner], object(winner)
}

func testRaceToCreate(t *testing.T, s broker.Store) {
	for round := range 4 {
		key := fmt.Sprintf("clients/00/race-%d", round)
		version, data := race(t, s, key, 0)
		wantRecord(t, s, key, data, version)
	}
}

func testRaceToUpdate(t *testing.T, s broker.Store) {
	version := mustWrite(t, s, "clients/00/race", object(-1), 0)
	for range 8 {
		next, data := race(t, s, "clients/00/race", version)
		if next <= version {
			t.Fatalf("the race for version %d was won with version %d, want a greater one", version, next)
		}
		wantRecord(t, s, "clients/00/race", data, next)
		version = next
	}
}

func testIndependentWriters(t *testing.T, s broker.Store) {
	var (
		wait     sync.WaitGroup
		versions [racers]uint64
		errs     [racers]error
	)
	const writes = 5
	for n := range racers {
		wait.Go(func() {
			for i := range writes {
				if versions[n], errs[n] = s.Write(t.Context(), fmt.Sprintf("clients/00/w%d", n), object(i), versions[n]); errs[n] != nil {
					return
				}
			}
		})
	}
	wait.Wait()
	for n, err := range errs {
		if err != nil {
			t.Fatalf("Write of a key that nobody else writes: %v", err)
		}
		wantRecord(t, s, fmt.Sprintf("clients/00/w%d", n), object(writes-1), versions[n])
	}
}

// testVisibility has readers in other goroutines than the writer: what a Write
// has returned, every later Read must see.
func testVisibility(t *testing.T, s broker.Store) {
	const writes, readers = 30, 4
	var (
		wait   sync.WaitGroup
		latest atomic.Uint64
		done   atomic.Bool
	)
	latest.Store(mustWrite(t, s, "clients/00/a", object(0), 0))
	for range readers {
		wait.Go(func() {
			for !done.Load() {
				atLeast := latest.Load()
				record, err := s.Read(t.Context(), "clients/00/a")
				if err != nil {
					t.Errorf("Read beside a writer: %v", err)
					return
				}
				if record.Version < atLeast {
					t.Errorf("Read = version %d after the write of version %d had returned", record.Version, atLeast)
					return
				}
			}
		})
	}
	var err error
	for n := range writes {
		var version uint64
		if version, err = s.Write(t.Context(), "clients/00/a", object(n), latest.Load()); err != nil {
			break
		}
		latest.Store(version)
	}
	done.Store(true)
	wait.Wait()
	if err != nil {
		t.Fatalf("Write beside readers: %v", err)
	}
}

func testReadLatest(t *testing.T, s broker.Store) {
	const secretKey, key = "secrets/a/u-1", "clients/00/a"
	wantLatest := func(key string, data secret.Value, version uint64) {
		t.Helper()
		record, err := s.ReadLatest(t.Context(), key)
		if err != nil {
			t.Fatalf("ReadLatest(%q): %v", key, err)
		}
		if record.Version != version {
			t.Errorf("ReadLatest(%q) = version %d, want %d", key, record.Version, version)
		}
		wantSameJSON(t, key, record.Data.Reveal(), data.Reveal())
	}
	for _, key := range []string{secretKey, key} {
		_, err := s.ReadLatest(t.Context(), key)
		wantReason(t, "ReadLatest of what never existed", err, broker.ReasonRecordAbsent)
		first := mustWrite(t, s, key, object(1), 0)
		wantLatest(key, object(1), first)
		wantLatest(key, object(2), mustWrite(t, s, key, object(2), first))
		if err := s.Destroy(t.Context(), key); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		_, err = s.ReadLatest(t.Context(), key)
		wantReason(t, "ReadLatest after Destroy", err, broker.ReasonRecordDestroyed)
	}
}

func testDestroy(t *testing.T, s broker.Store) {
	const key = "secrets/a/u-1"
	first := mustWrite(t, s, key, object(1), 0)
	version := mustWrite(t, s, key, object(2), first)
	if err := s.Destroy(t.Context(), key); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	absent := absence(t, s, key)
	if absent.How != broker.AbsentDestroyed {
		t.Errorf("after Destroy: %s, want %s", absent.How, broker.AbsentDestroyed)
	}
	if absent.Version < version {
		t.Errorf("after Destroy: AbsentError.Version = %d, want at least %d, the last one written", absent.Version, version)
	}
	_, err := s.Read(t.Context(), key)
	wantReason(t, "Read after Destroy", err, broker.ReasonRecordDestroyed)
	_, err = s.Write(t.Context(), key, object(3), 0)
	wantReason(t, "create after Destroy", err, broker.ReasonStoreConflict)
	_, err = s.Write(t.Context(), key, object(3), first)
	wantReason(t, "Write of a stale version after Destroy", err, broker.ReasonStoreConflict)
	if absent := absence(t, s, key); absent.How != broker.AbsentDestroyed {
		t.Errorf("after Destroy and writes that conflicted: %s, want %s", absent.How, broker.AbsentDestroyed)
	}
}

func testDestroyAgain(t *testing.T, s broker.Store) {
	const key = "secrets/a/u-1"
	if err := s.Destroy(t.Context(), "secrets/a/absent"); err != nil {
		t.Errorf("Destroy of what is absent: %v", err)
	}
	absence(t, s, "secrets/a/absent") // whether a mark was left is the store's choice
	mustWrite(t, s, key, object(1), 0)
	for range 3 {
		if err := s.Destroy(t.Context(), key); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
	}
	if absent := absence(t, s, key); absent.How != broker.AbsentDestroyed {
		t.Errorf("after Destroy: %s, want %s", absent.How, broker.AbsentDestroyed)
	}
}

func testWriteAfterDestroy(t *testing.T, s broker.Store) {
	const key = "tokens/u/k"
	var version uint64
	for n := range 3 {
		written := mustWrite(t, s, key, object(n), version)
		if err := s.Destroy(t.Context(), key); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		if version = absence(t, s, key).Version; version < written {
			t.Fatalf("after Destroy: AbsentError.Version = %d, want at least %d", version, written)
		}
	}
	version = mustWrite(t, s, key, object(9), version)
	wantRecord(t, s, key, object(9), version)
}

func testLargest(t *testing.T, s broker.Store) {
	sized := func(size int) secret.Value {
		const frame = `{"value":""}`
		return secret.NewString(`{"value":"` + strings.Repeat("x", size-len(frame)) + `"}`)
	}
	largest := sized(broker.MaxRecordBytes)
	version := mustWrite(t, s, "clients/00/a", largest, 0)
	wantRecord(t, s, "clients/00/a", largest, version)

	tooLarge := sized(broker.MaxRecordBytes + 1)
	_, err := s.Write(t.Context(), "clients/00/a", tooLarge, version)
	wantRefused(t, "Write of a record that is too large", err)
	wantRecord(t, s, "clients/00/a", largest, version)
	_, err = s.Write(t.Context(), "clients/00/b", tooLarge, 0)
	wantRefused(t, "create of a record that is too large", err)
	wantNever(t, s, "clients/00/b")
}
