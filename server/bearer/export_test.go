package bearer

import "time"

// MaxShown is how many single-use tokens fit into one window.
const MaxShown = maxShown

// NewReplays returns the function that notes a single-use token.
func NewReplays(window time.Duration) func(id string, at time.Time) Cause {
	return (&replays{window: window}).note
}
