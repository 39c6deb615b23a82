package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	err := run.testFirst(ctx, pending)
	if err == nil {
		_, err = run.verifyOnce(ctx, pending)
	}
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
	key, err := run.c.keyAlone()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	token, err := run.requestWith(limited, run.c, pending, tokenAsk{tokenKey: key})
	if err != nil {
		run.r.Verified = 0
		return nil, run.explained(ctx, pending, err)
	}
	if run.c.Upstream.SingleActiveToken { // it has ended the one that all hold
		run.publish(ctx, run.c, key, token)
	}
	run.r.Verified++
	run.r.TokenLifetime = max(run.r.TokenLifetime, token.lifetime())
	return token, run.save(ctx)
}

// testFirst has a rotator that can try secrets in a way of its own do so, before the
// first token is asked for.
func (run *rotationRun) testFirst(ctx context.Context, pending SecretVersion) error {
	rotator, traits, err := run.rotator(run.c)
	tester, ok := rotator.(SecretTester)
	if err != nil || !ok || run.r.Verified > 0 {
		return nil
	}
	call, err := run.rotatorCall(ctx, traits)
	if err != nil {
		return err
	}
	if call.New, err = run.readSecret(ctx, run.c, pending); err != nil {
		return err
	}
	defer call.New.Wipe()
	call.Handle = pending.Handle
	limited, cancel := run.outside(ctx)
	defer cancel()
	return tester.TestSecret(limited, call)
}

// VerifySecret gets tokens with the pending secret, asking for the client's defaults,
// as many in a row as its rotation settings say, and notes the success in the record.
// number 0 means whichever is pending. A rotation that goes on by itself and needed an
// operator goes on when this succeeds.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, ROTATION_UNDER_WAY,
// CONCURRENT_CHANGE, ISSUANCE_BUDGET_SPENT, a reason of the store or of the
// authorization server.
func (b *Broker) VerifySecret(ctx context.Context, id string, number int64) (SecretVersion, []Warning, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, nil, err
	}
	pending, err := c.pending(number)
	if err != nil {
		return SecretVersion{}, nil, err
	}
	run, err := b.takeByHand(ctx, c)
	if err != nil {
		return SecretVersion{}, nil, err
	}
	verified, warnings, err := run.verifyByHand(ctx, pending)
	run.release(ctx)
	if err == nil && run.r.goesOn() {
		_, err = b.goes(ctx, c, run.r)
	}
	return verified, warnings, err
}

func (run *rotationRun) verifyByHand(ctx context.Context, pending SecretVersion) (SecretVersion, []Warning, error) {
	state, resume := run.r.State, run.r.Resume
	if err := run.becomes(ctx, RotationVerifying, "verify"); err != nil {
		return SecretVersion{}, nil, err
	}
	fail := func(err error) (SecretVersion, []Warning, error) {
		run.r.fail("verify", err)
		reason, detail := run.r.Reason, run.r.Detail
		next := RotationStaged
		if state == RotationNeedsOperator {
			next = state
		}
		run.r.move(next, "verify")
		run.r.Reason, run.r.Detail = reason, detail
		if next == RotationNeedsOperator {
			run.r.Resume = resume
		}
		return SecretVersion{}, nil, fmt.Errorf("verify secret version %d: %w", pending.Number, err)
	}
	var warnings []Warning
	for run.r.Verified = 0; run.r.Verified < run.r.Required; {
		token, err := run.verifyOnce(ctx, pending)
		if err != nil {
			return fail(err)
		}
		warnings = token.warnings
		if run.r.Verified == run.r.Required {
			break
		}
		if err := run.pause(ctx, run.c.Rotation.verifySpacing()); err != nil {
			return fail(err)
		}
	}
	verified, err := run.noteVerified(ctx, run.c, pending)
	if err != nil {
		return fail(err)
	}
	run.r.move(RotationVerified, "verify")
	return verified, warnings, nil
}

// noteVerified puts into the client record that the pending version works.
func (b *Broker) noteVerified(ctx context.Context, c *Client, pending SecretVersion) (SecretVersion, error) {
	if err := b.unpark(ctx, c); err != nil { // whoever has a good secret is at work on what was rejected
		b.log.WarnContext(ctx, "client stays parked", "client", c.ID, "reason", ReasonOf(err))
	}
	c, err := b.change(ctx, c.ID, c.Etag(), func(c *Client) (bool, error) {
		i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == pending.Number })
		c.Secrets[i].VerifyTime = time.Now().UTC()
		return true, nil
	})
	if ReasonOf(err) == ReasonEtagMismatch { // the caller named no etag: say what it can act on
		err = newError(ReasonConcurrentChange, "", "while the secret was verified")
	}
	if err != nil {
		return SecretVersion{}, err
	}
	verified, _ := c.Secret(pending.Number)
	return verified, nil
}
