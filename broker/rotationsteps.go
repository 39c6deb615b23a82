package broker

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// StageSecret stores a secret as the pending version and begins a rotation that waits
// for the next step. Value first, record second, as in CreateClient. requestID, if not
// empty, makes a repetition return the version that the first one staged.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, ROTATION_UNDER_WAY,
// SECRET_UNCHANGED, SECRET_UNUSABLE, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, a
// WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) StageSecret(ctx context.Context, id string, input SecretInput, requestID string) (SecretVersion, error) {
	version, err := b.stage(ctx, staging{id: id, requestID: requestID, rotationID: newID(), input: input})
	if err == nil && version.Stage == Pending {
		b.noteStaged(ctx, id, input.source())
	}
	return version, err
}

// noteStaged writes the journal of what was staged by hand.
func (b *Broker) noteStaged(ctx context.Context, id string, source SecretSource) {
	c, err := b.GetClient(ctx, id)
	switch {
	case err != nil:
	case source == SourceRequest:
		b.noteRotation(ctx, c, nil, nil)
	default:
		b.noteRotation(ctx, c, nil, func(r *rotationRecord) { r.Source = source })
	}
}

// staging is a secret that is to become pending.
type staging struct {
	id, requestID, rotationID string
	input                     SecretInput
	// handle is what the provider calls it; endpoint, if not empty, the client's
	// registration_client_uri from now on.
	handle, endpoint string
	// made says that the broker's own rotation brings it.
	made bool
}

func (b *Broker) stage(ctx context.Context, s staging) (SecretVersion, error) {
	var v violations
	checkInput(&v, "secret", s.input)
	checkRequestID(&v, s.requestID)
	if err := v.err(); err != nil {
		return SecretVersion{}, err
	}
	read := b.clientToChange
	if s.made { // it may be all that the provider takes, and who is deleted can be undeleted
		read = func(ctx context.Context, id, _ string) (*Client, error) { return b.GetClient(ctx, id) }
	}
	present, err := read(ctx, s.id, "")
	if err != nil {
		return SecretVersion{}, err
	}
	if staged, ok := present.stagedBy(s.requestID); ok {
		return staged, nil
	}
	if !s.made {
		if err := b.noneUnderWay(ctx, present); err != nil {
			return SecretVersion{}, err
		}
	}
	c := present.clone()
	if err := c.roomFor(Pending); err != nil {
		return SecretVersion{}, err
	}
	input, err := b.resolve(ctx, s.id, s.input) // last of what can refuse: it uses a wrapping token up
	if err != nil {
		return SecretVersion{}, err
	}
	if s.input.Value.IsZero() {
		defer input.Value.Wipe()
	}
	if err := b.checkChanged(ctx, c, input.Value); err != nil {
		return SecretVersion{}, err
	}
	if s.endpoint != "" {
		c.Rotation.Endpoint = s.endpoint
	}
	version, err := b.writeSecret(ctx, c, input)
	if err != nil {
		return SecretVersion{}, err
	}
	version.RequestID, version.RotationID, version.Handle = s.requestID, s.rotationID, s.handle
	return b.commitStaged(ctx, c, version)
}

// checkChanged refuses the secret that is current. An unreadable one is a reason to
// stage another, not to refuse it.
func (b *Broker) checkChanged(ctx context.Context, c *Client, value secret.Value) error {
	current, ok := c.Staged(Current)
	if !ok {
		return nil
	}
	present, err := b.readSecret(ctx, c, current)
	defer present.Wipe()
	if err == nil && sameSecret(present, value) {
		return newError(ReasonSecretUnchanged, c.ID, "version %d holds it", current.Number)
	}
	return nil
}

// commitStaged makes a version whose value is written the pending one.
func (b *Broker) commitStaged(ctx context.Context, c *Client, version SecretVersion) (SecretVersion, error) {
	c.addVersion(version)
	c.relabel(version.Number, Pending)
	c, err := b.commit(ctx, c)
	if err != nil {
		return SecretVersion{}, err
	}
	staged, _ := c.Secret(version.Number)
	return staged, nil
}

func (c *Client) stagedBy(requestID string) (SecretVersion, bool) {
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return requestID != "" && v.RequestID == requestID })
	if i < 0 {
		return SecretVersion{}, false
	}
	return c.Secrets[i], true
}

// pending returns the pending version, which must be number unless that is 0.
func (c *Client) pending(number int64) (SecretVersion, error) {
	version, ok := c.Staged(Pending)
	switch {
	case number < 0 || number >= c.NextVersion:
		return version, newError(ReasonSecretVersionNotFound, c.ID, "there is no version %d", number)
	case !ok:
		return version, newError(ReasonSecretWrongStage, c.ID, "no version is pending; stage one first")
	case number != 0 && version.Number != number:
		return version, newError(ReasonSecretWrongStage, c.ID, "version %d is not pending; version %d is", number, version.Number)
	}
	return version, nil
}

// Promotion says how PromoteSecret promotes.
type Promotion struct {
	ClientID string
	// Number of the version that must be pending; 0 means whichever is.
	Number int64
	// AllowUnverified promotes although VerifySecret has not succeeded.
	AllowUnverified bool
	// DropTokens raises the floor, so that tokens of older secrets are not served.
	DropTokens bool
}

// PromoteSecret moves pending to current and current to previous in one
// check-and-set write. Promoting what is current already succeeds.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, SECRET_VERSION_NOT_FOUND,
// SECRET_NOT_VERIFIED, ROTATION_UNDER_WAY, ROTATION_WRONG_STATE,
// DESTINATION_NOT_BOUND, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, or a reason of
// the store.
func (b *Broker) PromoteSecret(ctx context.Context, p Promotion) (*Client, error) {
	present, err := b.clientToChange(ctx, p.ClientID, "")
	if err != nil {
		return nil, err
	}
	if current, ok := present.Staged(Current); ok && p.Number == current.Number {
		if !p.DropTokens || present.MinSecretVersion >= current.Number {
			return present, nil
		}
		c := present.clone()
		c.MinSecretVersion = current.Number
		return b.commit(ctx, c)
	}
	pending, r, err := b.promotable(ctx, present, p)
	if err != nil {
		return nil, err
	}
	c, err := b.promote(ctx, present, pending, p.DropTokens)
	if err != nil {
		return nil, err
	}
	b.noteRotation(ctx, c, r, func(r *rotationRecord) { r.DropTokens = r.DropTokens || p.DropTokens })
	return c, nil
}

// promotable returns the pending version, and the journal about it, if nothing stands
// against its promotion.
func (b *Broker) promotable(ctx context.Context, c *Client, p Promotion) (SecretVersion, *rotationRecord, error) {
	pending, err := c.pending(p.Number)
	if err == nil && pending.VerifyTime.IsZero() && !p.AllowUnverified {
		err = newError(ReasonSecretNotVerified, p.ClientID, "version %d", pending.Number)
	}
	if err != nil {
		return SecretVersion{}, nil, err
	}
	r, version, err := b.journal(ctx, c)
	switch {
	case err != nil:
	case r != nil && r.goesOn():
		err = newError(ReasonRotationUnderWay, p.ClientID, "it is %s and goes on by itself", r.State)
	case r != nil && r.State == RotationVerifying && b.leasedBy(r, version, "") > 0:
		err = newError(ReasonRotationWrongState, p.ClientID, "version %d is being verified", pending.Number)
	default:
		err = checkBound(c, pending)
	}
	return pending, r, err
}

// promote makes the pending version current in one write.
func (b *Broker) promote(ctx context.Context, present *Client, pending SecretVersion, dropTokens bool) (*Client, error) {
	if err := checkBound(present, pending); err != nil {
		return nil, err
	}
	c := present.clone()
	if err := c.roomFor(Current); err != nil {
		return nil, err
	}
	c.promote(pending.Number, time.Now().UTC())
	if dropTokens {
		c.MinSecretVersion = pending.Number
	}
	return b.commit(ctx, c)
}
