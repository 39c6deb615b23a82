package broker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// AdoptSecret makes pending what somebody wrote over the current version's value by
// hand.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, SECRET_NOT_SET, SECRET_UNCHANGED if the value is the
// one that was staged, the reasons of StageSecret, or one of the store.
func (b *Broker) AdoptSecret(ctx context.Context, id, requestID string) (SecretVersion, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return SecretVersion{}, err
	}
	if staged, ok := c.stagedBy(requestID); ok {
		return staged, nil
	}
	current, ok := c.Staged(Current)
	if !ok {
		return SecretVersion{}, newError(ReasonSecretNotSet, id, "")
	}
	if !current.Reference.IsZero() {
		return SecretVersion{}, newError(ReasonSecretUnchanged, id, "version %d is owned elsewhere, and is followed there", current.Number)
	}
	value, err := b.latestValue(ctx, c, current)
	if err != nil {
		return SecretVersion{}, err
	}
	defer value.Wipe()
	version, err := b.stage(ctx, staging{id: id, requestID: requestID, rotationID: newID(), input: SecretInput{Value: value, KeepTrailingSpace: true}})
	if err == nil && version.Stage == Pending {
		b.noteStaged(ctx, id, SourceAdopted)
	}
	return version, err
}

// latestValue reads what now lies where version's value was written. SECRET_UNCHANGED if
// it is the value that was staged.
func (b *Broker) latestValue(ctx context.Context, c *Client, version SecretVersion) (secret.Value, error) {
	key := secretKey(c.ID, c.UID, version.Number)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	record, err := b.store.ReadLatest(ctx, key)
	if err != nil {
		return secret.Value{}, fmt.Errorf("read secret value: %w", err)
	}
	var fields struct{ Value string }
	if json.Unmarshal(record.Data.Reveal(), &fields) != nil || fields.Value == "" { // the error would quote the data
		return secret.Value{}, newError(ReasonRecordCorrupt, c.ID, "%s: has no text in the field value", key)
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return secret.Value{}, err
	}
	value := secret.NewString(fields.Value)
	if k, known := meta.fingerprintKeyOf(version.Fingerprint); known && k.fingerprint(c.UID, version.Number, version.bound(), value) == version.Fingerprint {
		return secret.Value{}, newError(ReasonSecretUnchanged, c.ID, "nobody has changed version %d at %s", version.Number, key)
	}
	return value, nil
}
