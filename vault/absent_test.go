package vault_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestAbsent does by hand, as root, what the broker never does.
func TestAbsent(t *testing.T) {
	const secret, record = "secrets/a/u-1", "clients/a"
	versions := func(n ...int) map[string]any { return map[string]any{"versions": n} }
	put := func(c *corner, key string) {
		c.must("POST", c.path("data", key), map[string]any{"data": map[string]any{"by": "hand"}})
	}
	tests := []struct {
		name    string
		key     string
		written int // by the store
		byHand  func(c *corner, key string)
		how     broker.Absence
		reason  broker.Reason
		version uint64
		dated   bool
	}{
		{"secret that never was", secret, 0, func(*corner, string) {}, broker.AbsentNeverExisted, broker.ReasonRecordAbsent, 0, false},
		{"secret deleted", secret, 1, func(c *corner, k string) { c.must("DELETE", c.path("data", k), nil) }, broker.AbsentDeleted, broker.ReasonRecordDeleted, 1, true},
		{"secret destroyed", secret, 1, func(c *corner, k string) { c.must("PUT", c.path("destroy", k), versions(1)) }, broker.AbsentDestroyed, broker.ReasonRecordDestroyed, 1, false},
		{"secret deleted, then overwritten", secret, 1, func(c *corner, k string) {
			c.must("DELETE", c.path("data", k), nil)
			put(c, k)
		}, broker.AbsentDeleted, broker.ReasonRecordDeleted, 2, true},
		{"secret pushed out", secret, 1, func(c *corner, k string) {
			for range 10 { // Vault keeps 10 by default
				put(c, k)
			}
		}, broker.AbsentPruned, broker.ReasonRecordPruned, 11, false},
		{"secret whose metadata was deleted", secret, 1, func(c *corner, k string) { c.must("DELETE", c.path("metadata", k), nil) }, broker.AbsentNeverExisted, broker.ReasonRecordAbsent, 0, false},
		{"secret of which only metadata was made", secret, 0, func(c *corner, k string) {
			c.must("POST", c.path("metadata", k), map[string]any{"max_versions": 3})
		}, broker.AbsentNeverExisted, broker.ReasonRecordAbsent, 0, false},
		{"record that never was", record, 0, func(*corner, string) {}, broker.AbsentNeverExisted, broker.ReasonRecordAbsent, 0, false},
		{"record deleted", record, 3, func(c *corner, k string) { c.must("DELETE", c.path("data", k), nil) }, broker.AbsentDeleted, broker.ReasonRecordDeleted, 3, true},
		{"latest record destroyed", record, 3, func(c *corner, k string) { c.must("PUT", c.path("destroy", k), versions(3)) }, broker.AbsentDestroyed, broker.ReasonRecordDestroyed, 3, false},
		{"record of which only metadata was made", record, 0, func(c *corner, k string) {
			c.must("POST", c.path("metadata", k), map[string]any{"max_versions": 3})
		}, broker.AbsentNeverExisted, broker.ReasonRecordAbsent, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCorner(t)
			store := start(t, c.config)
			for n := range test.written {
				mustWrite(t, store, test.key, object(n), uint64(n))
			}
			test.byHand(c, test.key)
			_, err := store.Read(t.Context(), test.key)
			wantReason(t, "Read", err, test.reason)
			var absent *broker.AbsentError
			if !errors.As(err, &absent) {
				t.Fatalf("Read: %v, want an AbsentError", err)
			}
			if absent.How != test.how || absent.Version != test.version || absent.Key != test.key {
				t.Errorf("absent = %s, version %d, key %s; want %s, version %d, key %s", absent.How, absent.Version, absent.Key, test.how, test.version, test.key)
			}
			if dated := !absent.Time.IsZero(); dated != test.dated || dated && time.Since(absent.Time).Abs() > time.Minute {
				t.Errorf("absent since %v, want a time: %t", absent.Time, test.dated)
			}
			// The version is the one that a write must name.
			mustWrite(t, store, test.key, object(9), absent.Version)
		})
	}
}

// TestOverwrittenByHand: of a secret only what was written first counts; of
// another record the latest, which is how an operator rolls one back.
func TestOverwrittenByHand(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	for _, key := range []string{"secrets/a/u-1", "clients/a"} {
		mustWrite(t, store, key, object(1), 0)
		c.must("POST", c.path("data", key), map[string]any{"data": map[string]any{"n": 2}})
	}
	wantRecord(t, store, "secrets/a/u-1", object(1), 1)
	wantRecord(t, store, "clients/a", object(2), 2)
	latest, err := store.ReadLatest(t.Context(), "secrets/a/u-1")
	if err != nil || latest.Version != 2 || latest.Data.RevealString() != object(2).RevealString() {
		t.Errorf("ReadLatest = version %d, %v; want the one that was written by hand", latest.Version, err)
	}
	c.must("DELETE", c.path("data", "secrets/a/u-1"), nil)
	_, err = store.ReadLatest(t.Context(), "secrets/a/u-1")
	wantReason(t, "ReadLatest of a deleted version", err, broker.ReasonRecordDeleted)

	if err := store.Destroy(t.Context(), "secrets/a/u-1"); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	found := c.must("GET", c.path("metadata", "secrets/a/u-1"), nil)["versions"].(map[string]any)
	for n, v := range found {
		if v.(map[string]any)["destroyed"] != true {
			t.Errorf("after Destroy version %s is still there", n)
		}
	}
}

// TestMended: what an operator undeletes is there again, at the same version.
func TestMended(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	for _, key := range []string{"secrets/a/u-1", "clients/a"} {
		mustWrite(t, store, key, object(1), 0)
		c.must("DELETE", c.path("data", key), nil)
		c.must("PUT", c.path("undelete", key), map[string]any{"versions": []int{1}})
		wantRecord(t, store, key, object(1), 1)
	}
}
