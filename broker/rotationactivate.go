package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// activate tells the provider to take the new secret, which ends the replaced one.
func (run *rotationRun) activate(ctx context.Context) error {
	rotator, traits, err := run.rotator(run.c)
	if err != nil {
		run.callOperator("activate", err)
		return run.save(ctx)
	}
	if err := run.bridge(ctx); err != nil && run.r.Intent == intendNothing {
		run.retry("bridge", err, 0)
		return run.save(ctx)
	}
	call, err := run.rotatorCall(ctx, traits)
	if err != nil {
		return run.outsideFailed(ctx, "activate", err)
	}
	version, _ := run.c.Secret(run.r.SecretVersion)
	if call.New, err = run.readSecret(ctx, run.c, version); err != nil {
		return run.outsideFailed(ctx, "activate", err)
	}
	defer call.New.Wipe()
	call.Handle = version.Handle
	first := run.r.Intent == intendNothing
	run.r.Intent, run.r.Replaced = intendActivate, true // from here on it may have been ended
	if err := run.save(ctx); err != nil {
		return err
	}
	limited, cancel := run.outside(ctx)
	defer cancel()
	if err := rotator.Activate(limited, call); err != nil { // doing so twice succeeds
		if first && known(err) {
			run.r.Intent, run.r.Replaced = intendNothing, false
		}
		return run.outsideFailed(ctx, "activate", err)
	}
	run.r.Intent, run.r.Activated, run.r.ActivateTime, run.r.Attempts = intendNothing, true, time.Now().UTC(), 0
	run.r.note(time.Now().UTC(), "activate", "")
	return run.save(ctx)
}

// bridge has tokens made with the secret that is about to end, for all keys that have
// one: callers live on them until the new secret is current.
func (run *rotationRun) bridge(ctx context.Context) error {
	if run.r.Bridged || run.c.Rotation.TokensEndWithSecret || run.c.usable() != nil {
		return nil
	}
	queries, err := run.liveQueries(ctx, run.c)
	if err != nil {
		return err
	}
	for _, q := range queries {
		_, _, err := run.GetToken(ctx, q)
		switch reason := ReasonOf(err); {
		case parks(reason), reason == ReasonLiveTokensSpent, grantEnds(reason): // no other one can be had: what is there has to do
			run.r.note(time.Now().UTC(), "bridge", reason)
		case err != nil && !errors.Is(err, context.Canceled):
			return err
		}
	}
	run.r.Bridged = true
	if len(queries) > 0 {
		run.r.note(time.Now().UTC(), "bridge", "")
	}
	return run.save(ctx)
}

// liveQueries returns a query for each live token of c, that asks for another one.
func (b *Broker) liveQueries(ctx context.Context, c *Client) ([]TokenQuery, error) {
	now, found := time.Now(), map[string]TokenQuery{}
	add := func(q TokenQuery, id string) {
		q.ClientID, q.RejectedTokenID = c.ID, id
		if c.Upstream.TokenBinding == BoundByDPoP { // only its caller can ask for another one
			return
		}
		if _, err := keyOf(c, q); err == nil {
			found[strings.Join(q.Scopes, " ")+"\x00"+q.Audience+"\x00"+strings.Join(q.Resources, " ")+"\x00"+q.Subject] = q
		}
	}
	folder := "tokens/" + c.UID + "/"
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	names, err := b.store.List(limited, folder)
	if err != nil {
		return nil, err
	}
	keys, err := b.sealer(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := folder + strings.TrimSuffix(name, "/")
		r, _, err := b.readToken(ctx, c, path)
		if err != nil {
			return nil, err
		}
		if r.Token == nil || !r.Token.ExpireTime.After(now) {
			continue
		}
		if shared, err := r.Token.open(keys, path); err == nil && shared.Query != nil {
			shared.Query.CertificateThumbprint = shared.Certificate
			add(*shared.Query, secret.NewString(shared.Access).ID())
		}
	}
	for key, t := range b.tokens.All() {
		if key.uid == c.UID && t.aliveAt(now) {
			q := key.query(c.ID)
			q.CertificateThumbprint = t.certificate
			add(q, t.ID)
		}
	}
	queries := make([]TokenQuery, 0, len(found))
	for _, q := range found {
		queries = append(queries, q)
	}
	return queries, nil
}

// activateAndPromote ends the replaced secret where the provider wants that, and makes
// the new one current.
func (run *rotationRun) activateAndPromote(ctx context.Context) error {
	pending, ok := run.c.Staged(Pending)
	if !ok || pending.Number != run.r.SecretVersion {
		return nil
	}
	if run.r.Shape == ShapeActivated && !run.r.Activated {
		return run.activate(ctx)
	}
	c, err := run.promoteFor(ctx, pending)
	if err != nil {
		if reason := ReasonOf(err); reason == ReasonTooManySecretVersions || reason == ReasonDestinationNotBound {
			run.callOperator("promote", err)
			return run.save(ctx)
		}
		if ReasonOf(err) == ReasonConcurrentChange {
			return nil
		}
		return err
	}
	run.c = c
	run.r.promoted(c, "promote")
	if err := run.save(ctx); err != nil {
		return err
	}
	if c.Rotation.Account != "" {
		return run.freeAccount(ctx, c)
	}
	return nil
}

// promoteFor promotes as the rotation asks. A compromised secret loses its label in
// the same write, so that nothing can fall back to it.
func (run *rotationRun) promoteFor(ctx context.Context, pending SecretVersion) (*Client, error) {
	if !run.r.Compromised {
		return run.promote(ctx, run.c, pending, run.r.DropTokens)
	}
	if err := checkBound(run.c, pending); err != nil {
		return nil, err
	}
	c := run.c.clone()
	replaced, had := c.Staged(Current)
	c.promote(pending.Number, time.Now().UTC())
	if had {
		c.beginDestroying(replaced.Number)
		run.r.ReplacedVersion = replaced.Number
	}
	c.MinSecretVersion = pending.Number
	return run.commit(ctx, c)
}
