package broker

import (
	"context"
	"errors"
	"strings"
	"time"
)

// prepare is what is between a staged secret and its verification: a provider that
// takes time, or one that has to be told first.
func (run *rotationRun) prepare(ctx context.Context) error {
	_, traits, err := run.rotator(run.c)
	if err != nil && run.r.Shape != ShapeByHand && run.r.Shape != ShapeOverlapping {
		run.callOperator("verify", err)
		return run.save(ctx)
	}
	if run.r.Shape == ShapeKeyPair && run.r.NextTime.IsZero() { // a refusal is certain until the key is known there
		run.r.NextTime = run.r.StageTime.Add(run.propagation(traits))
		return run.save(ctx)
	}
	if run.r.Shape == ShapeActivated && !traits.WorksBeforeActivation && !run.r.Activated {
		return run.activate(ctx)
	}
	return run.becomes(ctx, RotationVerifying, "verify")
}

// verify gets the next token with the new secret.
func (run *rotationRun) verify(ctx context.Context) error {
	pending, ok := run.c.Secret(run.r.SecretVersion)
	if !ok {
		return nil // follow says what that means
	}
	_, err := run.verifyOnce(ctx, pending)
	switch {
	case errors.Is(err, errLeaseLost):
		return err
	case err == nil && run.r.Verified < run.r.Required:
		run.r.NextTime = time.Now().UTC().Add(run.c.Rotation.verifySpacing())
		return run.save(ctx)
	case err == nil:
		if _, err := run.noteVerified(ctx, run.c, pending); err != nil && ReasonOf(err) != ReasonConcurrentChange {
			return err
		} else if err != nil {
			return nil // somebody changed the client: look again
		}
		return run.becomes(ctx, RotationVerified, "verify")
	case outage(err), ours(ReasonOf(err)):
		return err
	}
	run.refused(err)
	return run.save(ctx)
}

// ours reports whether a failure says nothing of the secret that was tried.
func ours(reason Reason) bool {
	switch reason {
	case ReasonShuttingDown, ReasonDeadlineExceeded, ReasonTooManyRequests, ReasonConcurrentChange, ReasonInternal:
		return true
	}
	return strings.HasPrefix(string(reason), "STORE_")
}

// unreadable reports whether err says that a value is not what was staged.
func unreadable(err error) bool {
	switch ReasonOf(err) {
	case ReasonSecretAbsent, ReasonSecretDeleted, ReasonSecretDestroyed, ReasonSecretPruned, ReasonSecretChangedOutside, ReasonDestinationNotBound, ReasonSecretUnusable:
		return true
	}
	return false
}

// refused decides what a failed verification means.
func (run *rotationRun) refused(err error) {
	_, traits, _ := run.rotator(run.c)
	since := run.r.StageTime
	if run.r.ActivateTime.After(since) {
		since = run.r.ActivateTime
	}
	settled := time.Since(since) >= run.propagation(traits)
	rejection := !transient(ReasonOf(err)) && ReasonOf(err) != ReasonUpstreamRateLimited && AsError(err).RetryAfter == 0
	switch {
	case !rejection || !settled:
		run.retry("verify", err, 0)
	case run.r.Replaced:
		run.callOperator("verify", err) // the old one is dead: giving the new one up would help nobody
	default:
		run.r.fail("verify", err)
		reason, detail := run.r.Reason, run.r.Detail
		run.r.EndAs = RotationFailed
		run.r.move(RotationAborting, "verify")
		run.r.Reason, run.r.Detail = reason, detail
	}
}

// propagation is how long a refusal of a new secret proves nothing.
func (run *rotationRun) propagation(traits RotatorTraits) time.Duration {
	return orDefault(run.c.Rotation.Propagation, traits.Propagation)
}

// verifyOnce gets one token with the pending secret.
func (run *rotationRun) verifyOnce(ctx context.Context, pending SecretVersion) (*Token, error) {
	key, err := keyOf(run.c, TokenQuery{})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	token, err := run.requestWith(limited, run.c, pending, key)
	if err != nil {
		run.r.Verified = 0
		return nil, err
	}
	if run.c.Upstream.SingleActiveToken { // it has ended the one that all hold
		run.publish(ctx, run.c, key, token)
	}
	run.r.Verified++
	run.r.TokenLifetime = max(run.r.TokenLifetime, token.lifetime())
	return token, run.save(ctx)
}
