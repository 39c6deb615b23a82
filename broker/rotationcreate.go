package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

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
	if err := run.c.roomFor(Pending); err != nil && run.r.Intent == intendNothing { // what is made must have a place
		run.callOperator("create", err)
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
		return run.keep(ctx, created, traits, call.Registration)
	}
	if err := run.keepRegistration(ctx, created); err != nil {
		return err
	}
	if known(err) {
		run.r.Intent = intendNothing
	}
	return run.outsideFailed(ctx, "create", err)
}

// keep stores a secret that the provider made: until that is done it is in memory only.
// registration is the token that opens its management unless another one came with it.
func (run *rotationRun) keep(ctx context.Context, created CreatedSecret, traits RotatorTraits, registration secret.Value) error {
	defer created.Value.Wipe()
	s := staging{
		id: run.c.ID, rotationID: run.r.ID, handle: created.Handle, made: true,
		input: SecretInput{Value: created.Value, ExpireTime: created.ExpireTime, Registration: created.Registration, KeepTrailingSpace: true},
	}
	if traits.NeedsRegistration && created.Registration.IsZero() {
		s.input.Registration = registration
	}
	if sameOrigin(created.RegistrationEndpoint, run.c.Rotation.Endpoint) {
		s.endpoint = created.RegistrationEndpoint
	}
	version, err := run.stageMade(ctx, s)
	switch {
	case errors.Is(err, errLeaseLost), ctx.Err() != nil && err != nil:
		return err
	case ReasonOf(err) == ReasonSecretUnchanged: // it made the same one again
		run.r.Intent = intendNothing
		run.callOperator("create", newError(ReasonRotatorRefused, run.c.ID, "the provider returned the present secret"))
		return run.save(ctx)
	case err != nil:
		run.callOperator("stage", err) // the intent stays: what was made is found out anew
		return run.save(ctx)
	}
	run.r.staged(version, "create")
	return run.save(ctx)
}

// stageMade stages a secret that nobody else has. A store that is away is asked again
// for as long as ctx and the lease last; where the provider has ended the present
// secret for it, for as long as ctx does.
func (run *rotationRun) stageMade(ctx context.Context, s staging) (SecretVersion, error) {
	for wait := pollBegin; ; wait = min(2*wait, maxKeepPause) {
		if err := run.stillMine(ctx); err != nil {
			return SecretVersion{}, err
		}
		version, err := run.stage(ctx, s)
		reason := ReasonOf(err)
		again := outage(err) || strings.HasPrefix(string(reason), "STORE_") || reason == ReasonConcurrentChange
		if err == nil || !again || !sleep(ctx, wait) {
			return version, err
		}
		if version, err = run.stagedAlready(ctx); err == nil {
			return version, nil
		}
	}
}

// maxKeepPause is the longest pause between tries to store what a provider made.
const maxKeepPause = 5 * time.Second

// stillMine extends a lease that is about to end. A successor has the provider remove
// what nobody seems to have got, so a late holder must not store it any more; but where
// the present secret has ended and the successor has found nothing to take its place,
// what the late holder has is all there is.
func (run *rotationRun) stillMine(ctx context.Context) error {
	if time.Since(run.sent) < rotationLease-leaseMargin {
		return nil
	}
	err := run.save(ctx)
	if err == nil || outage(err) {
		return nil
	}
	if !errors.Is(err, errLeaseLost) || run.r.Shape != ShapeReplaced {
		return err
	}
	if r, _, readErr := run.readRotation(ctx, run.c); readErr == nil && (r == nil || r.ID != run.r.ID || r.SecretVersion != 0) {
		return err
	}
	return nil
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
		if err := run.makeChosen(ctx, rotator, call); err != nil {
			return run.outsideFailed(ctx, "create", err)
		}
	}
	var err error
	if call.New, err = run.readSecret(ctx, run.c, *run.r.Made); unreadable(err) {
		run.r.Made = nil // somebody removed it: the next one takes its place at the provider
		run.retry("create", err, 0)
		return run.save(ctx)
	} else if err != nil {
		return err
	}
	defer call.New.Wipe()
	call.Handle = run.r.Made.Handle
	created, done, err := run.tellChosen(ctx, rotator, call)
	if err != nil || !done {
		return err
	}
	made := *run.r.Made
	made.Handle, made.ExpireTime = orElse(created.Handle, made.Handle), created.ExpireTime.UTC()
	pending, err := run.commitMade(ctx, made)
	if ReasonOf(err) == ReasonTooManySecretVersions {
		run.callOperator("stage", err)
		return run.save(ctx)
	}
	if err != nil {
		return err
	}
	run.r.staged(pending, "create")
	return run.save(ctx)
}

// tellChosen tells the provider the chosen secret, after it has found out what became
// of the last try, and reports whether the provider has it.
func (run *rotationRun) tellChosen(ctx context.Context, rotator Rotator, call RotatorCall) (created CreatedSecret, done bool, err error) {
	if run.r.Intent == intendCreate {
		limited, cancel := run.outside(ctx)
		defer cancel()
		found, err := rotator.Recover(limited, call)
		switch {
		case err != nil:
			return CreatedSecret{}, false, run.outsideFailed(ctx, "recover", err)
		case found.Outcome == CreateDone:
			return found.Created, true, nil
		case found.Outcome != CreateNotDone && run.r.Shape != ShapeReplaced: // where it is replaced, telling it again is harmless
			run.callOperator("recover", newError(ReasonRotatorOutcomeUnknown, run.c.ID, ""))
			return CreatedSecret{}, false, run.save(ctx)
		}
	}
	run.r.Intent = intendCreate
	if err := run.save(ctx); err != nil {
		return CreatedSecret{}, false, err
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	if created, err = rotator.Create(limited, call); err == nil {
		return created, true, nil
	}
	if known(err) {
		run.r.Intent = intendNothing
	}
	return CreatedSecret{}, false, run.outsideFailed(ctx, "create", err)
}

// makeChosen makes a secret, stores it and notes that in the journal.
func (run *rotationRun) makeChosen(ctx context.Context, rotator Rotator, call RotatorCall) error {
	value, err := makeSecret(rotator, call)
	if err != nil {
		return err
	}
	defer value.Wipe()
	version, err := run.writeSecret(ctx, run.c, SecretInput{Value: value})
	if err != nil {
		return err
	}
	version.RotationID = run.r.ID
	run.r.Made = &version
	return run.save(ctx)
}

// commitMade makes a version pending whose value the provider knows already: it must
// not get lost in a race with a change of the client.
func (run *rotationRun) commitMade(ctx context.Context, made SecretVersion) (SecretVersion, error) {
	for wait := pollBegin; ; wait = min(2*wait, pollMost) {
		present, err := run.GetClient(ctx, run.c.ID)
		if err != nil {
			return SecretVersion{}, err
		}
		if version, there := present.Secret(made.Number); there {
			return version, nil
		}
		c := present.clone()
		if err := c.roomFor(Pending); err != nil {
			return SecretVersion{}, err
		}
		c.addVersion(made)
		c.added = 0 // the journal names the value: another revision that wins does not make it unnamed
		c.relabel(made.Number, Pending)
		if c, err = run.commit(ctx, c); err == nil {
			version, _ := c.Secret(made.Number)
			return version, nil
		}
		if ReasonOf(err) != ReasonConcurrentChange || !sleep(ctx, wait) {
			return SecretVersion{}, err
		}
	}
}

func makeSecret(rotator Rotator, call RotatorCall) (secret.Value, error) {
	if maker, ok := rotator.(SecretMaker); ok {
		return maker.MakeSecret(call)
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return secret.NewString(base64.RawURLEncoding.EncodeToString(random)), nil
}
