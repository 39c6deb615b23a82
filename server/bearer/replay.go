package bearer

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxShown bounds the tokens that one issuer may have alive in each of two windows.
const maxShown = 1 << 16

// replays remembers which single-use tokens were shown, by the hash of their jti, for
// at least as long as they are valid. It is safe for concurrent use.
//
// Two maps take turns, each for one window, so that forgetting costs nothing: what was
// noted in the last window is at most two windows old and at least one.
type replays struct {
	window time.Duration // longer than any token stays valid after it was shown

	mu       sync.Mutex                     // guards the rest
	begun    time.Time                      // when now began to be filled
	now, old map[[sha256.Size]byte]struct{} // jti hash
}

// note returns "" for a token that is shown for the first time, or why it is refused.
func (r *replays) note(id string, at time.Time) Cause {
	digest := sha256.Sum256([]byte(id))
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := at.Sub(r.begun); r.now == nil || age >= 2*r.window {
		r.begun, r.now, r.old = at, make(map[[sha256.Size]byte]struct{}), nil
	} else if age >= r.window {
		r.begun, r.now, r.old = at, make(map[[sha256.Size]byte]struct{}), r.now
	}
	if _, shown := r.now[digest]; shown {
		return Replayed
	}
	if _, shown := r.old[digest]; shown {
		return Replayed
	}
	if len(r.now) >= maxShown {
		return ReplayMemoryFull
	}
	r.now[digest] = struct{}{}
	return ""
}
