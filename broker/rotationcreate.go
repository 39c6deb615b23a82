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

// rotator returns what changes c's secret at its provider. ROTATOR_NOT_SET.
func (b *Broker) rotator(c *Client) (Rotator, RotatorTraits, error) {
	if c.Rotation.Rotator == "" {
		return nil, RotatorTraits{}, newError(ReasonRotatorNotSet, c.ID, "")
	}
	rotator, ok := b.rotators[c.Rotation.Rotator]
	if !ok {
		return nil, RotatorTraits{}, newError(ReasonRotatorNotSet, c.ID, "there is no rotator %q here", truncate(c.Rotation.Rotator, 64))
	}
	return rotator, rotator.Traits(c.Rotation), nil
}

// shapeOf says how c's provider changes secrets.
func (b *Broker) shapeOf(c *Client) Shape {
	if _, traits, err := b.rotator(c); err == nil {
		return traits.Shape
	}
	if c.Rotation.OverlappingSecrets {
		return ShapeOverlapping
	}
	return ShapeByHand
}

// rotatorCall is what all calls of this rotation have in common. It reads the current
// secret and gets the management client's token, as the traits ask.
func (run *rotationRun) rotatorCall(ctx context.Context, traits RotatorTraits) (RotatorCall, error) {
	return run.callFor(ctx, run.c, run.r.ID, traits)
}

func (b *Broker) callFor(ctx context.Context, c *Client, token string, traits RotatorTraits) (RotatorCall, error) {
	call := RotatorCall{
		Token: token, ClientID: c.Upstream.ClientID, ID: c.ID, UID: c.UID, TokenEndpoint: c.Upstream.TokenEndpoint,
		Authentication: c.Upstream.Authentication, Settings: c.Rotation,
	}
	var err error
	if current, ok := c.Staged(Current); ok {
		call.CurrentHandle, call.Destinations = current.Handle, current.Destinations
		if call.Current, call.Registration, err = b.readWithRegistration(ctx, c, current); err != nil && traits.NeedsRegistration {
			return RotatorCall{}, err
		}
	}
	if traits.NeedsRegistration && call.Registration.IsZero() {
		return RotatorCall{}, newError(ReasonRotatorNotSet, c.ID, "no registration access token is kept with the current secret; stage one with it")
	}
	if traits.NeedsManagement {
		call.Management, call.Destinations, err = b.managementToken(ctx, c)
	}
	return call, err
}

// managementToken gets the token of c's management client, and where it may be sent.
func (b *Broker) managementToken(ctx context.Context, c *Client) (secret.Value, []string, error) {
	id := c.Rotation.ManagementClient
	if id == "" {
		return secret.Value{}, nil, newError(ReasonRotatorNotSet, c.ID, "the rotator needs rotation.management_client")
	}
	origin, err := Origin(c.Rotation.Endpoint)
	if err != nil {
		return secret.Value{}, nil, newError(ReasonRotatorNotSet, c.ID, "the rotator needs rotation.endpoint")
	}
	token, _, err := b.GetToken(ctx, TokenQuery{ClientID: id})
	if err != nil {
		e := AsError(err)
		return secret.Value{}, nil, &Error{Reason: e.Reason, Op: "get the management client's token", Client: id, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	manager, err := b.GetClient(ctx, id)
	if err != nil {
		return secret.Value{}, nil, err
	}
	version, ok := manager.Secret(token.SecretVersion)
	if !ok {
		return secret.Value{}, nil, newError(ReasonConcurrentChange, id, "its secret changed while a token was requested")
	}
	for _, o := range version.TokenDestinations {
		if o == origin {
			return token.Access, version.TokenDestinations, nil
		}
	}
	return secret.Value{}, nil, newError(ReasonDestinationNotBound, id, "its tokens are bound to %v, not to %s; name that in token_destinations and give the secret anew", version.TokenDestinations, origin)
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

// known reports whether a failed call to a provider surely has had no effect.
func known(err error) bool {
	var unsent *UnsentError
	if errors.As(err, &unsent) {
		return true
	}
	switch ReasonOf(err) {
	case ReasonRotatorRefused, ReasonRotatorUnauthorized, ReasonUpstreamRateLimited, ReasonDestinationNotBound, ReasonUpstreamAddressRefused, ReasonUpstreamDNS:
		return true
	}
	return false
}

// outsideFailed decides what a failed call to a provider means.
func (run *rotationRun) outsideFailed(ctx context.Context, step string, err error) error {
	switch reason := ReasonOf(err); {
	case reason == ReasonShuttingDown:
		return err
	case outage(err) || reason == ReasonStoreSealed:
		return err
	case reason == ReasonRotatorRefused, reason == ReasonRotatorUnauthorized, reason == ReasonRotatorNotSet, reason == ReasonDestinationNotBound,
		reason == ReasonUpstreamAddressRefused, unreadable(err):
		run.callOperator(step, err)
	default:
		run.retry(step, err, 0)
	}
	return run.save(ctx)
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
		value, err := maker.MakeSecret(call)
		return value, "", err
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return secret.NewString(base64.RawURLEncoding.EncodeToString(random)), "", nil
}

// activate tells the provider to take the new secret, which ends the replaced one.
func (run *rotationRun) activate(ctx context.Context) error {
	rotator, traits, err := run.rotator(run.c)
	if err != nil {
		run.callOperator("activate", err)
		return run.save(ctx)
	}
	if err := run.bridge(ctx); err != nil && run.r.Intent == intendNothing {
		run.retry("bridge", err, 0)
		return run.save(ctx)
	}
	call, err := run.rotatorCall(ctx, traits)
	if err != nil {
		return run.outsideFailed(ctx, "activate", err)
	}
	version, _ := run.c.Secret(run.r.SecretVersion)
	if call.New, err = run.readSecret(ctx, run.c, version); err != nil {
		return run.outsideFailed(ctx, "activate", err)
	}
	defer call.New.Wipe()
	call.Handle = version.Handle
	run.r.Intent, run.r.Replaced = intendActivate, true // from here on it may have been ended
	if err := run.save(ctx); err != nil {
		return err
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	if err := rotator.Activate(limited, call); err != nil { // doing so twice succeeds
		if known(err) {
			run.r.Intent, run.r.Replaced = intendNothing, false
		}
		return run.outsideFailed(ctx, "activate", err)
	}
	run.r.Intent, run.r.Activated, run.r.Attempts = intendNothing, true, 0
	run.r.note(time.Now().UTC(), "activate", "")
	return run.save(ctx)
}

// bridge has tokens made with the secret that is about to end, for all keys that have
// one: callers live on them until the new secret is current.
func (run *rotationRun) bridge(ctx context.Context) error {
	if run.r.Bridged || run.c.Rotation.TokensEndWithSecret || run.c.usable() != nil {
		return nil
	}
	queries, err := run.liveQueries(ctx, run.c)
	if err != nil {
		return err
	}
	for _, q := range queries {
		if _, _, err := run.GetToken(ctx, q); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	run.r.Bridged = true
	if len(queries) > 0 {
		run.r.note(time.Now().UTC(), "bridge", "")
	}
	return run.save(ctx)
}

// liveQueries returns a query for each live token of c, that asks for another one.
func (b *Broker) liveQueries(ctx context.Context, c *Client) ([]TokenQuery, error) {
	now, found := time.Now(), map[string]TokenQuery{}
	add := func(q TokenQuery, id string) {
		q.ClientID, q.RejectedTokenID = c.ID, id
		if _, err := keyOf(c, q); err == nil {
			found[strings.Join(q.Scopes, " ")+"\x00"+q.Audience+"\x00"+strings.Join(q.Resources, " ")] = q
		}
	}
	folder := "tokens/" + c.UID + "/"
	names, err := b.store.List(ctx, folder)
	if err != nil {
		return nil, err
	}
	keys, err := b.sealer(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := folder + strings.TrimSuffix(name, "/")
		r, _, err := b.readToken(ctx, c, path)
		if err != nil {
			return nil, err
		}
		if r.Token == nil || !r.Token.ExpireTime.After(now) {
			continue
		}
		if shared, err := r.Token.open(keys, path); err == nil && shared.Query != nil {
			add(*shared.Query, secret.NewString(shared.Access).ID())
		}
	}
	for key, t := range b.tokens.All() {
		if key.uid == c.UID && t.aliveAt(now) {
			add(key.query(c.ID), t.ID)
		}
	}
	queries := make([]TokenQuery, 0, len(found))
	for _, q := range found {
		queries = append(queries, q)
	}
	return queries, nil
}
