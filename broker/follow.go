package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	pollFeedEvery = time.Second
	// blindAfter is how old the feed as last read may be; without it records are read
	// again every revalidateAfter while they are used.
	blindAfter = 3 * time.Second
	// staleRetry is how long a record that the feed says nothing certain about is used
	// between tries to read it again.
	staleRetry = time.Second
	// rereadsAtOnce bounds the reads after one look at the feed.
	rereadsAtOnce = 16
)

// follower is what this replica knows from the feed.
type follower struct {
	// seeing says that the feed was read lately.
	seeing atomic.Bool
	// gapAt is when records in memory were last all in doubt: those that were read
	// before are read again when they are used. In ns since the Broker was made.
	gapAt atomic.Int64

	// readAt is when the last look began that saw the feed. In ns since the Broker was made.
	readAt atomic.Int64

	// The rest belongs to the goroutine of followFeed.
	begun   bool
	uid     string
	counter int64
	// unsettled :: client id → until when it has to be read again at each look
	unsettled map[string]time.Time
	// unsettledGrants :: path → the same of a grant
	unsettledGrants map[string]unsettledGrant
}

// unsettledGrant is a grant that has to be looked at again until then.
type unsettledGrant struct {
	client string
	until  time.Time
}

// since is a time as ns since the Broker was made, by the clock that only runs forward.
func (b *Broker) since(t time.Time) int64 { return int64(t.Sub(b.made)) }

// due reports whether a record in memory has to be read again.
func (b *Broker) due(loaded *loadedClient) bool {
	if !b.follower.seeing.Load() {
		return time.Since(loaded.tryTime) > revalidateAfter
	}
	return b.since(loaded.readTime) < b.follower.gapAt.Load() && time.Since(loaded.tryTime) > staleRetry
}

// followFeed looks at the feed about once a second until ctx ends, and has what could
// not be written to it written.
func (b *Broker) followFeed(ctx context.Context) {
	defer b.follower.seeing.Store(false)
	b.follower.unsettled, b.follower.unsettledGrants = map[string]time.Time{}, map[string]unsettledGrant{}
	for {
		_ = b.guarded(ctx, func() error { b.lookAtFeed(ctx); return nil }) // guarded logs what it caught
		b.tellAgain()
		if !sleep(ctx, pollFeedEvery*9/10+rand.N(pollFeedEvery/5)) {
			return
		}
	}
}

// lookAtFeed takes in what is new.
func (b *Broker) lookAtFeed(ctx context.Context) {
	f, looked := &b.follower, time.Now()
	r, _, err := b.readFeed(ctx)
	if err != nil {
		if f.seeing.Load() && b.blindFor(time.Now()) > blindAfter {
			f.seeing.Store(false)
			b.log.WarnContext(ctx, "changes by other replicas are noticed late: the feed cannot be read", "reason", ReasonOf(err), "cause", err)
		}
		return
	}
	entries, whole := r.since(f.counter)
	if !f.begun || !whole || f.uid != "" && f.uid != r.UID {
		f.gapAt.Store(b.since(looked))
	}
	f.begun, f.uid, f.counter = true, r.UID, r.Counter
	for _, entry := range entries {
		if entry.Grant != "" {
			f.unsettledGrants[entry.Grant] = unsettledGrant{entry.ID, looked.Add(entry.Changing)}
			continue
		}
		f.unsettled[entry.ID] = looked.Add(entry.Changing)
	}
	b.settleChanges(ctx, looked)
	b.settleGrants(ctx, looked)
	f.readAt.Store(b.since(looked))
	f.seeing.Store(true)
}

// blindFor is how long this replica has not known what changed.
func (b *Broker) blindFor(now time.Time) time.Duration {
	return time.Duration(b.since(now) - b.follower.readAt.Load())
}

// Blind returns REPLICA_BLIND while this replica hands out no tokens, because it has
// not learned what changed for longer than Config.MaxBlind; else nil.
func (b *Broker) Blind() error { return b.blindAt(time.Now()) }

func (b *Broker) blindAt(now time.Time) error {
	if b.maxBlind == 0 {
		return nil
	}
	blind := b.blindFor(now)
	if blind <= b.maxBlind {
		return nil
	}
	return &Error{
		Reason: ReasonReplicaBlind, Op: "hand out a token", RetryAfter: time.Second,
		Detail: fmt.Sprintf("for %v, which is more than %v", blind.Round(time.Second), b.maxBlind),
	}
}

// settleChanges reads the clients that changed, or may be about to, as far as they
// are in memory.
func (b *Broker) settleChanges(ctx context.Context, looked time.Time) {
	var group errgroup.Group
	group.SetLimit(rereadsAtOnce)
	failed := make(chan string, len(b.follower.unsettled))
	for id := range b.follower.unsettled {
		if _, ok := b.clients.GetIfPresent(nameOf(id)); !ok {
			continue
		}
		group.Go(func() error {
			return b.guarded(ctx, func() error {
				if !b.reread(ctx, id) {
					failed <- id
				}
				return nil
			})
		})
	}
	_ = group.Wait() // guarded logs, and reread says what failed
	close(failed)
	again := map[string]bool{}
	for id := range failed {
		again[id] = true
	}
	for id, until := range b.follower.unsettled {
		if !again[id] && !looked.Before(until) {
			delete(b.follower.unsettled, id)
		}
	}
}

// settleGrants does the same for grants.
func (b *Broker) settleGrants(ctx context.Context, looked time.Time) {
	changed := map[string]string{}
	for path, g := range b.follower.unsettledGrants {
		changed[path] = g.client
	}
	failed := b.rereadGrants(ctx, changed)
	for path, g := range b.follower.unsettledGrants {
		if !slices.Contains(failed, path) && !looked.Before(g.until) {
			delete(b.follower.unsettledGrants, path)
		}
	}
}

// reread makes what is known of a client true, and reports whether it is.
func (b *Broker) reread(ctx context.Context, id string) bool {
	c, err := b.readClient(ctx, id)
	if err != nil {
		return ReasonOf(err) == ReasonClientNotFound
	}
	if p, ok := b.parked.GetIfPresent(c.UID); ok && b.readParking(ctx, c, p) == nil {
		b.forgetFailures(c)
	}
	return true
}
