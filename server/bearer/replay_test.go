package bearer_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestReplayWindows: each token is remembered for a window or more, whenever it came,
// and what is forgotten makes room.
func TestReplayWindows(t *testing.T) {
	const window = time.Hour
	begin := time.Unix(1_700_000_000, 0)
	for offset := time.Duration(0); offset < 2*window; offset += 7 * time.Minute {
		note := bearer.NewReplays(window)
		_ = note("first", begin)
		if got := note("a", begin.Add(offset)); got != "" {
			t.Fatalf("got %s of a token at its first time", got)
		}
		for later := time.Duration(0); later < window; later += 13 * time.Minute {
			if got := note("a", begin.Add(offset+later)); got != bearer.Replayed {
				t.Fatalf("noted after %s, shown again %s later: got %q", offset, later, got)
			}
			_ = note(later.String(), begin.Add(offset+later))
		}
		if got := note("a", begin.Add(offset+3*window)); got != "" {
			t.Errorf("got %s three windows later", got)
		}
	}
}

func TestReplayMemoryFull(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	note := bearer.NewReplays(time.Hour)
	for n := range bearer.MaxShown {
		if got := note(strconv.Itoa(n), begin); got != "" {
			t.Fatalf("got %s of token %d", got, n)
		}
	}
	if got := note("one more", begin.Add(time.Minute)); got != bearer.ReplayMemoryFull {
		t.Errorf("got %q, want %s", got, bearer.ReplayMemoryFull)
	}
	if got := note("0", begin.Add(time.Minute)); got != bearer.Replayed {
		t.Errorf("got %q, want %s", got, bearer.Replayed)
	}
	if got := note("one more", begin.Add(time.Hour)); got != "" {
		t.Errorf("got %s in the next window", got)
	}
	if !(&bearer.Error{Cause: bearer.ReplayMemoryFull}).Unavailable() || (&bearer.Error{Cause: bearer.Replayed}).Unavailable() {
		t.Error("a full memory is the caller's fault, or a replay is not")
	}
}
