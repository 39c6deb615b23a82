package broker

import (
	"context"
	"slices"
	"time"
)

// noneUnderWay refuses while a rotation goes on by itself.
func (b *Broker) noneUnderWay(ctx context.Context, c *Client) error {
	r, _, err := b.journal(ctx, c)
	if err != nil || r == nil || !r.goesOn() {
		return err
	}
	b.takeUp(c, r)
	if r.State == RotationPromoted {
		return newError(ReasonRotationUnderWay, c.ID, "version %d is retired at %s by itself, or now by RetireSecret", r.ReplacedVersion, r.RetireTime.Format(time.RFC3339))
	}
	return newError(ReasonRotationUnderWay, c.ID, "it is %s", r.State)
}

// takeUp goes on with a rotation that this replica does not know of: somebody may have
// removed the list that names it.
func (b *Broker) takeUp(c *Client, r *rotationRecord) {
	if r.goesOn() && !b.rotations.takenUp(c.ID) {
		b.kick(c)
	}
}

// journal reads a client's journal and settles it with the client record; nil if it
// was never rotated.
func (b *Broker) journal(ctx context.Context, c *Client) (*rotationRecord, uint64, error) {
	r, version, err := b.readRotation(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	r, err = b.settled(ctx, c, r)
	return r, version, err
}

// settled is settleRotation of what was just read. What c says counts against the
// journal only if c was read later, since the client record is written first.
func (b *Broker) settled(ctx context.Context, c *Client, r *rotationRecord) (*rotationRecord, error) {
	var before *rotationRecord
	if r != nil {
		kept := *r
		kept.Events = slices.Clone(r.Events)
		before = &kept
	}
	r = b.settleRotation(c, r)
	if r == before || r != nil && before != nil && r.ID == before.ID && r.State == before.State && r.SecretVersion == before.SecretVersion {
		return r, nil
	}
	later, err := b.GetClient(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	if later.UID != c.UID {
		return nil, newError(ReasonConcurrentChange, c.ID, "another client has taken its name")
	}
	return b.settleRotation(later, before), nil
}

// noteRotation lets edit change the journal after a step by hand, and writes it; known is
// the journal before the step, for one that is not in the store yet. What it says can be
// told from the client record: failing stops nobody.
func (b *Broker) noteRotation(ctx context.Context, c *Client, known *rotationRecord, edit func(*rotationRecord)) {
	const tries = 4
	var err error
	for range tries {
		var r *rotationRecord
		var version uint64
		if r, version, err = b.readRotation(ctx, c); err != nil {
			break
		}
		var before Rotation
		if r != nil {
			before = r.Rotation
		}
		if r, err = b.settled(ctx, c, r); err != nil || r == nil && known == nil {
			break
		}
		if r == nil {
			r = known
			r.follow(c)
		}
		if edit == nil && r.ID == before.ID && r.State == before.State && r.SecretVersion == before.SecretVersion {
			return // it says so already
		}
		if edit != nil {
			edit(r)
		}
		r.Lease = nil
		r.Fence++
		if _, err = b.writeRotation(ctx, r, version); err == nil {
			b.takeUp(c, r)
		}
		if ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, pollBegin) {
			break
		}
	}
	if err != nil {
		b.log.WarnContext(ctx, "rotation not noted; the client record tells", "client", c.ID, "reason", ReasonOf(err))
	}
}

// settleRotation makes the journal say what the client record shows: a crash, or a
// person, may have come between the two. It returns nil if there is nothing to tell.
func (b *Broker) settleRotation(c *Client, r *rotationRecord) *rotationRecord {
	pending, isPending := c.Staged(Pending)
	if isPending && (r == nil || !r.brings(pending)) {
		return b.stagedByHand(c, pending)
	}
	if r == nil {
		return nil
	}
	if isPending && r.SecretVersion == 0 && r.ID == pending.RotationID {
		switch {
		case r.State == RotationCreating, r.lost():
			r.staged(pending, "found")
		case r.State == RotationAborting: // its Create ended after it was given up
			r.SecretVersion = pending.Number
		}
	}
	r.follow(c)
	return r
}

// stagedByHand is the journal of a pending version that no other one is about.
func (b *Broker) stagedByHand(c *Client, pending SecretVersion) *rotationRecord {
	r := newRotation(c, b.shapeOf(c), SourceRequest, RotationStaged)
	r.ID = orElse(pending.RotationID, r.ID)
	r.CreateTime, r.RequestID = pending.CreateTime, pending.RequestID
	r.SecretVersion, r.StageTime = pending.Number, pending.CreateTime
	r.note(pending.CreateTime, "stage", "")
	if !pending.VerifyTime.IsZero() {
		r.State = RotationVerified
	}
	return r
}
