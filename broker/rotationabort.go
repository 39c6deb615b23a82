package broker

import (
	"context"
	"time"
)

// AbortRotation gives a rotation up: the current version stays, the pending one is
// revoked and destroyed. Where the provider has ended the present secret already only
// forward leads to one that works: the new one then becomes current, unverified.
// expected, if not empty, is the ID that must be under way. Aborting what is over
// succeeds. A journal that is damaged is made anew from what the client record says.
//
// CLIENT_NOT_FOUND, ROTATION_NOT_FOUND, ROTATION_WRONG_STATE after promotion,
// CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) AbortRotation(ctx context.Context, id, expected string) (*Rotation, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	var r *rotationRecord
	var left time.Duration
	for range 4 { // whoever is at work writes the journal now and then
		if r, left, err = b.giveUp(ctx, c, expected); ReasonOf(err) != ReasonStoreConflict || !sleep(ctx, pollBegin) {
			break
		}
	}
	switch {
	case ReasonOf(err) == ReasonStoreConflict:
		return nil, newError(ReasonConcurrentChange, id, "the rotation went on at the same moment")
	case err != nil:
		return nil, err
	case r.State.Over():
		return r.Rotation.clone(), nil
	case left > soon:
		return b.goes(ctx, c, r)
	}
	next, err := b.drive(ctx, id)
	if err == nil && next.IsZero() {
		err = b.delistIfOver(ctx, activeRotation{ID: id, UID: c.UID})
	}
	if err != nil {
		b.log.WarnContext(ctx, "rotation is aborted later", "client", id, "reason", ReasonOf(err), "cause", err)
	}
	return b.GetRotation(ctx, id)
}

// giveUp writes into the journal that a rotation is to be aborted, over the lease of
// whoever is at work on it, and returns how long that may still last.
func (b *Broker) giveUp(ctx context.Context, c *Client, expected string) (*rotationRecord, time.Duration, error) {
	r, version, err := b.readRotation(ctx, c)
	damaged := ReasonOf(err) == ReasonRecordCorrupt || ReasonOf(err) == ReasonRecordFieldMissing
	if err != nil && !damaged {
		return nil, 0, err
	}
	if r != nil {
		if c, err = b.readClient(ctx, c.ID); err != nil { // as in take
			return nil, 0, err
		}
	}
	if r = b.settleRotation(c, r); r == nil && damaged {
		r = newRotation(c, b.shapeOf(c), SourceRequest, RotationAborted)
		r.EndTime, r.Reason = r.CreateTime, ReasonOf(err)
		_, err = b.writeRotation(ctx, r, version)
		return r, 0, err
	}
	switch {
	case r == nil, expected != "" && r.ID != expected:
		return nil, 0, newError(ReasonRotationNotFound, c.ID, "")
	case r.State.Over():
		return r, 0, nil
	case r.State.promoted() || r.State == RotationNeedsOperator && r.Resume.promoted():
		return nil, 0, newError(ReasonRotationWrongState, c.ID, "it is past promotion: RollbackSecret leads back, RetireSecret ends it")
	}
	left := b.leasedBy(r, version, "")
	if r.State == RotationAborting {
		return r, left, nil
	}
	r.giveUp()
	r.NextTime = time.Now().UTC().Add(left) // whoever is at work may be at the provider now
	if err := b.enlist(ctx, c, r.ID, false); err != nil {
		return nil, 0, err
	}
	_, err = b.writeRotation(ctx, r, version)
	return r, left, err
}

// giveUp turns r round: back where that leads to a secret that works, else forward.
func (r *rotationRecord) giveUp() {
	r.Lease = nil
	r.Fence++
	if !r.Replaced && (r.Shape != ShapeReplaced || r.Intent != intendCreate) {
		r.EndAs = RotationAborted
		r.move(RotationAborting, "abort")
		return
	}
	r.Forced, r.Automatic = true, true
	if r.Reason == ReasonRotatorOutcomeUnknown { // who aborts that has looked at the provider's console
		r.EndAs = RotationAborted
	}
	if r.State == RotationNeedsOperator {
		r.move(r.Resume, "abort: forward")
	} else {
		r.note(time.Now().UTC(), "abort: forward", "")
	}
}

// abort gives the new secret up: in the record, at the provider, in the store.
func (run *rotationRun) abort(ctx context.Context) error {
	if run.r.SecretVersion == 0 && (run.r.Intent == intendCreate || run.r.Made != nil) {
		if err := run.forgetCreated(ctx); err != nil {
			return run.outsideFailed(ctx, "abort", err)
		}
	}
	switch err := run.retireVersion(ctx, run.r.SecretVersion); {
	case ReasonOf(err) == ReasonSecretWrongStage: // somebody has promoted it: follow says so
		return nil
	case err != nil:
		return run.outsideFailed(ctx, "abort", err)
	}
	end := RotationAborted
	if run.r.EndAs == RotationFailed {
		end = RotationFailed
	}
	reason, detail := run.r.Reason, run.r.Detail
	run.r.move(end, "abort")
	run.r.Reason, run.r.Detail = reason, detail
	return run.save(ctx)
}

// forgetCreated undoes a Create of which nobody knows what became.
func (run *rotationRun) forgetCreated(ctx context.Context) error {
	rotator, traits, err := run.rotator(run.c)
	if err != nil {
		return err
	}
	call, err := run.rotatorCall(ctx, traits)
	if err != nil {
		return err
	}
	if traits.TakesChosen {
		return run.forgetMade(ctx, rotator, call)
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	found, err := rotator.Recover(limited, call)
	if err != nil {
		return err
	}
	if found.Outcome == CreateDone {
		call.New, call.Handle = found.Created.Value, found.Created.Handle
		defer call.New.Wipe()
		if err := rotator.Revoke(limited, call); err != nil {
			return err
		}
	}
	run.r.Intent = intendNothing // where the provider cannot tell, whoever aborts was told to look there
	return nil
}

// forgetMade undoes the Create of a chosen secret, and destroys its value.
func (run *rotationRun) forgetMade(ctx context.Context, rotator Rotator, call RotatorCall) error {
	made := run.r.Made
	if made == nil {
		return nil
	}
	if run.r.Intent == intendCreate {
		var err error
		if call.New, err = run.readSecret(ctx, run.c, *made); err != nil && !unreadable(err) {
			return err
		}
		defer call.New.Wipe()
		call.Handle = made.Handle
		limited, cancel := run.outside(ctx)
		defer cancel()
		if err := rotator.Revoke(limited, call); err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := run.store.Destroy(limited, secretKey(run.c.ID, run.c.UID, made.Number)); err != nil {
		return err
	}
	run.r.Made, run.r.Intent = nil, intendNothing
	return nil
}
