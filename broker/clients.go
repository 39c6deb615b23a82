package broker

import (
	"context"
	"time"
)

// GetClient reads one client from the store. CLIENT_NOT_FOUND, INVALID_REQUEST,
// or a reason of the store.
func (b *Broker) GetClient(ctx context.Context, id string) (*Client, error) {
	if err := CheckID("name", id); err != nil {
		return nil, err
	}
	return b.readClient(ctx, id)
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
