package broker

import (
	"context"
	"maps"
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
	// ValidateOnly checks everything and stores nothing (AIP-163). A wrapping token is
	// not looked into, because that would use it up.
	ValidateOnly bool
}

// CreateClient registers a client. What its settings leave open is filled by its
// provider's profile, and then by its issuer's metadata: see [Broker.complete]. The
// secret's value is written first and the record second: the record is the commit, and a
// crash in between leaves a value that nothing names. A name is free again once its
// client was purged. A client that was only validated has no uid, no etag, and a secret
// version without fingerprint.
//
// INVALID_REQUEST, SECRET_UNUSABLE, UPSTREAM_ADDRESS_REFUSED, DISCOVERY_FAILED or what
// else [AuthorizationServer].Discover returns, CLIENT_ALREADY_EXISTS, a WRAPPING_ or
// REFERENCE_ reason, or one of the store.
func (b *Broker) CreateClient(ctx context.Context, n NewClient) (*Client, error) {
	c := &Client{
		ID: n.ID, Labels: maps.Clone(n.Labels), Upstream: n.Upstream.clone(), TokenPolicy: n.TokenPolicy, Rotation: n.Rotation.clone(),
		NextVersion: 1, CreateTime: time.Now().UTC(), CreateRequestID: n.RequestID,
	}
	if err := b.checkNew(c, n); err != nil {
		return nil, err
	}
	existing, err := b.fetchClient(ctx, n.ID)
	free := err == nil && existing.State() == StatePurged && !existing.PurgeEndTime.IsZero()
	switch {
	case free:
		c.version = existing.version // over what the purged one left
	case err == nil && n.RequestID != "" && existing.CreateRequestID == n.RequestID:
		return existing, nil
	case err == nil:
		return nil, newError(ReasonClientAlreadyExists, n.ID, "it is %s", existing.State())
	case ReasonOf(err) != ReasonClientNotFound:
		return nil, err
	}
	if err := b.discover(ctx, c); err != nil {
		return nil, err
	}
	if err := b.checkEndpoint(c.Upstream.TokenEndpoint); err != nil {
		return nil, err
	}
	if n.ValidateOnly {
		c.version = 0
		return c, b.planSecret(ctx, c, n.Secret)
	}
	c.UID = newID()
	if err := b.takeSecret(ctx, c, n.Secret); err != nil {
		return nil, err
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

// checkNew completes c by its profile and refuses what is wrong with it, as far as that
// can be said without asking anybody.
func (b *Broker) checkNew(c *Client, n NewClient) error {
	var v violations
	if problem := idProblem(n.ID); problem != "" {
		v.add("client.name", "%s", problem)
	}
	b.complete(&v, c)
	b.checkRotator(&v, c.Rotation)
	checkRequestID(&v, n.RequestID)
	c.checkSecretInput(&v, n.Secret)
	return v.err()
}

// takeSecret stores the secret that a request brings, if it brings one, and makes it c's
// current one. c is not committed.
func (b *Broker) takeSecret(ctx context.Context, c *Client, input SecretInput) error {
	if !input.given() {
		return nil
	}
	resolved, err := b.resolve(ctx, c.ID, input)
	if err != nil {
		return err
	}
	if input.Value.IsZero() {
		defer resolved.Value.Wipe()
	}
	version, err := b.writeSecret(ctx, c, resolved)
	if err != nil {
		return err
	}
	c.addVersion(version)
	c.promote(version.Number, time.Now().UTC())
	return nil
}

// planSecret checks the secret that a request brings, and shows c with it although
// nothing was stored. What a wrapping token wraps is not known.
func (b *Broker) planSecret(ctx context.Context, c *Client, input SecretInput) error {
	if !input.given() {
		return nil
	}
	version, err := versionFor(c, input)
	if err != nil {
		return err
	}
	if !input.Wrapping.IsZero() {
		if b.unwrap == nil {
			return refusedWrapping()
		}
	} else {
		resolved, err := b.resolve(ctx, c.ID, input)
		if err != nil {
			return err
		}
		if input.Value.IsZero() {
			defer resolved.Value.Wipe()
		}
		if version.PublicKey, err = b.fit(c, resolved); err != nil {
			return err
		}
		version.OwnerVersion = resolved.ownerVersion
	}
	version.Number, version.CreateTime = c.NextVersion, time.Now().UTC()
	c.addVersion(version)
	c.promote(version.Number, version.CreateTime)
	c.added = 0
	return nil
}
