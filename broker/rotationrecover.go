package broker

import (
	"context"
	"strings"
	"time"
)

// recover finds out what became of a Create whose answer is not known.
func (run *rotationRun) recover(ctx context.Context, rotator Rotator, call RotatorCall) error {
	limited, cancel := run.outside(ctx)
	defer cancel()
	found, err := rotator.Recover(limited, call)
	if found.Outcome != CreateDone {
		if err := run.keepRegistration(ctx, found.Created); err != nil {
			return err
		}
	}
	if err != nil {
		return run.outsideFailed(ctx, "recover", err)
	}
	switch found.Outcome {
	case CreateNotDone:
		run.r.Intent = intendNothing
		run.r.note(time.Now().UTC(), "recover", "")
		if run.r.Forced { // somebody has aborted it, and there is a way back
			run.r.move(RotationAborted, "abort")
		}
	case CreateDone:
		return run.keep(ctx, found.Created, rotator.Traits(run.c.Rotation), call.Registration)
	case CreateLost:
		return run.lost(ctx)
	default:
		err := newError(ReasonRotatorOutcomeUnknown, run.c.ID, "")
		if run.r.EndAs != RotationAborted {
			run.callOperator("recover", err)
			break
		}
		run.r.move(RotationAborted, "abort") // by somebody who was told what is not known
		run.r.Reason, run.r.Detail = err.Reason, err.Detail
	}
	return run.save(ctx)
}

// lost finds out whether the secret that a provider seems to have replaced works still,
// in which case only the way to its management is lost.
func (run *rotationRun) lost(ctx context.Context) error {
	current, ok := run.c.Staged(Current)
	key, err := run.c.keyAlone()
	if ok && err == nil {
		limited, cancel := context.WithTimeout(ctx, mintTimeout)
		defer cancel()
		_, err = run.requestWith(limited, run.c, current, tokenAsk{tokenKey: key})
	}
	switch reason := ReasonOf(err); {
	case ok && err == nil:
		run.r.Intent = intendNothing
		run.callOperator("recover", newError(ReasonRotatorUnauthorized, run.c.ID, "the present secret works still; only what opens its management is not accepted any more"))
	case ok && reason != ReasonClientRejected && !unreadable(err):
		return run.outsideFailed(ctx, "recover", err)
	default:
		run.r.fail("recover", newError(ReasonUpstreamSecretLost, run.c.ID, ""))
		run.r.Replaced = true
		run.r.move(RotationFailed, "recover")
		run.r.Reason = ReasonUpstreamSecretLost
	}
	return run.save(ctx)
}

// keepRegistration keeps a registration access token that came without a new secret:
// the one from before opens nothing any more (RFC 7592 §2.1), and nobody else has this
// one, so a store that is away and a change of the client are waited for.
func (run *rotationRun) keepRegistration(ctx context.Context, created CreatedSecret) error {
	if created.Registration.IsZero() {
		return nil
	}
	for wait := pollBegin; ; wait = min(2*wait, maxKeepPause) {
		err := run.replaceRegistration(ctx, created)
		reason := ReasonOf(err)
		again := outage(err) || strings.HasPrefix(string(reason), "STORE_") || reason == ReasonConcurrentChange
		if err == nil {
			run.r.note(time.Now().UTC(), "keep the registration token", "")
			return run.save(ctx)
		}
		if !again || !sleep(ctx, wait) {
			return err
		}
		c, err := run.GetClient(ctx, run.c.ID)
		if err == nil {
			run.c = c
		}
	}
}

// replaceRegistration makes the present secret a version of its own with the new token,
// current in place of the present one: a value is written once.
func (run *rotationRun) replaceRegistration(ctx context.Context, created CreatedSecret) error {
	current, ok := run.c.Staged(Current)
	if !ok {
		return nil
	}
	value, registration, err := run.readWithRegistration(ctx, run.c, current)
	if err != nil {
		return err
	}
	defer value.Wipe()
	if registration.Equal(created.Registration) { // the answer to our write was lost
		run.r.ReplacedVersion = current.Number
		return nil
	}
	c := run.c.clone()
	if sameOrigin(created.RegistrationEndpoint, c.Rotation.Endpoint) {
		c.Rotation.Endpoint = created.RegistrationEndpoint
	}
	version, err := run.writeSecret(ctx, c, SecretInput{Value: value, ExpireTime: current.ExpireTime, Registration: created.Registration, KeepTrailingSpace: true})
	if err != nil {
		return err
	}
	version.RotationID, version.Handle = run.r.ID, current.Handle
	version.Stage, version.VerifyTime, version.PromoteTime = Current, current.VerifyTime, current.PromoteTime
	c.relabel(current.Number, Unlabelled)
	c.beginDestroying(current.Number)
	c.addVersion(version)
	if c, err = run.commit(ctx, c); err != nil {
		return err
	}
	run.c, run.r.ReplacedVersion = c, version.Number
	if c, err = run.destroySecret(ctx, c, current.Number); err == nil { // else the crawler ends it
		run.c = c
	}
	return nil
}
