package broker

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// purgeLooksFor is how long after a purge its remains are looked for: a writer that was
// frozen may bring some late.
const purgeLooksFor = 30 * 24 * time.Hour

// Purge asks for the end of a deleted client. Etag or Confirm is required.
type Purge struct {
	ID string
	// Etag, if not empty, must be the present one.
	Etag string
	// Confirm, if not empty, must be the client's uid.
	Confirm string
}

// PurgeClient removes a deleted client for good: its record becomes a tombstone, then
// its grants, its tokens, its upstream, usage and rotation records and its secrets are
// destroyed, in this order. From the tombstone on there is no such client for all but
// this method, no write that began before can be committed, and a crash leaves what a
// repetition, or Run, ends. Repeating what is done succeeds. Tokens are not revoked at
// the authorization server: see RevokeTokens.
//
// The tombstone stays until CreateClient writes over it, which it does once the purge
// is done: destroying a record is not check-and-set, and could meet the next client's.
//
// CLIENT_NOT_FOUND, CLIENT_NOT_DELETED, INVALID_REQUEST, ETAG_MISMATCH,
// ROTATION_UNDER_WAY while a new secret is being made or tried, CONCURRENT_CHANGE, or a
// reason of the store.
func (b *Broker) PurgeClient(ctx context.Context, p Purge) error {
	if err := CheckID("name", p.ID); err != nil {
		return err
	}
	if p.Etag == "" && p.Confirm == "" {
		return Invalid("confirm", "is required, unless etag is given: the client's uid")
	}
	c, err := b.fetchClient(ctx, p.ID)
	if err != nil {
		return err
	}
	if err := p.meets(c); err != nil {
		return err
	}
	return b.purge(ctx, c)
}

// meets reports whether p is about this very client. The etag of one that is being
// purged is no longer what anybody saw, but begins with its uid.
func (p Purge) meets(c *Client) error {
	purged := c.State() == StatePurged
	switch {
	case purged && p.Confirm != c.UID && !strings.HasPrefix(p.Etag, c.UID+"-"):
		return newError(ReasonClientNotFound, p.ID, "")
	case purged:
		return nil
	case p.Confirm != "" && p.Confirm != c.UID:
		return Invalid("confirm", "is not the uid of the present client")
	case p.Etag != "" && p.Etag != c.Etag():
		return newError(ReasonEtagMismatch, p.ID, "the present etag is %s", c.Etag())
	}
	return nil
}

// purge begins or ends the purge of a client.
func (b *Broker) purge(ctx context.Context, c *Client) error {
	if c.State() != StatePurged {
		var err error
		if c, err = b.bury(ctx, c); err != nil {
			return err
		}
	}
	if !c.PurgeEndTime.IsZero() {
		return nil
	}
	if err := b.destroyRemains(ctx, c); err != nil {
		return err
	}
	end := *c
	end.PurgeEndTime = time.Now().UTC()
	_, err := b.writeTombstone(ctx, &end)
	if ReasonOf(err) != ReasonConcurrentChange {
		return err
	}
	// Another one may have ended it at the same moment.
	if c, err = b.fetchClient(ctx, c.ID); err == nil && c.UID == end.UID && c.PurgeEndTime.IsZero() {
		err = newError(ReasonConcurrentChange, end.ID, "")
	}
	return err
}

// bury puts a tombstone over the record of a deleted client.
func (b *Broker) bury(ctx context.Context, c *Client) (*Client, error) {
	if c.State() != StateDeleted {
		return nil, newError(ReasonClientNotDeleted, c.ID, "it is %s", c.State())
	}
	r, _, err := b.journal(ctx, c)
	if err != nil && !strings.HasPrefix(string(ReasonOf(err)), "RECORD_") { // what nobody can read holds up nothing
		return nil, err
	}
	if err == nil && r != nil && r.goesOn() && (r.State.before() || r.State == RotationAborting) {
		return nil, newError(ReasonRotationUnderWay, c.ID, "it is %s; abort it first", r.State)
	}
	return b.writeTombstone(ctx, &Client{
		ID: c.ID, UID: c.UID, NextVersion: c.NextVersion, CreateTime: c.CreateTime, DeleteTime: c.DeleteTime, PurgeTime: time.Now().UTC(), version: c.version,
	})
}

// writeTombstone commits the record of a purged client over the revision it was read as.
func (b *Broker) writeTombstone(ctx context.Context, c *Client) (*Client, error) {
	c.UpdateTime = time.Now().UTC()
	record := &clientRecord{header: header{UID: c.UID}, Client: *c}
	defer b.changing(ctx, c.ID)()
	version, err := b.write(ctx, clientKey(c.ID), c.version, &record.header, record)
	if err != nil {
		e := AsError(err)
		if e.Reason == ReasonStoreConflict {
			return nil, newError(ReasonConcurrentChange, c.ID, "")
		}
		return nil, &Error{Reason: e.Reason, Op: "write client record", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	c.version = version
	b.secrets.forgetClient(c.UID)
	b.clients.Invalidate(nameOf(c.ID))
	b.watchers.wake(c.ID)
	return c, nil
}

// destroyRemains destroys all that a purged client has besides its tombstone. What lies
// there under other uids is somebody else's.
func (b *Broker) destroyRemains(ctx context.Context, c *Client) error {
	for _, folder := range []string{"grants/" + c.UID + "/", "tokens/" + c.UID + "/"} {
		if err := b.destroyUnder(ctx, folder, ""); err != nil {
			return err
		}
	}
	for _, key := range []string{upstreamKey(c.UID), "usage/" + c.UID, rotationKey(c.UID)} {
		if err := b.destroyRecord(ctx, key); err != nil {
			return err
		}
	}
	return b.destroyUnder(ctx, "secrets/"+c.ID+"/", c.UID+"-")
}

// destroyUnder destroys the records directly under folder whose names begin with prefix.
func (b *Broker) destroyUnder(ctx context.Context, folder, prefix string) error {
	names, err := b.store.List(ctx, folder)
	if err != nil {
		return fmt.Errorf("list what is left of a client: %w", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) || strings.HasSuffix(name, "/") {
			continue
		}
		if err := b.destroyRecord(ctx, folder+name); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) destroyRecord(ctx context.Context, key string) error {
	if err := b.store.Destroy(ctx, key); err != nil {
		return fmt.Errorf("destroy what is left of a client: %w", err)
	}
	return nil
}
