package brokertest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestLagging: reads are late, check-and-set is not.
func TestLagging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := brokertest.NewLagging(time.Second)
		read := func() (string, broker.Reason) {
			record, err := store.Read(t.Context(), "a")
			return record.Data.RevealString(), broker.ReasonOf(err)
		}
		write := func(text string, version uint64) broker.Reason {
			_, err := store.Write(t.Context(), "a", secret.NewString(text), version)
			return broker.ReasonOf(err)
		}
		want := func(text string, reason broker.Reason) {
			t.Helper()
			if got, why := read(); got != text || why != reason {
				t.Errorf("after %v: read %q, %q, want %q, %q", time.Now(), got, why, text, reason)
			}
		}
		if got := write(`{"n":1}`, 0); got != "" {
			t.Errorf("first write: %q", got)
		}
		want("", broker.ReasonRecordAbsent)
		if got := write(`{"n":2}`, 0); got != broker.ReasonStoreConflict {
			t.Errorf("write over what is not seen yet: %q, want a conflict", got)
		}
		time.Sleep(time.Second)
		want(`{"n":1}`, "")
		if got := write(`{"n":2}`, 1); got != "" {
			t.Errorf("second write: %q", got)
		}
		want(`{"n":1}`, "")
		if err := store.Destroy(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want("", broker.ReasonRecordDestroyed)
	})
}
