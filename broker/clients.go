package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// NewClient is what CreateClient registers.
type NewClient struct {
	ID          string
	Labels      map[string]string
	Upstream    Upstream
	TokenPolicy TokenPolicy
	Rotation    RotationSettings
	// Secret becomes current; the zero SecretInput registers without one.
	Secret SecretInput
	// RequestID makes a repetition return the first one's client (AIP-155).
	RequestID string
}

// CreateClient registers a client. The secret's value is written first and the
// record second: the record is the commit, and a crash in between leaves a value
// that nothing names. A name is free again once its client was purged.
//
// INVALID_REQUEST, SECRET_UNUSABLE, UPSTREAM_ADDRESS_REFUSED,
// CLIENT_ALREADY_EXISTS, a WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) CreateClient(ctx context.Context, n NewClient) (*Client, error) {
	var v violations
	if problem := idProblem(n.ID); problem != "" {
		v.add("client.name", "%s", problem)
	}
	checkSettings(&v, n.Labels, n.Upstream, n.TokenPolicy, n.Rotation)
	b.checkRotator(&v, n.Rotation)
	checkRequestID(&v, n.RequestID)
	if n.Secret.given() {
		checkInput(&v, "secret", n.Secret)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	if err := b.checkEndpoint(n.Upstream.TokenEndpoint); err != nil {
		return nil, err
	}
	existing, err := b.fetchClient(ctx, n.ID)
	free := err == nil && existing.State() == StatePurged && !existing.PurgeEndTime.IsZero()
	switch {
	case free:
	case err == nil && n.RequestID != "" && existing.CreateRequestID == n.RequestID:
		return existing, nil
	case err == nil:
		return nil, newError(ReasonClientAlreadyExists, n.ID, "it is %s", existing.State())
	case ReasonOf(err) != ReasonClientNotFound:
		return nil, err
	}
	now := time.Now().UTC()
	c := &Client{
		ID: n.ID, UID: newID(), Labels: maps.Clone(n.Labels), Upstream: n.Upstream.clone(), TokenPolicy: n.TokenPolicy, Rotation: n.Rotation.clone(),
		NextVersion: 1, CreateTime: now, CreateRequestID: n.RequestID,
	}
	if free {
		c.version = existing.version // over what the purged one left
	}
	if n.Secret.given() {
		input, err := b.resolve(ctx, n.ID, n.Secret)
		if err != nil {
			return nil, err
		}
		if n.Secret.Value.IsZero() {
			defer input.Value.Wipe()
		}
		version, err := b.writeSecret(ctx, c, input)
		if err != nil {
			return nil, err
		}
		version.Stage, version.PromoteTime = Current, version.CreateTime
		c.addVersion(version)
	}
	created, err := b.commit(ctx, c)
	if free && ReasonOf(err) == ReasonConcurrentChange {
		err = newError(ReasonClientAlreadyExists, n.ID, "it was created at the same moment")
	}
	if ReasonOf(err) == ReasonClientAlreadyExists && n.RequestID != "" {
		// The other one may be this request, sent again while its first try ran.
		if other, readErr := b.readClient(ctx, n.ID); readErr == nil && other.CreateRequestID == n.RequestID {
			return other, nil
		}
	}
	return created, err
}

// GetClient reads one client from the store. CLIENT_NOT_FOUND, INVALID_REQUEST,
// or a reason of the store.
func (b *Broker) GetClient(ctx context.Context, id string) (*Client, error) {
	if err := CheckID("name", id); err != nil {
		return nil, err
	}
	return b.readClient(ctx, id)
}

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
}

// UpdateClient changes settings. A change that would send a stored secret to an
// origin it is not bound to is refused unless a new secret comes with it, because
// else whoever may edit a client could have its secret sent to a host of theirs.
//
// CLIENT_NOT_FOUND, CLIENT_DELETED, ETAG_MISMATCH, CONCURRENT_CHANGE,
// DESTINATION_NOT_BOUND, INVALID_REQUEST, SECRET_UNUSABLE,
// TOO_MANY_SECRET_VERSIONS, a WRAPPING_ or REFERENCE_ reason, or one of the store.
func (b *Broker) UpdateClient(ctx context.Context, u ClientUpdate) (*Client, error) {
	present, err := b.clientToChange(ctx, u.ID, u.Etag)
	if err != nil {
		return nil, err
	}
	edited := present.clone()
	u.Edit(edited)
	edited = edited.clone() // what the caller put in stays the caller's
	c := present.clone()
	c.Labels, c.Upstream, c.TokenPolicy, c.Rotation = edited.Labels, edited.Upstream, edited.TokenPolicy, edited.Rotation
	var v violations
	checkSettings(&v, c.Labels, c.Upstream, c.TokenPolicy, c.Rotation)
	if c.Rotation.Rotator != present.Rotation.Rotator || !maps.Equal(c.Rotation.Parameters, present.Rotation.Parameters) {
		b.checkRotator(&v, c.Rotation)
	}
	if u.Secret.given() {
		checkInput(&v, "secret", u.Secret)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	if u.Check != nil {
		if err := u.Check(present, c); err != nil {
			return nil, err
		}
	}
	if c.Upstream.TokenEndpoint != present.Upstream.TokenEndpoint {
		if err := b.checkEndpoint(c.Upstream.TokenEndpoint); err != nil {
			return nil, err
		}
	}
	if !u.Secret.given() {
		err := b.checkKeptSecret(ctx, present, c)
		if err == nil {
			return b.commit(ctx, c)
		}
		if ReasonOf(err) != ReasonDestinationNotBound || u.MayRetarget == nil || !u.MayRetarget(present) {
			return nil, err
		}
		if u.Secret, err = b.keptSecret(ctx, present); err != nil {
			return nil, err
		}
		defer u.Secret.Value.Wipe()
	}
	if err := c.roomFor(Current); err != nil {
		return nil, err
	}
	input, err := b.resolve(ctx, u.ID, u.Secret)
	if err != nil {
		return nil, err
	}
	if u.Secret.Value.IsZero() {
		defer input.Value.Wipe()
	}
	version, err := b.writeSecret(ctx, c, input)
	if err != nil {
		return nil, err
	}
	c.addVersion(version)
	c.promote(version.Number, time.Now().UTC())
	return b.commit(ctx, c)
}

// keptSecret returns the current secret as if it were given anew, so that it is
// bound to where it is to be sent from now on. A client without one keeps none.
func (b *Broker) keptSecret(ctx context.Context, present *Client) (SecretInput, error) {
	current, ok := present.Staged(Current)
	if !ok {
		return SecretInput{}, newError(ReasonDestinationNotBound, present.ID, "only a pending secret is bound elsewhere; retire it first")
	}
	value, registration, err := b.readWithRegistration(ctx, present, current)
	return SecretInput{
		Value: value, ExpireTime: current.ExpireTime, KeepTrailingSpace: true, Registration: registration,
		Reference: current.Reference, ownerVersion: current.OwnerVersion,
	}, err
}

// checkKeptSecret refuses settings that the secrets which the client keeps must
// not or cannot be used with.
func (b *Broker) checkKeptSecret(ctx context.Context, present, changed *Client) error {
	for _, stage := range []Stage{Current, Pending} {
		version, ok := changed.Staged(stage)
		if !ok {
			continue
		}
		// One that is bound elsewhere already, because the client moved with another
		// secret while it was pending, goes nowhere and is no reason to refuse a label.
		if err := checkBound(changed, version); err != nil && checkBound(present, version) == nil {
			return err
		}
		if changed.Upstream.Authentication == present.Upstream.Authentication {
			continue
		}
		value, err := b.readSecret(ctx, present, version)
		switch reason := string(ReasonOf(err)); {
		case strings.HasPrefix(reason, "SECRET_"), strings.HasPrefix(reason, "RECORD_"):
			continue // what is broken already cannot be made worse by settings
		case err != nil:
			return err // whether it fits is not known
		}
		err = b.checkSecret(changed.Upstream.Authentication, value)
		value.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkBound reports whether version may be sent to c's token endpoint.
func checkBound(c *Client, version SecretVersion) error {
	origin, err := Origin(c.Upstream.TokenEndpoint)
	if err != nil {
		return newError(ReasonInvalidRequest, c.ID, "token_endpoint %v", err)
	}
	if !slices.Contains(version.Destinations, origin) {
		return newError(ReasonDestinationNotBound, c.ID, "secret version %d is bound to %v, not to %s", version.Number, version.Destinations, origin)
	}
	for _, o := range c.Upstream.TokenDestinations {
		if !slices.Contains(version.TokenDestinations, o) {
			return newError(ReasonDestinationNotBound, c.ID, "tokens of secret version %d are bound to %v, not to %s", version.Number, version.TokenDestinations, o)
		}
	}
	if !version.Registered {
		return nil
	}
	if origin, err := Origin(c.Rotation.Endpoint); err != nil || !slices.Contains(version.Destinations, origin) {
		return newError(ReasonDestinationNotBound, c.ID, "the registration access token of secret version %d is bound to %v", version.Number, version.Destinations)
	}
	return nil
}

// DeleteClient deletes softly; deleting what is deleted succeeds. CLIENT_NOT_FOUND,
// ETAG_MISMATCH, CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) DeleteClient(ctx context.Context, id, etag string) (*Client, error) {
	return b.change(ctx, id, etag, func(c *Client) (bool, error) {
		if c.State() == StateDeleted {
			return false, nil
		}
		c.DeleteTime = time.Now().UTC()
		return true, nil
	})
}

// UndeleteClient brings a deleted client back. CLIENT_NOT_FOUND,
// CLIENT_NOT_DELETED, CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) UndeleteClient(ctx context.Context, id string) (*Client, error) {
	return b.change(ctx, id, "", func(c *Client) (bool, error) {
		if c.State() != StateDeleted {
			return false, newError(ReasonClientNotDeleted, id, "it is %s", c.State())
		}
		c.DeleteTime = time.Time{}
		return true, nil
	})
}

// SetDisabled disables or enables a client; doing so twice succeeds.
// CLIENT_NOT_FOUND, CLIENT_DELETED, CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) SetDisabled(ctx context.Context, id string, disabled bool) (*Client, error) {
	return b.change(ctx, id, "", func(c *Client) (bool, error) {
		if c.State() == StateDeleted {
			return false, newError(ReasonClientDeleted, id, "")
		}
		changed := c.Disabled != disabled
		c.Disabled = disabled
		return changed, nil
	})
}

// change reads a client, lets edit work on a copy, and commits it if edit says
// that there is something to commit.
func (b *Broker) change(ctx context.Context, id, etag string, edit func(*Client) (bool, error)) (*Client, error) {
	present, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	if etag != "" && etag != present.Etag() {
		return nil, newError(ReasonEtagMismatch, id, "the present etag is %s", present.Etag())
	}
	c := present.clone()
	changed, err := edit(c)
	if err != nil {
		return nil, err
	}
	if !changed {
		return present, nil
	}
	return b.commit(ctx, c)
}

// clientToChange reads a client that must not be deleted.
func (b *Broker) clientToChange(ctx context.Context, id, etag string) (*Client, error) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	if etag != "" && etag != c.Etag() {
		return nil, newError(ReasonEtagMismatch, id, "the present etag is %s", c.Etag())
	}
	if c.State() == StateDeleted {
		return nil, newError(ReasonClientDeleted, id, "")
	}
	return c, nil
}

// commit writes c over the revision it was read as, and makes it the one in
// memory. When somebody else won, the value that only this revision names is
// destroyed.
func (b *Broker) commit(ctx context.Context, c *Client) (*Client, error) {
	if _, err := b.meta(ctx); err != nil {
		return nil, err // never the first writer into a store that is not ours
	}
	c.UpdateTime = time.Now().UTC()
	record := &clientRecord{header: header{UID: c.UID}, Client: *c}
	base, begun := c.version, time.Now()
	if base != 0 { // no replica has a record in memory that never was
		defer b.changing(ctx, c.ID)()
	}
	version, err := b.write(ctx, clientKey(c.ID), base, &record.header, record)
	switch {
	case err == nil:
		c.version, c.added = version, 0
		b.remember(newLoaded(c, begun))
		return c, nil
	case ReasonOf(err) != ReasonStoreConflict:
		return nil, &Error{Reason: ReasonOf(err), Op: "write client record", Client: c.ID, Detail: AsError(err).Detail, RetryAfter: AsError(err).RetryAfter, Err: err}
	}
	b.discardUnnamed(ctx, c)
	if base == 0 {
		return nil, newError(ReasonClientAlreadyExists, c.ID, "it was created at the same moment")
	}
	return nil, newError(ReasonConcurrentChange, c.ID, "")
}

// discardUnnamed destroys the value that c added unless the committed record names
// it. It runs only after c's own write was lost to another one, so c can no longer
// become the committed revision. Failing leaves a value that nothing names.
func (b *Broker) discardUnnamed(ctx context.Context, c *Client) {
	begun := time.Now()
	committed, err := b.fetchClient(ctx, c.ID)
	if err == nil && committed.State() != StatePurged {
		b.remember(newLoaded(committed, begun))
	}
	if err != nil || c.added == 0 {
		return
	}
	if named, ok := committed.Secret(c.added); ok && named.Reference.IsZero() && committed.UID == c.UID {
		return
	}
	if err := b.store.Destroy(context.WithoutCancel(ctx), secretKey(c.ID, c.UID, c.added)); err != nil {
		b.log.WarnContext(ctx, "secret value left behind that no record names", "client", c.ID, "secret_version", c.added, "reason", ReasonOf(err))
	}
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
