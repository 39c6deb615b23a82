package heap_test

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

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

// TestAHeapThatGrows gets no more room than it should have: the pace follows at once.
func TestAHeapThatGrows(t *testing.T) {
	t.Setenv("GOGC", "") // sets it back afterwards
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- heap.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var kept [][]byte
	for _, live := range []int{0, 150 << 20} {
		for size := 0; size < live; size += 1 << 20 {
			kept = append(kept, make([]byte, 1<<20))
		}
		runtime.GC()
		// What else this process holds is little.
		least, most := heap.Percent(uint64(live)+32<<20), heap.Percent(uint64(live))
		deadline := time.Now().Add(3 * time.Second)
		for pace() < least || pace() > most {
			if time.Now().After(deadline) {
				t.Fatalf("%d MiB live: the pace is %d, want %d to %d", live>>20, pace(), least, most)
			}
			time.Sleep(time.Millisecond)
		}
	}
	runtime.KeepAlive(kept)
}

// pace returns the GOGC in force.
func pace() int {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
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
