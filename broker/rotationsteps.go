package broker

import (
	"context"
	"slices"
	"time"
)

// StageSecret stores a secret as the pending version and begins a rotation that waits
// for the next step. Value first, record second, as in CreateClient. requestID, if not
// empty, makes a repetition return the version that the first one staged.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, ROTATION_UNDER_WAY,
// SECRET_UNCHANGED, SECRET_UNUSABLE, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, a
// WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) StageSecret(ctx context.Context, id string, input SecretInput, requestID string) (SecretVersion, error) {
	return b.stage(ctx, staging{id: id, requestID: requestID, rotationID: newID(), input: input})
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
	checkSecret(&v, "secret", s.input.Value)
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
	if current, ok := c.Staged(Current); ok {
		// An unreadable current secret is a reason to stage a new one, not to refuse it.
		value, err := b.readSecret(ctx, c, current)
		same := err == nil && sameSecret(value, s.input.Value)
		value.Wipe()
		if same {
			return SecretVersion{}, newError(ReasonSecretUnchanged, s.id, "version %d holds it", current.Number)
		}
	}
	if s.endpoint != "" {
		c.Rotation.Endpoint = s.endpoint
	}
	version, err := b.writeSecret(ctx, c, s.input)
	if err != nil {
		return SecretVersion{}, err
	}
	version.RequestID, version.RotationID, version.Handle = s.requestID, s.rotationID, s.handle
	return b.commitStaged(ctx, c, version)
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
	pending, err := present.pending(p.Number)
	if err != nil {
		return nil, err
	}
	if pending.VerifyTime.IsZero() && !p.AllowUnverified {
		return nil, newError(ReasonSecretNotVerified, p.ClientID, "version %d", pending.Number)
	}
	r, version, err := b.journal(ctx, present)
	switch {
	case err != nil:
		return nil, err
	case r != nil && r.goesOn():
		return nil, newError(ReasonRotationUnderWay, p.ClientID, "it is %s and goes on by itself", r.State)
	case r != nil && r.State == RotationVerifying && b.leasedBy(r, version, "") > 0:
		return nil, newError(ReasonRotationWrongState, p.ClientID, "version %d is being verified", pending.Number)
	}
	c, err := b.promote(ctx, present, pending, p.DropTokens)
	if err != nil {
		return nil, err
	}
	b.noteRotation(ctx, c, r, func(r *rotationRecord) { r.DropTokens = r.DropTokens || p.DropTokens })
	return c, nil
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

// RollbackSecret makes the previous version current again and takes the label from the
// current one, in one check-and-set write. number is the version that must be
// previous; 0 means whichever is. Rolling back to what is current already succeeds.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, SECRET_VERSION_NOT_FOUND,
// ROTATION_WRONG_STATE where the provider is known to have ended the previous one,
// DESTINATION_NOT_BOUND, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, or a reason of
// the store.
func (b *Broker) RollbackSecret(ctx context.Context, id string, number int64) (*Client, error) {
	present, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return nil, err
	}
	if current, ok := present.Staged(Current); ok && number != 0 && number == current.Number {
		return present, nil
	}
	previous, ok := present.Staged(Previous)
	switch {
	case number < 0 || number >= present.NextVersion:
		return nil, newError(ReasonSecretVersionNotFound, id, "there is no version %d", number)
	case !ok:
		return nil, newError(ReasonSecretWrongStage, id, "no version is previous; stage the secret again")
	case number != 0 && number != previous.Number:
		return nil, newError(ReasonSecretWrongStage, id, "version %d is not previous; version %d is", number, previous.Number)
	}
	if r, _, err := b.journal(ctx, present); outage(err) {
		return nil, err // an unreadable journal is no reason to keep a secret that does not work
	} else if r != nil && r.Replaced && r.ReplacedVersion == previous.Number {
		return nil, newError(ReasonRotationWrongState, id, "the provider has ended version %d; stage another secret", previous.Number)
	}
	c, err := b.rollBack(ctx, present, previous)
	if err != nil {
		return nil, err
	}
	b.noteRotation(ctx, c, nil, nil)
	return c, nil
}

// rollBack makes the previous version current in one write.
func (b *Broker) rollBack(ctx context.Context, present *Client, previous SecretVersion) (*Client, error) {
	if err := checkBound(present, previous); err != nil {
		return nil, err
	}
	c := present.clone()
	if err := c.roomFor(Previous); err != nil { // as if: the current one loses its label
		return nil, err
	}
	c.relabel(previous.Number, Current)
	c.MinSecretVersion = min(c.MinSecretVersion, previous.Number) // else none of its tokens could be served
	return b.commit(ctx, c)
}
