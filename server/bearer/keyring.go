package bearer

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// wantedInterval is how often an unknown kid may cause a fetch.
	wantedInterval = 30 * time.Second
	// maxRetry is the time between fetches that fail. While no keys are in force, it
	// begins with a second and doubles.
	maxRetry = 30 * time.Second
	// fetchTimeout bounds one fetch with all that belongs to it.
	fetchTimeout = 10 * time.Second
	// awaitTimeout bounds how long a token waits for a fetch, and maxAwaiting how many
	// do: a flood of unknown kids must not pile up behind a server that hangs.
	awaitTimeout = 2 * time.Second
	maxAwaiting  = 64
)

// source is where an issuer's keys come from.
type source interface {
	// fetch returns the present set and how long from now the next fetch is due. It is
	// called by one goroutine at a time.
	fetch(ctx context.Context) (*keySet, time.Duration, error)
}

// held is a key set in force.
type held struct {
	set        *keySet
	generation uint64    // counts the sets that differ
	fetched    time.Time // when it was last seen to be the present one
	staleAfter time.Time // when it is too old to be used
}

// keyring keeps the keys of one issuer and makes them new. All methods but run are
// safe for concurrent use.
type keyring struct {
	issuer   string
	source   source
	maxStale time.Duration
	logger   *slog.Logger
	current  atomic.Pointer[held] // nil before the first fetch
	wake     chan struct{}        // holds one signal: fetch now

	mu         sync.Mutex    // guards the rest; not held during a fetch
	flight     chan struct{} // closed when the fetch under way, or about to be, ends; nil if none is
	running    bool
	awaiting   int
	lastWanted time.Time // when an unknown kid last caused a fetch
	failures   int       // in a row
	failure    error     // of the last fetch; nil if it was good
}

func newKeyring(issuer Issuer, from source, logger *slog.Logger) *keyring {
	return &keyring{issuer: issuer.Issuer, source: from, maxStale: issuer.MaxStale, logger: logger, wake: make(chan struct{}, 1)}
}

// inForce returns the keys to verify with now; nil if there are none.
func (k *keyring) inForce(now time.Time) *held {
	if h := k.current.Load(); h != nil && now.Before(h.staleAfter) {
		return h
	}
	return nil
}

// run fetches until ctx ends.
func (k *keyring) run(ctx context.Context) {
	k.mu.Lock()
	k.running = true
	k.beginLocked() // so that who comes before the first fetch waits for it
	k.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			k.mu.Lock()
			k.running = false
			k.endLocked()
			k.mu.Unlock()
			return
		case <-timer.C:
		case <-k.wake:
		}
		timer.Reset(k.refresh(ctx))
	}
}

// refresh fetches once and returns when to fetch next.
func (k *keyring) refresh(ctx context.Context) time.Duration {
	k.mu.Lock()
	k.beginLocked()
	select {
	case <-k.wake: // this fetch is the one that was asked for, whatever began it
	default:
	}
	k.mu.Unlock()
	fetchCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	set, next, err := k.source.fetch(fetchCtx)

	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.endLocked()
	switch {
	case err == nil:
		k.replaceLocked(ctx, set)
		// Replicas that started together spread out.
		return next - time.Duration(rand.Int64N(int64(next)/10+1))
	case ctx.Err() != nil: // we stop, and the source is not to blame
		return maxRetry
	}
	inForce := k.inForce(time.Now()) != nil
	if k.failure == nil || k.failure.Error() != err.Error() {
		k.logger.WarnContext(ctx, "cannot fetch the keys of an issuer", "issuer", k.issuer, "error", err, "keys_in_force", inForce)
	}
	k.failure = err
	k.failures++
	if inForce {
		return maxRetry
	}
	return min(time.Second<<min(k.failures-1, 10), maxRetry)
}

func (k *keyring) replaceLocked(ctx context.Context, set *keySet) {
	now := time.Now()
	next := &held{set: set, generation: 1, fetched: now, staleAfter: now.Add(k.maxStale)}
	last := k.current.Load()
	if last != nil {
		next.generation = last.generation
		if last.set.digest != set.digest {
			next.generation++
		}
	}
	k.current.Store(next)
	if last == nil || last.generation != next.generation || k.failure != nil {
		k.logger.InfoContext(ctx, "keys of an issuer are in force", "issuer", k.issuer, "generation", next.generation, "keys", len(set.keys), "dropped", set.dropped)
	}
	k.failure, k.failures = nil, 0
}

// beginLocked says that a fetch is under way or about to be.
func (k *keyring) beginLocked() {
	if k.flight == nil {
		k.flight = make(chan struct{})
	}
}

func (k *keyring) endLocked() {
	if k.flight != nil {
		close(k.flight)
		k.flight = nil
	}
}

// await waits for the fetch that is under way, if there is one. An unknown kid may
// start one.
func (k *keyring) await(ctx context.Context, unknownKey bool) {
	k.mu.Lock()
	now := time.Now()
	if k.flight == nil && unknownKey && k.running && now.Sub(k.lastWanted) >= wantedInterval {
		k.lastWanted = now
		k.beginLocked()
		k.wake <- struct{}{} // there is room: a signal is there only while a flight is
	}
	flight := k.flight
	if flight == nil || k.awaiting >= maxAwaiting {
		k.mu.Unlock()
		return
	}
	k.awaiting++
	k.mu.Unlock()

	timer := time.NewTimer(awaitTimeout)
	defer timer.Stop()
	select {
	case <-flight:
	case <-timer.C:
	case <-ctx.Done():
	}
	k.mu.Lock()
	k.awaiting--
	k.mu.Unlock()
}

// unavailable is the refusal while no keys are in force.
func (k *keyring) unavailable() *Error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &Error{Cause: KeysUnavailable, Err: k.failure}
}
