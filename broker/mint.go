package broker

import (
	"context"
	"errors"
	"time"
)

// flightTimeout bounds a flight: a lease that somebody else let expire, and then a
// mint of one's own with what the store takes.
const flightTimeout = leaseDuration + mintTimeout + readTimeout

// want is what a mint is for.
type want struct {
	query TokenQuery
	key   tokenKey
	// seen is the token that whoever wants another one found in memory; nil if none.
	seen        *Token
	minValidity time.Duration
	// background says that nobody waits.
	background bool
	// fresh says that the client record was read for this very call.
	fresh bool
}

// rejects reports whether t is the token that an API refused.
func (w want) rejects(t *Token) bool {
	return w.query.RejectedTokenID != "" && w.query.RejectedTokenID == t.ID
}

// refresh starts a mint in the background unless one was begun or failed lately:
// each caller that joined a flight would be kept in its list until it lands, and a
// store that fails fast would be asked as fast as callers come. It warns while
// refreshing fails.
func (b *Broker) refresh(c *Client, q TokenQuery, key tokenKey, held *Token, now time.Time) []Warning {
	if held.beginRefresh(now) && b.heldDown(c, key, now, false) == nil {
		mint := b.mint(b.working, c, want{query: q, key: key, seen: held, background: true})
		b.flights.DoChan(key.String(), func() (any, error) {
			token, err := mint()
			if err != nil && b.stopping.Err() == nil { // nobody waits who would be told
				b.log.WarnContext(b.working, "token not refreshed", "client", c.ID, "reason", ReasonOf(err), "cause", err)
			}
			return token, err
		})
	}
	if f, ok := b.failures.GetIfPresent(key); ok {
		return []Warning{refreshFailing(f.err)}
	}
	return nil
}

// mintFor joins or starts the one mint of the wanted key and waits for it. A token
// that came back below the floor, because its secret was compromised meanwhile, or
// that is the rejected one, because the flight was begun for somebody else, is
// minted once more.
func (b *Broker) mintFor(ctx context.Context, c *Client, w want, now time.Time) (*Token, error) {
	if err := b.heldDown(c, w.key, now, true); err != nil {
		return nil, err
	}
	var token *Token
	for range 2 {
		result, err := await(ctx, b.flights.DoChan(w.key.String(), b.mint(ctx, c, w)))
		if err != nil {
			return nil, err
		}
		token = result.(*Token)
		loaded, ok := b.clients.GetIfPresent(nameOf(c.ID))
		if ok && loaded.client.TokenGeneration > token.generation { // revoked while it was asked for
			if w.key, err = keyOf(loaded.client, w.query); err != nil {
				return nil, err
			}
			w.seen, w.fresh = nil, false
			continue
		}
		above := !ok || token.SecretVersion >= loaded.client.MinSecretVersion
		if above && (!w.rejects(token) || !token.IssueTime.Before(now)) {
			return token, nil
		}
		w.seen, w.fresh = token, false
	}
	if w.seen == token && w.rejects(token) {
		return token, nil
	}
	return nil, newError(ReasonConcurrentChange, c.ID, "its secret changed while a token was requested")
}

// mint returns the work of a flight: one mint that belongs to no caller; of begun, its
// starter's context, only the trace is kept. Since its starter looked into memory,
// another flight may have ended, well or badly.
func (b *Broker) mint(begun context.Context, c *Client, w want) func() (any, error) {
	return func() (any, error) {
		if token, ok := b.tokens.GetIfPresent(w.key); ok && token != w.seen && token.SecretVersion >= c.MinSecretVersion &&
			token.aliveAt(time.Now()) && !w.rejects(token) && b.grantHolds(token) {
			return token, nil
		}
		if err := b.heldDown(c, w.key, time.Now(), !w.background); err != nil {
			return nil, err
		}
		if b.stopping.Err() != nil {
			return nil, newError(ReasonShuttingDown, c.ID, "")
		}
		var token *Token
		err := b.detached(begun, flightTimeout, func(ctx context.Context) error {
			var err error
			token, err = b.mintNow(ctx, c, w)
			return err
		})
		return token, err
	}
}

// mintNow gets a token from the store's other users or from the authorization server.
func (b *Broker) mintNow(ctx context.Context, seen *Client, w want) (*Token, error) {
	token, err := b.mintFromStore(ctx, seen, w)
	if ReasonOf(err) == ReasonSecretDestroyed { // as when it was retired since the record was read, which now names another
		w.fresh = false
		token, err = b.mintFromStore(ctx, seen, w)
	}
	switch {
	case ReasonOf(err) == ReasonStoreSealed:
		b.secrets.forget() // an operator's emergency stop holds on when the store then goes away
	case outage(err) && ctx.Err() == nil:
		return b.mintInOutage(ctx, w, err)
	}
	return token, err
}

// mintFromStore reads what decides (the record, the secret) from the store, not from
// memory, and gets a token.
func (b *Broker) mintFromStore(ctx context.Context, seen *Client, w want) (*Token, error) {
	c, err := seen, error(nil)
	if !w.fresh {
		c, err = b.readClient(ctx, w.query.ClientID)
	}
	if err != nil {
		return nil, err
	}
	c = b.follow(ctx, c)
	if err := c.usable(); err != nil {
		return nil, err
	}
	key, err := keyOf(c, w.query) // of the settings as they are now
	if err != nil {
		return nil, err
	}
	current, ok := c.minting()
	if !ok {
		return nil, newError(ReasonSecretNotSet, c.ID, "")
	}
	if err := b.checkParked(ctx, c, current); err != nil {
		b.failures.Set(key, standing(err, current.Number, time.Now()))
		return nil, err
	}
	if b.shares(c) {
		token, err := b.mintShared(ctx, c, current, key, w)
		if !errors.Is(err, errNotShared) || c.Upstream.limited() {
			return token, err
		}
		b.log.WarnContext(ctx, "token not shared", "client", c.ID, "reason", ReasonOf(err), "cause", err)
	}
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	token, err := b.requestCurrent(ctx, c, current, key.ask(w.query))
	if err != nil {
		return nil, b.noteFailure(ctx, c, current, key, err)
	}
	b.succeeded(ctx, c, key, token)
	return token, nil
}

// install makes token the one that is served. Nobody else may have it yet.
func (b *Broker) install(key tokenKey, token *Token) {
	token.Scopes = b.scopeLists.of(token.Scopes)
	b.failures.Invalidate(key)
	b.tokens.Set(key, token)
	b.watchers.wake(token.clientID)
}

// succeeded makes token the one that is served and forgets what failed before it.
func (b *Broker) succeeded(ctx context.Context, c *Client, key tokenKey, token *Token) {
	b.install(key, token)
	b.noteAccepted(ctx, c)
}

// noteAccepted forgets that the client's credentials were rejected.
func (b *Broker) noteAccepted(ctx context.Context, c *Client) {
	if _, parked := b.parked.GetIfPresent(c.UID); !parked {
		return
	}
	if err := b.unpark(ctx, c); err != nil {
		b.log.WarnContext(ctx, "other replicas are not told that a client is parked no more", "client", c.ID, "reason", ReasonOf(err))
	}
}
