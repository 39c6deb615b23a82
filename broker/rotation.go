package broker

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// StageSecret stores a secret as the pending version. Value first, record second,
// as in CreateClient. requestID, if not empty, makes a repetition return the
// version that the first one staged.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_UNCHANGED,
// SECRET_UNUSABLE, TOO_MANY_SECRET_VERSIONS, CONCURRENT_CHANGE, or a reason of
// the store.
func (b *Broker) StageSecret(ctx context.Context, id string, input SecretInput, requestID string) (SecretVersion, error) {
	var v violations
	checkSecret(&v, "secret", input.Value)
	checkRequestID(&v, requestID)
	if err := v.err(); err != nil {
		return SecretVersion{}, err
	}
	present, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, err
	}
	if staged, ok := present.stagedBy(requestID); ok {
		return staged, nil
	}
	c := present.clone()
	if err := c.roomFor(Pending); err != nil {
		return SecretVersion{}, err
	}
	if current, ok := c.Staged(Current); ok {
		// An unreadable current secret is a reason to stage a new one, not to refuse it.
		value, err := b.readSecret(ctx, c, current)
		same := err == nil && sameSecret(value, input.Value)
		value.Wipe()
		if same {
			return SecretVersion{}, newError(ReasonSecretUnchanged, id, "version %d holds it", current.Number)
		}
	}
	version, err := b.writeSecret(ctx, c, input)
	if err != nil {
		return SecretVersion{}, err
	}
	version.RequestID = requestID
	c.addVersion(version)
	c.relabel(version.Number, Pending)
	if c, err = b.commit(ctx, c); err != nil {
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

// VerifySecret gets one token with the pending secret, asking for the client's
// defaults, and notes the success in the record. number 0 means whichever is pending.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_WRONG_STAGE, CONCURRENT_CHANGE, a
// reason of the store or of the authorization server.
func (b *Broker) VerifySecret(ctx context.Context, id string, number int64) (SecretVersion, []Warning, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, nil, err
	}
	pending, err := c.pending(number)
	if err != nil {
		return SecretVersion{}, nil, err
	}
	key, err := keyOf(c, TokenQuery{})
	if err != nil {
		return SecretVersion{}, nil, err
	}
	token, err := b.requestWith(ctx, c, pending, key)
	if err != nil {
		return SecretVersion{}, nil, fmt.Errorf("verify secret version %d: %w", pending.Number, err)
	}
	if c.Upstream.SingleActiveToken { // it has ended the one that all hold
		b.publish(ctx, c, key, token)
	}
	if err := b.unpark(ctx, c); err != nil { // whoever has a good secret is at work on what was rejected
		b.log.WarnContext(ctx, "client stays parked", "client", id, "reason", ReasonOf(err))
	}
	c, err = b.change(ctx, id, c.Etag(), func(c *Client) (bool, error) {
		i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == pending.Number })
		c.Secrets[i].VerifyTime = time.Now().UTC()
		return true, nil
	})
	if ReasonOf(err) == ReasonEtagMismatch { // the caller named no etag: say what it can act on
		err = newError(ReasonConcurrentChange, id, "while the secret was verified")
	}
	if err != nil {
		return SecretVersion{}, nil, err
	}
	verified, _ := c.Secret(pending.Number)
	return verified, token.warnings, nil
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
// SECRET_NOT_VERIFIED, DESTINATION_NOT_BOUND, TOO_MANY_SECRET_VERSIONS,
// CONCURRENT_CHANGE, or a reason of the store.
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
	if err := checkBound(present, pending); err != nil {
		return nil, err
	}
	c := present.clone()
	if err := c.roomFor(Current); err != nil {
		return nil, err
	}
	c.promote(pending.Number, time.Now().UTC())
	if p.DropTokens {
		c.MinSecretVersion = pending.Number
	}
	return b.commit(ctx, c)
}

// RetireSecret destroys the value of any version but the current one. The record
// says so first, the value goes second, and the version leaves the record last: a
// crash in between leaves a version marked as destroying, and a repetition ends
// the work.
//
// CLIENT_NOT_FOUND, SECRET_VERSION_NOT_FOUND, SECRET_WRONG_STAGE,
// CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) RetireSecret(ctx context.Context, id string, number int64) error {
	c, err := b.change(ctx, id, "", func(c *Client) (bool, error) {
		version, ok := c.Secret(number)
		switch {
		case number < 1 || number >= c.NextVersion:
			return false, newError(ReasonSecretVersionNotFound, id, "there is no version %d", number)
		case version.Stage == Current:
			return false, newError(ReasonSecretWrongStage, id, "version %d is current; promote another one first", number)
		case !ok || version.Destroying:
			return false, nil
		}
		i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number })
		c.Secrets[i].Stage, c.Secrets[i].Destroying = Unlabelled, true
		return true, nil
	})
	if err != nil {
		return err
	}
	if _, ok := c.Secret(number); !ok {
		return nil
	}
	if err := b.store.Destroy(ctx, secretKey(id, c.UID, number)); err != nil {
		return &Error{Reason: ReasonOf(err), Op: "destroy secret value", Client: id, Detail: AsError(err).Detail, RetryAfter: AsError(err).RetryAfter, Err: err}
	}
	_, err = b.change(ctx, id, "", func(c *Client) (bool, error) {
		before := len(c.Secrets)
		c.Secrets = slices.DeleteFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number && v.Destroying })
		return len(c.Secrets) != before, nil
	})
	return err
}
