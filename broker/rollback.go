package broker

import "context"

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
	previous, err := present.previous(number)
	if err != nil {
		return nil, err
	}
	if r, _, err := b.journal(ctx, present); outage(err) {
		return nil, err // an unreadable journal is no reason to keep a secret that does not work
	} else if r != nil && r.Replaced && r.ReplacedVersion == previous.Number {
		return nil, newError(ReasonRotationWrongState, id, "the provider has ended version %d; stage another secret", previous.Number)
	}
	if err := b.notEnded(ctx, present, previous); err != nil {
		return nil, err
	}
	c, err := b.rollBack(ctx, present, previous)
	if err != nil {
		return nil, err
	}
	b.noteRotation(ctx, c, nil, nil)
	return c, nil
}

// previous returns the previous version, which must be number unless that is 0.
func (c *Client) previous(number int64) (SecretVersion, error) {
	version, ok := c.Staged(Previous)
	switch {
	case number < 0 || number >= c.NextVersion:
		return version, newError(ReasonSecretVersionNotFound, c.ID, "there is no version %d", number)
	case !ok:
		return version, newError(ReasonSecretWrongStage, c.ID, "no version is previous; stage the secret again")
	case number != 0 && number != version.Number:
		return version, newError(ReasonSecretWrongStage, c.ID, "version %d is not previous; version %d is", number, version.Number)
	}
	return version, checkBound(c, version)
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

// notEnded refuses a version that the provider is known to have ended. An unreadable
// journal is no reason to keep a secret that does not work.
func (b *Broker) notEnded(ctx context.Context, c *Client, previous SecretVersion) error {
	r, _, err := b.journal(ctx, c)
	if outage(err) {
		return err
	}
	if r != nil && r.Replaced && r.ReplacedVersion == previous.Number {
		return newError(ReasonRotationWrongState, c.ID, "the provider has ended version %d; stage another secret", previous.Number)
	}
	return nil
}
