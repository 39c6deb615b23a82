package brokertest_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func TestMemoryConforms(t *testing.T) {
	brokertest.TestStore(t, func(*testing.T) broker.Store { return brokertest.NewMemory() })
}

func TestFaultyWithoutFaultsConforms(t *testing.T) {
	brokertest.TestStore(t, func(*testing.T) broker.Store { return brokertest.NewFaulty(brokertest.NewMemory()) })
}

// write puts {"n":1} at key as a new record.
func write(t *testing.T, s broker.Store, key string) {
	t.Helper()
	if _, err := s.Write(t.Context(), key, secret.NewString(`{"n":1}`), 0); err != nil {
		t.Fatalf("Write(%q): %v", key, err)
	}
}

func TestMemoryBehindTheBrokersBack(t *testing.T) {
	tests := []struct {
		name        string
		interfere   func(m *brokertest.Memory)
		wantReason  broker.Reason
		wantVersion uint64 // of the AbsentError, or of the record
	}{
		{"nothing", func(*brokertest.Memory) {}, "", 1},
		{"put", func(m *brokertest.Memory) { m.Put("k", `{"n":2}`) }, "", 2},
		{"put garbage", func(m *brokertest.Memory) { m.Put("k", `garbage`) }, broker.ReasonRecordCorrupt, 0},
		{"put an array", func(m *brokertest.Memory) { m.Put("k", `[]`) }, broker.ReasonRecordCorrupt, 0},
		{"remove all trace", func(m *brokertest.Memory) { m.Remove("k", broker.AbsentNeverExisted) }, broker.ReasonRecordAbsent, 0},
		{"delete", func(m *brokertest.Memory) { m.Remove("k", broker.AbsentDeleted) }, broker.ReasonRecordDeleted, 1},
		{"prune", func(m *brokertest.Memory) { m.Remove("k", broker.AbsentPruned) }, broker.ReasonRecordPruned, 1},
		{"destroy", func(m *brokertest.Memory) { m.Remove("k", broker.AbsentDestroyed) }, broker.ReasonRecordDestroyed, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := brokertest.NewMemory()
			write(t, m, "k")
			test.interfere(m)
			record, err := m.Read(t.Context(), "k")
			if got := broker.ReasonOf(err); got != test.wantReason {
				t.Errorf("Read: reason %q (%v), want %q", got, err, test.wantReason)
			}
			version := record.Version
			var absent *broker.AbsentError
			if errors.As(err, &absent) {
				version = absent.Version
			}
			if version != test.wantVersion {
				t.Errorf("Read: version %d, want %d", version, test.wantVersion)
			}
		})
	}
}

func TestMemoryCloneIsApart(t *testing.T) {
	m := brokertest.NewMemory()
	write(t, m, "before")
	backup := m.Clone()
	write(t, m, "after")
	if got, want := backup.Keys(), []string{"before"}; !slices.Equal(got, want) {
		t.Errorf("Keys of the clone = %q, want %q", got, want)
	}
	if got, want := m.Contains(`"n":1`), []string{"after", "before"}; !slices.Equal(got, want) {
		t.Errorf("Contains = %q, want %q", got, want)
	}
	if got := m.Contains("absent"); len(got) != 0 {
		t.Errorf("Contains of what is nowhere = %q", got)
	}
}
