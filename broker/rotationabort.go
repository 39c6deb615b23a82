package broker

import (
	"context"
	"time"
)

// AbortRotation gives a rotation up: the current version stays, the pending one is
// revoked and destroyed. Where the provider has ended the present secret already only
// forward leads to one that works: the new one then becomes current, unverified.
// expected, if not empty, is the ID that must be under way. Aborting what is over
// succeeds.
//
// CLIENT_NOT_FOUND, ROTATION_NOT_FOUND, ROTATION_WRONG_STATE after promotion,
// CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) AbortRotation(ctx context.Context, id, expected string) (*Rotation, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	r, version, err := b.journal(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case r == nil, expected != "" && r.ID != expected:
		return nil, newError(ReasonRotationNotFound, id, "")
	case r.State.Over() || r.State == RotationAborting:
		return r.Rotation.clone(), nil
	}
	from := r.State
	if from == RotationNeedsOperator {
		from = r.Resume
	}
	if from == RotationPromoted || from == RotationRetiring {
		return nil, newError(ReasonRotationWrongState, id, "it is %s: RollbackSecret leads back, RetireSecret ends it", from)
	}
	left := b.leasedBy(r, version, "")
	r.Lease = nil
	r.Fence++
	if r.Replaced || r.Shape == ShapeReplaced && r.Intent == intendCreate && r.Reason != ReasonRotatorOutcomeUnknown {
		r.Forced, r.Automatic = true, true
		if r.State == RotationNeedsOperator {
			r.move(r.Resume, "abort: forward")
		} else {
			r.note(time.Now().UTC(), "abort: forward", "")
		}
	} else {
		r.EndAs = RotationAborted
		r.move(RotationAborting, "abort")
	}
	r.NextTime = time.Now().UTC().Add(left) // whoever is at work may be at the provider now
	if err := b.enlist(ctx, c); err != nil {
		return nil, err
	}
	if _, err := b.writeRotation(ctx, r, version); err != nil {
		if ReasonOf(err) == ReasonStoreConflict {
			return nil, newError(ReasonConcurrentChange, id, "the rotation went on at the same moment")
		}
		return nil, err
	}
	if left > soon {
		return b.goes(ctx, c, r)
	}
	if _, err := b.drive(ctx, id); err != nil {
		b.log.WarnContext(ctx, "rotation is aborted later", "client", id, "reason", ReasonOf(err), "cause", err)
	}
	return b.GetRotation(ctx, id)
}

// abort gives the new secret up: in the record, at the provider, in the store.
func (run *rotationRun) abort(ctx context.Context) error {
	if run.r.Intent == intendCreate && run.r.SecretVersion == 0 {
		if err := run.forgetCreated(ctx); err != nil {
			return run.outsideFailed(ctx, "abort", err)
		}
	}
	if err := run.retireVersion(ctx, run.r.SecretVersion); err != nil {
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
		if run.r.Made == nil {
			return nil
		}
		call.Handle = run.r.Made.Handle
		if call.New, err = run.readSecret(ctx, run.c, *run.r.Made); err != nil {
			return err
		}
		defer call.New.Wipe()
		limited, cancel := run.outside(ctx)
		defer cancel()
		if err := rotator.Revoke(limited, call); err != nil {
			return err
		}
		return run.store.Destroy(ctx, secretKey(run.c.ID, run.c.UID, run.r.Made.Number))
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	found, err := rotator.Recover(limited, call)
	if err != nil || found.Outcome != CreateDone {
		run.r.Intent = intendNothing // whoever aborts was told to look at the provider's console
		return err
	}
	call.New, call.Handle = found.Created.Value, found.Created.Handle
	defer call.New.Wipe()
	return rotator.Revoke(limited, call)
}
