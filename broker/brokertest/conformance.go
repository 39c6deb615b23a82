package brokertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// canary stands in records that must not show up in errors.
const canary = "canary-5e1f0b7c"

// promptly is how soon a call with a dead context must be back: no store may
// wait for a network that nobody waits for any more.
const promptly = 2 * time.Second

// TestStore checks that a [broker.Store] keeps every promise of that interface.
// It runs one subtest for each promise. open returns a new, empty store, or an
// empty corner of one, and registers its own clean-up with t.Cleanup; a store
// may keep what earlier corners hold. The suite uses real time and at most 16
// goroutines, all of which have ended when it returns.
func TestStore(t *testing.T, open func(t *testing.T) broker.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, s broker.Store)
	}{
		{"read of what never existed", testReadAbsent},
		{"create", testCreate},
		{"create conflicts with what is there", testCreateConflict},
		{"update", testUpdate},
		{"stale version", testStaleVersion},
		{"version of the future", testFutureVersion},
		{"keys do not meet", testKeysDoNotMeet},
		{"record beside a folder of its name", testRecordBesideFolder},
		{"one winner of sixteen creators", testRaceToCreate},
		{"one winner of sixteen updaters", testRaceToUpdate},
		{"writers of different keys all win", testIndependentWriters},
		{"visible once returned", testVisibility},
		{"latest of a secret", testReadLatest},
		{"destroy", testDestroy},
		{"destroy again, and what is absent", testDestroyAgain},
		{"write after destroy", testWriteAfterDestroy},
		{"list", testList},
		{"list many", testListMany},
		{"every character of a key", testKeys},
		{"data comes back the same", testData},
		{"data is copied", testDataIsCopied},
		{"largest record", testLargest},
		{"what is no JSON object is refused", testNotAnObject},
		{"dead context", testDeadContext},
		{"errors hold no data", testErrorsHoldNoData},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, open(t)) })
	}
}

// object returns the JSON object {"n":n}.
func object(n int) secret.Value { return secret.NewString(fmt.Sprintf(`{"n":%d}`, n)) }

// mustWrite returns the new version, which it has checked to be greater.
func mustWrite(t *testing.T, s broker.Store, key string, data secret.Value, version uint64) uint64 {
	t.Helper()
	got, err := s.Write(t.Context(), key, data, version)
	if err != nil {
		t.Fatalf("Write(%q, version %d): %v", key, version, err)
	}
	if got <= version {
		t.Fatalf("Write(%q, version %d) = version %d, want a greater one", key, version, got)
	}
	return got
}

// wantRecord checks that key holds data at version.
func wantRecord(t *testing.T, s broker.Store, key string, data secret.Value, version uint64) {
	t.Helper()
	record, err := s.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("Read(%q): %v", key, err)
	}
	if record.Version != version {
		t.Errorf("Read(%q) = version %d, want %d", key, record.Version, version)
	}
	wantSameJSON(t, key, record.Data.Reveal(), data.Reveal())
}

// wantSameJSON compares values, not bytes: a store may order fields anew. Numbers
// are compared as they are written, since a float64 is not what was stored.
func wantSameJSON(t *testing.T, what string, got, want []byte) {
	t.Helper()
	var values [2]any
	for i, encoded := range [][]byte{got, want} {
		d := json.NewDecoder(bytes.NewReader(encoded))
		d.UseNumber()
		if err := d.Decode(&values[i]); err != nil {
			t.Fatalf("%s: decode %.200q: %v", what, encoded, err)
		}
		if d.More() {
			t.Fatalf("%s: more than one value in %.200q", what, encoded)
		}
	}
	if !reflect.DeepEqual(values[0], values[1]) {
		t.Errorf("%s: data = %.200q, want %.200q", what, got, want)
	}
}

// wantReason checks that err is a *broker.Error of that reason.
func wantReason(t *testing.T, what string, err error, want broker.Reason) {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: error = %v, want a *broker.Error with reason %s", what, err, want)
		return
	}
	if e.Reason != want {
		t.Errorf("%s: reason = %s (%v), want %s", what, e.Reason, err, want)
	}
}

// absence returns how and with which version key is absent; it must be.
func absence(t *testing.T, s broker.Store, key string) *broker.AbsentError {
	t.Helper()
	record, err := s.Read(t.Context(), key)
	var absent *broker.AbsentError
	if !errors.As(err, &absent) {
		t.Fatalf("Read(%q) = version %d, error %v; want a *broker.AbsentError", key, record.Version, err)
	}
	if absent.Key != key {
		t.Errorf("Read(%q): AbsentError.Key = %q", key, absent.Key)
	}
	if !record.Data.IsZero() || record.Version != 0 {
		t.Errorf("Read(%q) returned a record beside the error %v", key, err)
	}
	return absent
}

// wantNever checks that key holds nothing and never did.
func wantNever(t *testing.T, s broker.Store, key string) {
	t.Helper()
	if absent := absence(t, s, key); absent.How != broker.AbsentNeverExisted || absent.Version != 0 {
		t.Errorf("Read(%q) = %s, version %d; want %s, 0", key, absent.How, absent.Version, broker.AbsentNeverExisted)
	}
}

// wantList checks that prefix lists exactly the names, in order.
func wantList(t *testing.T, s broker.Store, prefix string, want ...string) {
	t.Helper()
	got, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("List(%q): %v", prefix, err)
	}
	if len(got) != len(want) || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("List(%q) = %q, want %q", prefix, got, want)
	}
}

// cancelled returns a context that ended before it began.
func cancelled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
