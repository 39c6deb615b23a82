package broker

import (
	"context"
	"slices"
	"time"

	"github.com/maypok86/otter/v2"
)

// grantID names a grant in memory.
type grantID struct{ uid, subject string }

// grantSeen is what this replica knows of a grant: tokens of another generation are not
// served. It is immutable.
type grantSeen struct {
	path       string
	generation int64
	// readTime is when the call began that brought it, tryTime when the last one began.
	readTime, tryTime time.Time
}

// grantPathOf is where the grant of a subject to c lies.
func (b *Broker) grantPathOf(ctx context.Context, c *Client, subject string) (string, error) {
	m, err := b.meta(ctx)
	if err != nil {
		return "", err
	}
	return grantPath(c.UID, m.authorizationID(subject)), nil
}

// grantHolds reports whether t, if it was had by a user's grant, is of the generation
// that is known. What may not be true any more is believed and read again in the
// background, as the client's record is.
func (b *Broker) grantHolds(t *Token) bool {
	if t.grant == 0 {
		return true
	}
	id := grantID{t.uid, t.subject}
	seen, ok := b.grants.GetIfPresent(id)
	if !ok {
		seen = &grantSeen{generation: t.grant}
	}
	if b.grantDue(seen) {
		tried := *seen
		tried.tryTime = time.Now()
		b.grants.Compute(id, func(old *grantSeen, found bool) (*grantSeen, otter.ComputeOp) {
			if found && old != seen { // somebody knows better by now
				return old, otter.CancelOp
			}
			return &tried, otter.WriteOp
		})
		b.grantReads.DoChan(t.uid+"\x00"+t.subject, func() (any, error) {
			return nil, b.detached(b.working, readTimeout, func(ctx context.Context) error { return b.lookAtGrant(ctx, t.clientID, id) })
		})
	}
	return seen.generation == t.grant
}

// grantDue is due for a grant.
func (b *Broker) grantDue(seen *grantSeen) bool {
	if !b.follower.seeing.Load() {
		return time.Since(seen.tryTime) > revalidateAfter
	}
	return b.since(seen.readTime) < b.follower.gapAt.Load() && time.Since(seen.tryTime) > staleRetry
}

// lookAtGrant reads a grant's generation.
func (b *Broker) lookAtGrant(ctx context.Context, client string, id grantID) error {
	c := &Client{ID: client, UID: id.uid}
	path, err := b.grantPathOf(ctx, c, id.subject)
	if err != nil {
		return err
	}
	begun := time.Now()
	r, _, _, err := b.readGrant(ctx, c, path)
	if err != nil {
		return err
	}
	b.noteGrant(c, id.subject, path, r.Generation, begun)
	return nil
}

// noteGrant takes in the generation that a call which began at begun found or left. A later
// one tells more than a call that began later: that may have read what was before a write.
func (b *Broker) noteGrant(c *Client, subject, path string, generation int64, begun time.Time) {
	id, changed := grantID{c.UID, subject}, false
	b.grants.Compute(id, func(old *grantSeen, found bool) (*grantSeen, otter.ComputeOp) {
		if found && old.readTime.After(begun) && old.generation >= generation {
			return old, otter.CancelOp
		}
		changed = found && old.generation != generation
		return &grantSeen{path: path, generation: generation, readTime: begun, tryTime: begun}, otter.WriteOp
	})
	if !changed {
		return
	}
	b.forgetRefusals(c, subject) // what was asked of the user may have been given
	b.watchers.wake(c.ID)
}

// forgetRefusals has the next calls for a subject look at its grant again.
func (b *Broker) forgetRefusals(c *Client, subject string) {
	for key := range b.failures.Keys() {
		if key.uid == c.UID && key.subject == subject {
			b.failures.Invalidate(key)
		}
	}
}

// rereadGrants looks again at those grants in memory that changed elsewhere, and returns
// the paths of those that could not be read.
func (b *Broker) rereadGrants(ctx context.Context, changed map[string]string) (failed []string) {
	if len(changed) == 0 {
		return nil
	}
	for id, seen := range b.grants.All() {
		client, ok := changed[seen.path]
		if ok && b.lookAtGrant(ctx, client, id) != nil {
			failed = append(failed, seen.path)
		}
	}
	return slices.Compact(failed)
}

// grantChanging is changing for a grant.
func (b *Broker) grantChanging(ctx context.Context, c *Client, path string) func() {
	if !b.feedOn {
		return func() {}
	}
	select {
	case <-b.announce(feedEntry{ID: c.ID, Grant: path, Changing: changingFor}): // a feed that fails stops no change
	case <-ctx.Done():
	}
	return func() { b.announce(feedEntry{ID: c.ID, Grant: path}) }
}
