package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	// scheduleEvery is shorter than the shortest window.
	scheduleEvery = 30 * time.Second
	// jitterPart of the interval, and at most maxJitter, is how far rotations of clients
	// with the same interval lie apart.
	jitterPart = 20 // 5 %
	maxJitter  = 24 * time.Hour
	// scheduledBackoff doubles with each rotation in a row that fails, up to
	// maxScheduledBackoff; after maxScheduledFailures a person is called.
	scheduledBackoff     = time.Hour
	maxScheduledBackoff  = 24 * time.Hour
	maxScheduledFailures = 5
	// planAhead is how long before its begin a rotation is known to the replica that
	// crawls, so that it does not miss a window that is open between two visits.
	planAhead = 2 * crawlRound
	// pendingFor is how long a version that somebody staged holds the schedule up.
	pendingFor = 24 * time.Hour
	// refusedFor is how long one that could not begin is not tried again.
	refusedFor = time.Hour
)

// schedule is what this replica knows of rotations that begin by themselves. Safe for
// concurrent use.
type schedule struct {
	mu sync.Mutex // guards what follows
	// planned :: client id → when its rotation is to begin
	planned map[string]time.Time
	// notBefore :: client uid and current version → when it is worth another look
	notBefore map[string]time.Time
}

// rotationDue returns when c's current secret is to be rotated; zero if never. It asks
// no window.
func (c *Client) rotationDue() time.Time {
	current, ok := c.Staged(Current)
	if !ok || c.Rotation.Rotator == "" || c.State() != StateActive {
		return time.Time{}
	}
	since := current.PromoteTime
	if since.IsZero() {
		since = current.CreateTime
	}
	spread := c.spread()
	var due time.Time
	if every := c.Rotation.Every; every > 0 {
		most := min(every/jitterPart, maxJitter)
		due = since.Add(every + time.Duration(spread*float64(most)))
	}
	if expiry := current.ExpireTime; !expiry.IsZero() {
		// A secret that lives no longer than that is not replaced all the time.
		lead := min(orDefault(c.Rotation.BeforeExpiry, defaultBeforeExpiry), max(expiry.Sub(since)/2, 0))
		most := min(lead/jitterPart, maxJitter)
		before := expiry.Add(-lead - time.Duration((spread+1)/2*float64(most))) // earlier only
		if due.IsZero() || before.Before(due) {
			due = before
		}
	}
	return due
}

// spread is a number from -1 to 1 that differs by client and is the same everywhere.
func (c *Client) spread() float64 {
	sum := sha256.Sum256([]byte("schedule " + c.UID))
	return 2*float64(binary.BigEndian.Uint32(sum[:4]))/math.MaxUint32 - 1
}

// NextRotation returns when c's secret is next to be rotated by itself, not before now,
// within its windows if it has some; zero if never. A rotation that is under way, or
// that failed, may put it off.
func (c *Client) NextRotation(now time.Time) time.Time {
	at := c.rotationDue()
	if at.IsZero() {
		return at
	}
	if at.Before(now) {
		at = now
	}
	return c.Rotation.nextBegin(at)
}

// nextBegin returns the first moment from t on at which a rotation may begin by itself.
func (s RotationSettings) nextBegin(t time.Time) time.Time {
	if s.mayBegin(t) {
		return t
	}
	var first time.Time
	midnight := t.UTC().Truncate(24 * time.Hour)
	for _, w := range s.Windows {
		for day := range 8 { // a week from now at the latest
			begin := midnight.AddDate(0, 0, day).Add(time.Duration(minutes(w.Begin)) * time.Minute)
			if begin.After(t) && w.open(begin) && (first.IsZero() || begin.Before(first)) {
				first = begin
			}
		}
	}
	return first
}

// scheduleKey names what is due: another current version is another matter.
func scheduleKey(c *Client) string {
	current, _ := c.Staged(Current)
	return fmt.Sprintf("%s-%d", c.UID, current.Number)
}

// begins is NextRotation as far as this replica knows what stands against it.
func (b *Broker) begins(c *Client, now time.Time) time.Time {
	if c.Rotation.Rotator == "" { // most have none, and all in memory are asked
		return time.Time{}
	}
	b.schedule.mu.Lock()
	wait := b.schedule.notBefore[scheduleKey(c)]
	b.schedule.mu.Unlock()
	if wait.After(now) {
		now = wait
	}
	return c.NextRotation(now)
}

// plan begins c's rotation if it is due, or has it begun when it will soon be.
func (b *Broker) plan(ctx context.Context, c *Client) error {
	now := time.Now()
	at := b.begins(c, now)
	switch {
	case at.IsZero() || at.Sub(now) > planAhead:
		return nil
	case !at.After(now):
		return b.beginScheduled(ctx, c.ID)
	}
	b.schedule.mu.Lock()
	defer b.schedule.mu.Unlock()
	if b.schedule.planned == nil {
		b.schedule.planned = map[string]time.Time{}
	}
	b.schedule.planned[c.ID] = at
	return nil
}

// beginDue begins the rotations that are due, of the clients that are planned and of
// those in memory. Where nothing is due it does not ask the store.
func (b *Broker) beginDue(ctx context.Context) {
	now, due := time.Now(), map[string]bool{}
	b.schedule.mu.Lock()
	for id, at := range b.schedule.planned {
		if !at.After(now) {
			due[id] = true
			delete(b.schedule.planned, id)
		}
	}
	for key, at := range b.schedule.notBefore {
		if now.Sub(at) > planAhead {
			delete(b.schedule.notBefore, key)
		}
	}
	b.schedule.mu.Unlock()
	for loaded := range b.clients.Values() {
		if at := b.begins(loaded.client, now); !at.IsZero() && !at.After(now) {
			due[loaded.client.ID] = true
		}
	}
	for id := range due {
		err := b.guarded(ctx, func() error { return b.beginScheduled(ctx, id) })
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "rotation that is due does not begin", "client", id, "reason", ReasonOf(err), "cause", err)
		}
		if !sleep(ctx, crawlPause) {
			return
		}
	}
}

// beginScheduled begins a client's rotation if the store, too, says that it is due and
// nothing stands against it. The request_id is the same on all replicas, so that
// however many of them try, one rotation begins.
func (b *Broker) beginScheduled(ctx context.Context, id string) error {
	c, err := b.readClient(ctx, id)
	if ReasonOf(err) == ReasonClientNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	if at := b.begins(c, now); at.IsZero() || at.After(now) {
		return nil
	}
	r, _, err := b.journal(ctx, c)
	if err != nil {
		return err
	}
	if wait := b.heldUp(ctx, c, r, now); wait > 0 {
		b.notBefore(c, now.Add(wait))
		return nil
	}
	current, _ := c.Staged(Current)
	_, err = b.RotateSecret(ctx, RotationRequest{
		ClientID: id, RequestID: fmt.Sprintf("schedule-%d-%d", current.Number, r.failuresInARow()), scheduled: true,
		AcceptGap: len(c.Rotation.Windows) > 0, // that is what windows are for
	})
	switch reason := ReasonOf(err); {
	case err == nil:
		b.notBefore(c, now.Add(activeEvery)) // what comes of it is in the journal
	case reason == ReasonConcurrentChange, reason == ReasonRotationUnderWay:
		return nil // somebody else began one
	case !outage(err) && reason != ReasonStoreSealed && ctx.Err() == nil:
		b.notBefore(c, now.Add(refusedFor))
	}
	return err
}

// heldUp returns how long c's rotation, which is due, must not begin; 0 if it may.
func (b *Broker) heldUp(ctx context.Context, c *Client, r *rotationRecord, now time.Time) time.Duration {
	pending, isPending := c.Staged(Pending)
	switch {
	case isPending && now.Sub(pending.CreateTime) < pendingFor:
		return pendingFor - now.Sub(pending.CreateTime)
	case r == nil:
		return 0
	case r.goesOn():
		return scheduleEvery
	case r.State == RotationNeedsOperator: // the log and the metrics say so
		return refusedFor
	}
	failures := r.failuresInARow()
	if failures >= maxScheduledFailures {
		b.log.ErrorContext(ctx, "scheduled rotations have failed too often; rotate by hand", "client", c.ID, "rotation", r.ID, "failures", failures, "reason", r.Reason)
		return maxScheduledBackoff
	}
	if failures == 0 {
		return 0
	}
	backoff := min(scheduledBackoff<<(failures-1), maxScheduledBackoff)
	return max(backoff-now.Sub(r.EndTime), 0)
}

func (b *Broker) notBefore(c *Client, at time.Time) {
	b.schedule.mu.Lock()
	defer b.schedule.mu.Unlock()
	if b.schedule.notBefore == nil {
		b.schedule.notBefore = map[string]time.Time{}
	}
	b.schedule.notBefore[scheduleKey(c)] = at
}

// failuresInARow returns how many rotations that began by themselves have failed since
// one completed, r being the last one of the client; 0 for nil.
func (r *rotationRecord) failuresInARow() int {
	switch {
	case r == nil || r.State == RotationCompleted:
		return 0
	case r.Scheduled && r.State.Over():
		return r.Failures + 1
	default:
		return r.Failures
	}
}
