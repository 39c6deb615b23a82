package broker

import (
	"context"
	"fmt"
	"time"
)

// revokeUpstream has the provider refuse a version that is being destroyed, where the
// client's rotator can and the version was made by it.
func (b *Broker) revokeUpstream(ctx context.Context, c *Client, version SecretVersion) error {
	rotator, traits, err := b.rotator(c)
	if err != nil || traits.Shape == ShapeReplaced || version.Handle == "" && traits.Shape != ShapeKeyPair {
		return nil // the provider has ended it itself, or a person has to
	}
	call, err := b.callFor(ctx, c, orElse(version.RotationID, newID()), traits)
	if err != nil {
		return fmt.Errorf("revoke upstream: %w", err)
	}
	if call.New, err = b.readSecret(ctx, c, version); err != nil && !unreadable(err) {
		return err
	}
	defer call.New.Wipe()
	call.Handle = version.Handle
	limited, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := rotator.Revoke(limited, call); err != nil {
		e := AsError(err)
		return &Error{Reason: e.Reason, Op: "revoke upstream", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	return nil
}

// retireReplaced ends the replaced secret: in the record, at the provider, in the store.
func (run *rotationRun) retireReplaced(ctx context.Context) error {
	if run.r.Compromised && !run.r.Revoked {
		if _, err := run.RevokeTokens(ctx, run.c.ID); err != nil && !outage(err) {
			run.r.note(time.Now().UTC(), "revoke tokens", ReasonOf(err)) // they are dropped all the same
		} else if err != nil {
			return err
		}
		run.r.Revoked = true
		if err := run.save(ctx); err != nil {
			return err
		}
	}
	err := run.retireVersion(ctx, run.r.ReplacedVersion)
	if err != nil {
		return run.outsideFailed(ctx, "retire", err)
	}
	return run.becomes(ctx, RotationCompleted, "retire")
}

// retireVersion retires a version of the rotation; one that is gone, or that somebody
// made current again, is left alone.
func (run *rotationRun) retireVersion(ctx context.Context, number int64) error {
	if number == 0 {
		return nil
	}
	_, err := run.retire(ctx, run.c.ID, number)
	switch ReasonOf(err) {
	case ReasonSecretWrongStage, ReasonSecretVersionNotFound:
		return nil
	case ReasonConcurrentChange:
		return &Error{Reason: ReasonStoreConflict, Op: "retire", Client: run.c.ID, Err: err}
	}
	return err
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
