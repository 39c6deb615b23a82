package broker

import (
	"context"
)

// RotationRequest asks for a rotation that goes on by itself.
type RotationRequest struct {
	ClientID string
	// Secret is the new one; without a value the client's rotator has one made, or the
	// version that is pending already is taken.
	Secret SecretInput
	// RequestID makes a repetition return the rotation that the first one began, and go
	// on with one that needs an operator.
	RequestID string
	// Compromised says that the present secret is in wrong hands.
	Compromised bool
	// DropTokens raises the floor at promotion.
	DropTokens bool
	// AcceptGap goes on although callers may be without a token for a moment.
	AcceptGap bool

	scheduled bool
}

// RotateSecret begins a rotation that goes on by itself, on whichever replica, until it
// is over or needs an operator. It returns as soon as that is in the journal.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, CLIENT_DISABLED,
// ROTATION_UNDER_WAY, ROTATION_WRONG_STATE while the last one needs an operator who
// says what became of the secret that it brings, ROTATION_GAP_NOT_ACCEPTED,
// ROTATOR_NOT_SET, TOO_MANY_REQUESTS, CONCURRENT_CHANGE, the reasons of StageSecret if a secret is given, or one of the store.
func (b *Broker) RotateSecret(ctx context.Context, q RotationRequest) (*Rotation, error) {
	c, err := b.clientToRotate(ctx, q)
	if err != nil {
		return nil, err
	}
	last, version, err := b.journal(ctx, c)
	if err != nil {
		return nil, err
	}
	if last != nil && q.RequestID != "" && last.RequestID == q.RequestID && last.Automatic {
		return b.repeat(ctx, c, last, version)
	}
	if last != nil && last.goesOn() {
		return nil, b.noneUnderWay(ctx, c)
	}
	if err := last.mayBeLeft(q); err != nil {
		return nil, err
	}
	r, err := b.begun(ctx, c, last, q)
	if err != nil {
		return nil, err
	}
	if err := b.enlist(ctx, c, r.ID, false); err != nil {
		return nil, err
	}
	if err := b.writeOver(ctx, c, r, last, version); err != nil {
		return nil, err
	}
	return b.goes(ctx, c, r)
}

// writeOver writes the journal of a rotation that begins over that of the last one, which
// its holder may yet be about to release. Of two that begin at once one wins.
// CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) writeOver(ctx context.Context, c *Client, r, last *rotationRecord, version uint64) error {
	const tries = 4
	for range tries {
		if last != nil {
			r.Fence, r.Failures = last.Fence+1, last.failuresInARow()
		}
		_, err := b.writeRotation(ctx, r, version)
		if ReasonOf(err) != ReasonStoreConflict {
			return err
		}
		present, now, err := b.readRotation(ctx, c)
		if err != nil {
			return err
		}
		released := present != nil && last != nil && present.ID == last.ID && !present.goesOn()
		found := present != nil && present.ID == r.ID && !present.Automatic // its new secret, before this journal
		if !released && !found {
			break
		}
		version = now
		if released {
			last = present
		} else {
			r.Fence = present.Fence
		}
	}
	return newError(ReasonConcurrentChange, c.ID, "somebody else began a rotation")
}

// mayBeLeft refuses to have another secret made while it is not known what became of
// the last one, or that one is the only one that the provider takes.
func (r *rotationRecord) mayBeLeft(q RotationRequest) error {
	if r == nil || r.State != RotationNeedsOperator || q.Secret.given() || !r.Replaced && r.Intent == intendNothing {
		return nil
	}
	return newError(ReasonRotationWrongState, r.ClientID, "rotation %s needs an operator: repeat its request, abort it, or give a secret", r.ID)
}

// goes has a journal that was just written gone on with.
func (b *Broker) goes(ctx context.Context, c *Client, r *rotationRecord) (*Rotation, error) {
	if err := b.enlist(ctx, c, r.ID, true); err != nil {
		b.log.WarnContext(ctx, "other replicas do not look after a rotation", "client", c.ID, "reason", ReasonOf(err))
	}
	told := r.Rotation.clone() // from here on r is the driver's
	b.kick(c)
	return told, nil
}

func (b *Broker) clientToRotate(ctx context.Context, q RotationRequest) (*Client, error) {
	var v violations
	checkRequestID(&v, q.RequestID)
	if q.Secret.given() {
		checkInput(&v, "secret", q.Secret)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	c, err := b.clientToChange(ctx, q.ClientID, "")
	if err != nil {
		return nil, err
	}
	return c, c.usable()
}

// repeat goes on with a rotation that needed an operator.
func (b *Broker) repeat(ctx context.Context, c *Client, r *rotationRecord, version uint64) (*Rotation, error) {
	if r.State != RotationNeedsOperator {
		b.kick(c)
		return r.Rotation.clone(), nil
	}
	if r.Reason == ReasonRotatorUnauthorized {
		b.renewManagement(ctx, c)
	}
	r.move(r.Resume, "go on")
	r.Lease = nil
	r.Fence++
	if err := b.enlist(ctx, c, r.ID, false); err != nil {
		return nil, err
	}
	if _, err := b.writeRotation(ctx, r, version); err != nil {
		if ReasonOf(err) == ReasonStoreConflict {
			return nil, newError(ReasonConcurrentChange, c.ID, "somebody else went on with the rotation")
		}
		return nil, err
	}
	return b.goes(ctx, c, r)
}

// begun is the journal of a rotation as it begins.
func (b *Broker) begun(ctx context.Context, c *Client, last *rotationRecord, q RotationRequest) (*rotationRecord, error) {
	rotator, traits, err := b.rotator(c)
	pending, isPending := c.Staged(Pending)
	taken := !q.Secret.given() && rotator == nil && isPending
	if !q.Secret.given() && err != nil && !taken {
		return nil, err
	}
	if err := b.checkGap(c, traits, q); err != nil {
		return nil, err
	}
	r := newRotation(c, b.shapeOf(c), SourceProvider, RotationCreating)
	if traits.TakesChosen {
		r.Source = SourceBroker
	}
	switch {
	case taken:
		r.Source = SourceRequest
		if last != nil && last.SecretVersion == pending.Number {
			r.Source = last.Source
		}
		r.ID = orElse(pending.RotationID, r.ID)
		r.staged(pending, "take what is pending")
	case q.Secret.given():
		version, err := b.stage(ctx, staging{id: c.ID, requestID: q.RequestID, rotationID: r.ID, input: q.Secret})
		if err != nil {
			return nil, err
		}
		if version.Stage != Pending {
			return nil, newError(ReasonRotationWrongState, c.ID, "version %d, which this request staged, is not pending any more", version.Number)
		}
		r.Source, r.ID = q.Secret.source(), orElse(version.RotationID, r.ID)
		r.staged(version, "stage")
	default:
		r.note(r.CreateTime, "begin", "")
	}
	r.Automatic, r.Compromised, r.DropTokens, r.RequestID, r.Scheduled = true, q.Compromised, q.DropTokens, q.RequestID, q.scheduled
	return r, nil
}

// checkGap refuses what cannot be without a gap, unless that is accepted.
func (b *Broker) checkGap(c *Client, traits RotatorTraits, q RotationRequest) error {
	ends := traits.Shape == ShapeReplaced || traits.Shape == ShapeActivated
	if !q.Secret.given() && ends && c.Rotation.TokensEndWithSecret && !q.AcceptGap {
		return newError(ReasonRotationGapNotAccepted, c.ID, "the provider ends the present secret, and its tokens, before the new one is known to work")
	}
	return nil
}
