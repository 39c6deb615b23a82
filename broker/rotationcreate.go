package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// SecretMaker is a [Rotator] that makes the secrets it takes by itself, such as key
// pairs. For others the broker makes 256 random bits, in base64url.
type SecretMaker interface {
	// MakeSecret returns a new secret and, if the provider calls it by one, its handle.
	// It speaks to nobody.
	MakeSecret(call RotatorCall) (value secret.Value, handle string, err error)
}

// create has the provider make a new secret, or finds out what became of the last try.
func (run *rotationRun) create(ctx context.Context) error {
	rotator, traits, err := run.rotator(run.c)
	if err != nil {
		run.callOperator("create", err)
		return run.save(ctx)
	}
	if wait := run.accountBusy(ctx); wait > 0 && run.r.Intent == intendNothing {
		run.r.NextTime = time.Now().UTC().Add(wait)
		return run.save(ctx)
	}
	if traits.Shape == ShapeReplaced && run.r.Intent == intendNothing {
		if err := run.bridge(ctx); err != nil {
			run.retry("bridge", err, 0)
			return run.save(ctx)
		}
	}
	call, err := run.rotatorCall(ctx, traits)
	if err != nil {
		return run.outsideFailed(ctx, "create", err)
	}
	if traits.TakesChosen {
		return run.createChosen(ctx, rotator, call)
	}
	if run.r.Intent == intendCreate {
		return run.recover(ctx, rotator, call)
	}
	run.r.Intent = intendCreate
	if err := run.save(ctx); err != nil {
		return err
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	created, err := rotator.Create(limited, call)
	if err == nil {
		return run.keep(ctx, created, traits)
	}
	if known(err) {
		run.r.Intent = intendNothing
	}
	return run.outsideFailed(ctx, "create", err)
}

// recover finds out what became of a Create whose answer is not known.
func (run *rotationRun) recover(ctx context.Context, rotator Rotator, call RotatorCall) error {
	limited, cancel := run.outside(ctx)
	defer cancel()
	found, err := rotator.Recover(limited, call)
	if err != nil {
		return run.outsideFailed(ctx, "recover", err)
	}
	switch found.Outcome {
	case CreateNotDone:
		run.r.Intent = intendNothing
		run.r.note(time.Now().UTC(), "recover", "")
		return run.save(ctx)
	case CreateDone:
		return run.keep(ctx, found.Created, rotator.Traits(run.c.Rotation))
	case CreateLost:
		run.r.fail("recover", newError(ReasonUpstreamSecretLost, run.c.ID, ""))
		reason := run.r.Reason
		run.r.Replaced = true
		run.r.move(RotationFailed, "recover")
		run.r.Reason = reason
		run.log.ErrorContext(ctx, "the provider has replaced a secret that nobody knows", "client", run.c.ID, "rotation", run.r.ID)
	default:
		run.callOperator("recover", newError(ReasonRotatorOutcomeUnknown, run.c.ID, ""))
	}
	return run.save(ctx)
}

// keep stores a secret that the provider made: until that is done it is in memory only,
// so a store that is away is asked again for as long as the process lives.
func (run *rotationRun) keep(ctx context.Context, created CreatedSecret, traits RotatorTraits) error {
	defer created.Value.Wipe()
	s := staging{
		id: run.c.ID, rotationID: run.r.ID, handle: created.Handle, made: true,
		input: SecretInput{Value: created.Value, ExpireTime: created.ExpireTime, Registration: created.Registration},
	}
	if traits.NeedsRegistration && created.Registration.IsZero() {
		s.input.Registration = run.registration(ctx)
	}
	if sameOrigin(created.RegistrationEndpoint, run.c.Rotation.Endpoint) {
		s.endpoint = created.RegistrationEndpoint
	}
	version, err := run.stage(ctx, s)
	for wait := pollBegin; err != nil; wait = min(2*wait, 5*time.Second) {
		reason := ReasonOf(err)
		if !outage(err) && reason != ReasonStoreAnswerLost && reason != ReasonConcurrentChange && reason != ReasonStoreConflict || !sleep(ctx, wait) {
			break
		}
		if version, err = run.stagedAlready(ctx); err != nil {
			version, err = run.stage(ctx, s)
		}
	}
	switch {
	case ReasonOf(err) == ReasonSecretUnchanged: // it made the same one again
		run.r.Intent = intendNothing
		run.callOperator("create", newError(ReasonRotatorRefused, run.c.ID, "the provider returned the present secret"))
		return run.save(ctx)
	case err != nil && !outage(err) && ReasonOf(err) != ReasonStoreSealed && ReasonOf(err) != ReasonShuttingDown:
		run.callOperator("stage", err) // the intent stays: what was made is found out anew
		return run.save(ctx)
	case err != nil:
		return err
	}
	run.r.Replaced = traits.Shape == ShapeReplaced
	run.r.staged(version, "create")
	return run.save(ctx)
}

// stagedAlready finds the version that a write of unknown outcome staged.
func (run *rotationRun) stagedAlready(ctx context.Context) (SecretVersion, error) {
	c, err := run.GetClient(ctx, run.c.ID)
	if err != nil {
		return SecretVersion{}, err
	}
	if pending, ok := c.Staged(Pending); ok && pending.RotationID == run.r.ID {
		return pending, nil
	}
	return SecretVersion{}, newError(ReasonSecretNotSet, run.c.ID, "")
}

// registration is the registration access token that stays.
func (run *rotationRun) registration(ctx context.Context) secret.Value {
	current, ok := run.c.Staged(Current)
	if !ok {
		return secret.Value{}
	}
	value, registration, err := run.readWithRegistration(ctx, run.c, current)
	value.Wipe()
	if err != nil {
		return secret.Value{}
	}
	return registration
}

func sameOrigin(a, b string) bool {
	x, err := Origin(a)
	y, other := Origin(b)
	return err == nil && other == nil && x == y
}

// createChosen tells the provider a secret that the broker has made and stored before,
// so that telling it again is all that a lost answer takes.
func (run *rotationRun) createChosen(ctx context.Context, rotator Rotator, call RotatorCall) error {
	if pending, err := run.stagedAlready(ctx); err == nil {
		run.r.staged(pending, "create")
		return run.save(ctx)
	} else if ReasonOf(err) != ReasonSecretNotSet {
		return err
	}
	if run.r.Made == nil {
		value, handle, err := makeSecret(rotator, call)
		if err != nil {
			return run.outsideFailed(ctx, "create", err)
		}
		version, err := run.writeSecret(ctx, run.c, SecretInput{Value: value})
		value.Wipe()
		if err != nil {
			return err
		}
		version.RotationID, version.Handle = run.r.ID, handle
		run.r.Made = &version
		if err := run.save(ctx); err != nil {
			return err
		}
	}
	var err error
	if call.New, err = run.readSecret(ctx, run.c, *run.r.Made); err != nil {
		return run.outsideFailed(ctx, "create", err)
	}
	defer call.New.Wipe()
	call.Handle = run.r.Made.Handle
	run.r.Intent = intendCreate
	if err := run.save(ctx); err != nil {
		return err
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	created, err := rotator.Create(limited, call)
	if err != nil {
		return run.outsideFailed(ctx, "create", err)
	}
	made := *run.r.Made
	made.Handle, made.ExpireTime = orElse(created.Handle, made.Handle), created.ExpireTime.UTC()
	c := run.c.clone()
	if err := c.roomFor(Pending); err != nil {
		run.callOperator("stage", err)
		return run.save(ctx)
	}
	if made.Number < c.NextVersion { // somebody staged another one since
		run.r.Made = nil
		return run.save(ctx)
	}
	pending, err := run.commitStaged(ctx, c, made)
	if err != nil {
		if ReasonOf(err) == ReasonConcurrentChange {
			run.r.Made = nil // its value went with the lost write
			return run.save(ctx)
		}
		return err
	}
	run.r.Replaced = run.r.Shape == ShapeReplaced
	run.r.staged(pending, "create")
	return run.save(ctx)
}

func makeSecret(rotator Rotator, call RotatorCall) (secret.Value, string, error) {
	if maker, ok := rotator.(SecretMaker); ok {
		return maker.MakeSecret(call)
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return secret.NewString(base64.RawURLEncoding.EncodeToString(random)), "", nil
}
