package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	readTimeout = 8 * time.Second
	// revalidateAfter is how old a record in memory may be when it is used before
	// it is read again in the background, where the feed cannot be followed.
	revalidateAfter = 5 * time.Second
)

// loadedClient is a client record in memory.
type loadedClient struct {
	// What a call for a token at hand needs comes first, so that it lies together: the
	// tokens, and what client says of being usable, of the floor, and of minValidity
	// without a wish of the caller.
	usual            usualToken
	last             atomic.Pointer[lastServed]
	usable           bool
	minSecretVersion int64
	minValidity      time.Duration
	// plain says that callers of this client bring nothing of their own.
	plain bool
	// readTime is when the read began that brought the record, tryTime when the last
	// one ended that failed, if that was later.
	readTime, tryTime time.Time
	client            *Client
	// revalidating says that somebody is reading the record again.
	revalidating atomic.Bool
	// defaultKey is the token key of a request that names no scope, no target and no
	// subject; its error, if it has one, is defaultErr.
	defaultKey tokenKey
	// settings is that of all its keys.
	settings   string
	defaultErr error
}

// clientName is an id as a key of the index. One that is not long lies in the key itself:
// to compare it touches no memory besides, which with many clients is in no cache.
type clientName struct {
	size uint8 // a short id with zero bytes after it is another one
	head [47]byte
	tail string
}

func nameOf(id string) clientName {
	var name clientName
	n := copy(name.head[:], id)
	name.size, name.tail = uint8(n), id[n:]
	return name
}

// keyFor returns the token key of a query. SCOPE_NOT_ALLOWED, TARGET_NOT_ALLOWED.
func (l *loadedClient) keyFor(q *TokenQuery) (tokenKey, error) {
	if len(q.Scopes)+len(q.Audience)+len(q.Resources) == 0 {
		if len(q.Subject)+len(q.binding) == 0 {
			return l.defaultKey, l.defaultErr
		}
		key := l.defaultKey
		key.subject, key.binding = q.Subject, q.binding
		return key, l.client.Upstream.checkSubject(q.Subject)
	}
	return keyWith(l.client, *q, l.settings)
}

// load returns the client record in memory, or reads it, and then says that it is
// fresh. One that may not be true any more is served and read again in the
// background, so that a store that is down takes no warm token away.
func (b *Broker) load(ctx context.Context, id string) (loaded *loadedClient, fresh bool, err error) {
	// Counting the use of a record, which keeps it in memory, touches others in the
	// cache: lookUp does so once in a while.
	if entry, ok := b.clients.GetEntryQuietly(nameOf(id)); ok {
		loaded := entry.Value
		if b.due(loaded) && loaded.revalidating.CompareAndSwap(false, true) {
			b.reads.DoChan(id, b.readIntoMemory(b.working, id))
		}
		return loaded, false, nil
	}
	if err := CheckID("client", id); err != nil {
		return nil, false, err
	}
	read, err := await(ctx, b.reads.DoChan(id, b.readIntoMemory(ctx, id)))
	if err != nil {
		return nil, false, err
	}
	return read.(*loadedClient), true, nil // what was read, not what is in memory: that may have been evicted
}

func (b *Broker) readIntoMemory(begun context.Context, id string) func() (any, error) {
	return func() (any, error) {
		var loaded *loadedClient
		err := b.detached(begun, readTimeout, func(ctx context.Context) error {
			begun := time.Now()
			c, err := b.readClient(ctx, id)
			if err != nil {
				b.keepUnread(id)
				return err
			}
			loaded = newLoaded(c, begun)
			return nil
		})
		return loaded, err
	}
}

// keepUnread makes the record that could not be read again due later, not at once.
func (b *Broker) keepUnread(id string) {
	b.clients.ComputeIfPresent(nameOf(id), func(old *loadedClient) (*loadedClient, otter.ComputeOp) {
		again := newLoaded(old.client, old.readTime)
		again.tryTime = time.Now()
		return again, otter.WriteOp
	})
}

// readClient reads the record from the store: CLIENT_NOT_FOUND if there never was
// one, or if it was purged. It refreshes the one in memory.
func (b *Broker) readClient(ctx context.Context, id string) (*Client, error) {
	begun := time.Now()
	c, err := b.fetchClient(ctx, id)
	if err == nil && c.State() == StatePurged {
		err = newError(ReasonClientNotFound, id, "")
	}
	if ReasonOf(err) == ReasonClientNotFound {
		b.clients.Invalidate(nameOf(id))
		b.watchers.wake(id)
	}
	if err != nil {
		return nil, err
	}
	b.remember(newLoaded(c, begun))
	return c, nil
}

// fetchClient reads the record from the store, also one that only says that the client
// was purged, and leaves memory alone. Its errors are those of readClient.
func (b *Broker) fetchClient(ctx context.Context, id string) (*Client, error) {
	key := clientKey(id)
	record, err := b.read(ctx, key)
	var absent *AbsentError
	switch {
	case errors.As(err, &absent) && absent.How == AbsentNeverExisted:
		return nil, newError(ReasonClientNotFound, id, "")
	case err != nil:
		return nil, &Error{Reason: ReasonOf(err), Op: "read client record", Client: id, Detail: orElse(AsError(err).Detail, key), RetryAfter: AsError(err).RetryAfter, Err: err}
	}
	var r clientRecord
	if err := decode(key, record, &r, "id", "upstream", "next_version"); err != nil {
		return nil, fmt.Errorf("read client record: %w", err)
	}
	if r.ID != id {
		return nil, newError(ReasonRecordCorrupt, id, "%s: holds the record of another client", key)
	}
	c := &r.Client
	c.UID, c.version = r.header.UID, record.Version
	return c, nil
}

// newLoaded returns c as a call to the store that began at begun found or left it.
func newLoaded(c *Client, begun time.Time) *loadedClient {
	loaded := &loadedClient{
		client: c, usable: c.State() == StateActive, minSecretVersion: c.MinSecretVersion, minValidity: c.minValidity(TokenQuery{}),
		plain:    c.Upstream.TokenBinding == "" && c.Upstream.Grant != TokenExchange,
		settings: settingsOf(c), readTime: begun, tryTime: begun,
	}
	if loaded.defaultKey, loaded.defaultErr = keyWithout(c, TokenQuery{}, loaded.settings); loaded.defaultErr == nil {
		loaded.defaultErr = c.Upstream.checkSubject("")
	}
	return loaded
}

// remember keeps a record in memory unless a later revision is there that a later
// call brought. A later call that brings an earlier revision wins: the store was
// restored from a backup.
func (b *Broker) remember(loaded *loadedClient) {
	c, changed := loaded.client, false
	b.clients.Compute(nameOf(c.ID), func(old *loadedClient, found bool) (*loadedClient, otter.ComputeOp) {
		newer := found && (old.client.UID != c.UID || old.client.version > c.version)
		if newer && !old.readTime.Before(loaded.readTime) {
			old.revalidating.Store(false)
			return old, otter.CancelOp
		}
		changed = found && (old.client.UID != c.UID || old.client.version != c.version)
		return loaded, otter.WriteOp
	})
	if changed {
		b.watchers.wake(c.ID)
	}
}

// SoonestSecretExpiry returns the earliest declared expiry of a current secret
// among the clients in memory that get tokens; zero if none is declared to expire.
func (b *Broker) SoonestSecretExpiry() time.Time {
	var soonest time.Time
	for loaded := range b.clients.Values() {
		current, ok := loaded.client.Staged(Current)
		if !ok || loaded.client.State() != StateActive || current.ExpireTime.IsZero() {
			continue
		}
		if soonest.IsZero() || current.ExpireTime.Before(soonest) {
			soonest = current.ExpireTime
		}
	}
	return soonest
}

// countUse keeps a record in memory longer than those that are used less.
func (b *Broker) countUse(loaded *loadedClient) { b.clients.GetIfPresent(nameOf(loaded.client.ID)) }

// Labels returns a client's labels for a decision about access: those in memory, or
// else of the store; nil if there is no such client or its record cannot be read. Its
// only errors are those of a store that is away, which then are the answer for every
// client alike.
func (b *Broker) Labels(ctx context.Context, id string) (map[string]string, error) {
	loaded, _, err := b.load(ctx, id)
	if err == nil {
		b.countUse(loaded)
		return loaded.client.Labels, nil
	}
	reason := string(ReasonOf(err))
	if reason == string(ReasonClientNotFound) || strings.HasPrefix(reason, "RECORD_") {
		return nil, nil
	}
	return nil, err
}
