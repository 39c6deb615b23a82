package broker

import (
	"context"
	"encoding/json"
	"maps"
)

// ClientUpdate changes a client's settings; nil fields stay as they are.
type ClientUpdate struct {
	ID string
	// Etag, if not empty, must be the present one.
	Etag string
	// Edit changes the settings of a copy: labels, upstream, token policy; what it
	// does to other fields is undone.
	Edit func(*Client)
	// Secret, if there is one, becomes current together with the change.
	Secret SecretInput
	// Check may refuse what Edit made of the present client; nil takes all.
	Check func(present, changed *Client) error
	// MayRetarget reports whether the stored secret may be bound to another origin
	// without being given anew; nil means no.
	MayRetarget func(present *Client) bool
	// ValidateOnly is as in [NewClient].
	ValidateOnly bool
	// KeepSame writes nothing if Edit changes nothing and Secret is the current one: the
	// client is then returned as it was, with the etag that it had.
	KeepSame bool
}

// UpdateClient changes settings, and completes again what Edit emptied. A change that
// would send a stored secret to an origin it is not bound to, or have it sent in another
// provider's way, is refused unless a new secret comes with it, because else whoever may
// edit a client could have its secret sent to a host of theirs. A client that was only
// validated has the present etag.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, ETAG_MISMATCH, CONCURRENT_CHANGE,
// DESTINATION_NOT_BOUND, INVALID_REQUEST, SECRET_UNUSABLE, DISCOVERY_FAILED or what else
// [AuthorizationServer].Discover returns, TOO_MANY_SECRET_VERSIONS, a WRAPPING_ or
// REFERENCE_ reason, or one of the store.
func (b *Broker) UpdateClient(ctx context.Context, u ClientUpdate) (*Client, error) {
	c, _, err := b.update(ctx, u)
	return c, err
}

// update is UpdateClient, and reports whether there was anything to write.
func (b *Broker) update(ctx context.Context, u ClientUpdate) (c *Client, changed bool, err error) {
	present, err := b.clientToChange(ctx, u.ID, u.Etag)
	if err != nil {
		return nil, false, err
	}
	c, err = b.edited(ctx, present, u)
	if err != nil {
		return nil, false, err
	}
	if u.KeepSame && u.Secret.given() {
		if u.Secret, err = b.unlessCurrent(ctx, present, c, u.Secret); err != nil {
			return nil, false, err
		}
	}
	if !u.Secret.given() {
		if u.KeepSame && sameSettings(present, c) {
			return present, false, nil
		}
		err := b.checkKeptSecret(ctx, present, c)
		if err == nil {
			c, err = b.saveUpdate(ctx, c, u)
			return c, true, err
		}
		if ReasonOf(err) != ReasonDestinationNotBound || u.MayRetarget == nil || !u.MayRetarget(present) {
			return nil, false, err
		}
		if u.Secret, err = b.keptSecret(ctx, present); err != nil {
			return nil, false, err
		}
		defer u.Secret.Value.Wipe()
	}
	if err := c.roomFor(Current); err != nil {
		return nil, false, err
	}
	c, err = b.saveUpdate(ctx, c, u)
	return c, true, err
}

// saveUpdate commits c with the secret of the update, or only says whether it could.
func (b *Broker) saveUpdate(ctx context.Context, c *Client, u ClientUpdate) (*Client, error) {
	if u.ValidateOnly {
		return c, b.planSecret(ctx, c, u.Secret)
	}
	if err := b.takeSecret(ctx, c, u.Secret); err != nil {
		return nil, err
	}
	return b.commit(ctx, c)
}

// edited returns what an update makes of the present client, complete and checked in all
// but its secrets.
func (b *Broker) edited(ctx context.Context, present *Client, u ClientUpdate) (*Client, error) {
	edited := present.clone()
	u.Edit(edited)
	edited = edited.clone() // what the caller put in stays the caller's
	c := present.clone()
	c.Labels, c.Upstream, c.TokenPolicy, c.Rotation = edited.Labels, edited.Upstream, edited.TokenPolicy, edited.Rotation
	// What an issuer has promised holds for as long as it is the issuer, whatever else a
	// peer says of the client.
	c.Upstream.IssuerInAnswer = c.Upstream.Issuer == present.Upstream.Issuer && (c.Upstream.IssuerInAnswer || present.Upstream.IssuerInAnswer)
	var v violations
	if labels := c.Labels; !sameSettings(present, c) {
		c.Labels = present.Labels
		onlyLabels := sameSettings(present, c)
		c.Labels = labels
		if onlyLabels { // nothing that a profile, which may be gone, has a say in
			checkLabels(&v, "client.labels", c.Labels)
			checkSize(&v, c)
		} else {
			b.forgetCompleted(present, c)
			probed := c.Upstream.APIEndpoint != "" || len(c.Upstream.TokenDestinations) > 0
			b.complete(&v, c)
			if !probed && !u.Secret.given() {
				c.withoutUnboundAPI()
			}
		}
	}
	if c.Rotation.Rotator != present.Rotation.Rotator || !maps.Equal(c.Rotation.Parameters, present.Rotation.Parameters) {
		b.checkRotator(&v, c.Rotation)
	}
	c.checkSecretInput(&v, u.Secret)
	if err := v.err(); err != nil {
		return nil, err
	}
	if u.Check != nil {
		if err := u.Check(present, c); err != nil {
			return nil, err
		}
	}
	if err := b.discover(ctx, c); err != nil {
		return nil, err
	}
	if c.Upstream.TokenEndpoint != present.Upstream.TokenEndpoint {
		if err := b.checkEndpoint(c.Upstream.TokenEndpoint); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// sameSettings reports whether two revisions of a client have the same settings.
func sameSettings(a, b *Client) bool { return string(encodedSettings(a)) == string(encodedSettings(b)) }

// encodedSettings encodes what a peer sets of a client.
func encodedSettings(c *Client) []byte {
	encoded, err := json.Marshal(Client{Labels: c.Labels, Upstream: c.Upstream, TokenPolicy: c.TokenPolicy, Rotation: c.Rotation})
	if err != nil {
		return nil // of numbers, strings and maps of strings always encodes
	}
	return encoded
}

// unlessCurrent returns input, or no secret if it is c's current one already and may be
// used with c's settings as it is.
func (b *Broker) unlessCurrent(ctx context.Context, present, c *Client, input SecretInput) (SecretInput, error) {
	current, ok := present.Staged(Current)
	if !ok || !input.Wrapping.IsZero() || !input.Registration.IsZero() || input.Reference != current.Reference ||
		!input.ExpireTime.IsZero() && !input.ExpireTime.Equal(current.ExpireTime) {
		return input, nil
	}
	if input.Reference.IsZero() {
		same, err := b.isValueOf(ctx, present, current, input)
		if err != nil || !same {
			return input, err
		}
	}
	if b.checkKeptSecret(ctx, present, c) != nil {
		return input, nil // what was given anew may be bound anew
	}
	return SecretInput{}, nil
}

// isValueOf reports whether input is the value of a version. It is told by the
// fingerprint, and read only where one key may be spelled in several ways.
func (b *Broker) isValueOf(ctx context.Context, c *Client, version SecretVersion, input SecretInput) (bool, error) {
	meta, err := b.meta(ctx)
	if err != nil {
		return false, err
	}
	if meta.mismatch(c.UID, version, input.Value) == "" {
		return true, nil
	}
	if !isKeyMaterial(input.Value.RevealString()) {
		return false, nil
	}
	value, err := b.readSecret(ctx, c, version)
	if err != nil {
		return false, nil // a value that cannot be read is replaced by one that can
	}
	defer value.Wipe()
	return sameSecret(value, input.Value), nil
}
