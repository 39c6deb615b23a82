package brokertest

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Lagging is a store whose reads show what was there some time ago, as a standby does
// that serves reads: it breaks the contract of [broker.Store] on purpose. Writes are
// check-and-set against what is there now. Replicas share one Lagging; it knows of
// no writes that went past it. Safe for concurrent use; make one with [NewLagging].
type Lagging struct {
	*Memory
	lag time.Duration

	mu sync.Mutex // guards history
	// history :: key → what it held, oldest first
	history map[string][]shown
}

// shown is what a read finds from a moment on.
type shown struct {
	from   time.Time
	record broker.Record
	err    error
}

var _ broker.Store = (*Lagging)(nil)

// NewLagging returns an empty store whose reads are lag old.
func NewLagging(lag time.Duration) *Lagging {
	return &Lagging{Memory: NewMemory(), lag: lag, history: map[string][]shown{}}
}

// Read implements [broker.Store], except that it does not see the latest writes.
func (l *Lagging) Read(ctx context.Context, key string) (broker.Record, error) {
	if err := alive(ctx, "read record"); err != nil {
		return broker.Record{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := time.Now().Add(-l.lag)
	for i := len(l.history[key]) - 1; i >= 0; i-- {
		if s := l.history[key][i]; !s.from.After(seen) {
			return s.record, s.err
		}
	}
	return broker.Record{}, broker.Absent(key, broker.AbsentNeverExisted, time.Time{}, 0)
}

// ReadLatest implements [broker.Store], except as Read does.
func (l *Lagging) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	return l.Read(ctx, key)
}

// Write implements [broker.Store].
func (l *Lagging) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	defer l.note(ctx, key)
	return l.Memory.Write(ctx, key, data, version)
}

// Destroy implements [broker.Store].
func (l *Lagging) Destroy(ctx context.Context, key string) error {
	defer l.note(ctx, key)
	return l.Memory.Destroy(ctx, key)
}

// note keeps what key holds now for the reads to come.
func (l *Lagging) note(ctx context.Context, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	record, err := l.Memory.Read(ctx, key)
	l.history[key] = append(l.history[key], shown{time.Now(), record, err})
}
