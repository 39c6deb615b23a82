package heap_test

import (
	"context"
	"os"
	"runtime/debug"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/heap"
)

func TestPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 800, 1 << 20: 800, 16 << 20: 800, 32 << 20: 400, 64 << 20: 200, 100 << 20: 120, 128 << 20: 100, 1 << 30: 100,
	} {
		if got := heap.Percent(live); got != want {
			t.Errorf("%d MiB: got %d, want %d", live>>20, got, want)
		}
	}
}

// TestRun sets the pace and sets it back, and leaves the operator's choice alone.
func TestRun(t *testing.T) {
	t.Setenv("GOGC", "") // sets it back afterwards
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	before := debug.SetGCPercent(150)
	defer debug.SetGCPercent(before)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := heap.Run(over); err != nil {
		t.Error(err)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("afterwards GOGC is %d, want 100", got)
	}
	t.Setenv("GOGC", "50")
	if err := heap.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("with GOGC in the environment it was set to %d", got)
	}
}
