package broker

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// revokeUpstream has the provider refuse a version that is being destroyed, where the
// client's rotator can and the version was made by it.
func (b *Broker) revokeUpstream(ctx context.Context, c *Client, version SecretVersion) error {
	rotator, traits, err := b.rotator(c)
	if err != nil || traits.Shape == ShapeReplaced || version.Handle == "" && traits.Shape != ShapeKeyPair && !traits.TakesChosen {
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

// beginRetiring ends the time in which the new secret is watched. While the
// authorization server refuses it and takes the replaced one, that one stays.
func (run *rotationRun) beginRetiring(ctx context.Context) error {
	record, _, err := run.readUpstream(ctx, run.c)
	if err != nil {
		return err
	}
	if refused := record.Refused; refused != nil && refused.Version == run.r.SecretVersion && refused.PreviousWorked && !run.r.Compromised {
		run.callOperator("retire", newError(ReasonClientRejected, run.c.ID,
			"the authorization server refuses version %d and takes version %d, which is therefore not retired", run.r.SecretVersion, run.r.ReplacedVersion))
		return run.save(ctx)
	}
	return run.becomes(ctx, RotationRetiring, "retire")
}

// revokeTokensTimeout bounds the revocation of a compromised client's tokens, which are
// not served any more whatever comes of it.
const revokeTokensTimeout = time.Minute

// retireReplaced ends the replaced secret: in the record, at the provider, in the store.
func (run *rotationRun) retireReplaced(ctx context.Context) error {
	if run.r.Compromised && !run.r.Revoked {
		limited, cancel := context.WithTimeout(ctx, revokeTokensTimeout)
		_, err := run.RevokeTokens(limited, run.c.ID)
		cancel()
		switch {
		case ReasonOf(err) == ReasonConcurrentChange, outage(err):
			return err
		case err != nil:
			run.r.note(time.Now().UTC(), "revoke tokens", ReasonOf(err)) // they are dropped all the same
		}
		run.r.Revoked = true
		if err := run.save(ctx); err != nil {
			return err
		}
	}
	if current, _ := run.c.Staged(Current); current.Number == run.r.ReplacedVersion {
		return nil // somebody rolled back: follow says so
	}
	switch err := run.retireVersion(ctx, run.r.ReplacedVersion); ReasonOf(err) {
	case "":
		return run.becomes(ctx, RotationCompleted, "retire")
	case ReasonSecretWrongStage: // as above, at this moment
		return nil
	default:
		return run.outsideFailed(ctx, "retire", err)
	}
}

// retireVersion retires a version of the rotation; one that is gone is left alone.
// SECRET_WRONG_STAGE for one that somebody has made current.
func (run *rotationRun) retireVersion(ctx context.Context, number int64) error {
	if number == 0 {
		return nil
	}
	_, err := run.retire(ctx, run.c.ID, number)
	if ReasonOf(err) == ReasonSecretVersionNotFound {
		return nil
	}
	return err
}

// RetireSecret destroys the value of any version but the current one, and has the
// provider refuse it where the client's rotator can. The record says so first, the
// value goes second, and the version leaves the record last: a crash in between
// leaves a version marked as destroying, and a repetition ends the work.
//
// CLIENT_NOT_FOUND, SECRET_VERSION_NOT_FOUND, SECRET_WRONG_STAGE, ROTATION_UNDER_WAY,
// CONCURRENT_CHANGE, or a reason of the store or of the provider.
func (b *Broker) RetireSecret(ctx context.Context, id string, number int64) error {
	present, err := b.GetClient(ctx, id)
	if err != nil {
		return err
	}
	r, _, err := b.journal(ctx, present)
	if err != nil {
		return err
	}
	if r != nil && r.active() && r.SecretVersion == number {
		return newError(ReasonRotationUnderWay, id, "version %d is its new secret; abort it first", number)
	}
	c, err := b.retire(ctx, id, number)
	if c != nil && err == nil {
		b.noteRotation(ctx, c, r, nil)
	}
	return err
}

// retire does what RetireSecret does, whatever rotation is under way. It returns nil
// if there was nothing to do.
func (b *Broker) retire(ctx context.Context, id string, number int64) (*Client, error) {
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
		c.beginDestroying(number)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	version, ok := c.Secret(number)
	if !ok {
		return nil, nil
	}
	if err := b.revokeUpstream(ctx, c, version); err != nil {
		return nil, err
	}
	return b.destroySecret(ctx, c, number)
}

// beginDestroying takes the label from a version and marks it.
func (c *Client) beginDestroying(number int64) {
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number })
	c.Secrets[i].Stage, c.Secrets[i].Destroying = Unlabelled, true
}

// destroySecret destroys the value of a version that is marked as destroying, then
// removes it from the record.
func (b *Broker) destroySecret(ctx context.Context, c *Client, number int64) (*Client, error) {
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := b.store.Destroy(limited, secretKey(c.ID, c.UID, number)); err != nil {
		return nil, &Error{Reason: ReasonOf(err), Op: "destroy secret value", Client: c.ID, Detail: AsError(err).Detail, RetryAfter: AsError(err).RetryAfter, Err: err}
	}
	return b.change(ctx, c.ID, "", func(c *Client) (bool, error) {
		before := len(c.Secrets)
		c.Secrets = slices.DeleteFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number && v.Destroying })
		return len(c.Secrets) != before, nil
	})
}
