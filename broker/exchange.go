package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const defaultSubjectTokenType = "urn:ietf:params:oauth:token-type:access_token"

// getSpecial is GetToken for clients whose callers bring something of their own: a proof,
// a certificate, or the token that is exchanged.
func (b *Broker) getSpecial(ctx context.Context, loaded *loadedClient, fresh bool, q TokenQuery, now time.Time) (*Token, []Warning, error) {
	c := loaded.client
	if c.Upstream.Grant != TokenExchange && !q.SubjectToken.IsZero() {
		return nil, nil, Invalid("subject_token", "must be empty: tokens of this client are not had by token exchange")
	}
	if c.Upstream.TokenBinding == BoundByDPoP {
		var err error
		if q, err = b.checkCallersProof(c, q); err != nil {
			return nil, nil, err
		}
	}
	var token *Token
	var warnings []Warning
	var err error
	if c.Upstream.Grant == TokenExchange {
		token, warnings, err = b.exchange(ctx, c, fresh, q)
	} else {
		token, warnings, err = b.serve(ctx, loaded, fresh, &q, now)
	}
	if err == nil {
		err = token.checkCertificate(q)
	}
	if err != nil {
		return nil, nil, err
	}
	return token, warnings, nil
}

// exchange exchanges the caller's token (RFC 8693). The new one is this call's alone: it
// is not kept, not shared, and a caller that leaves ends its request.
func (b *Broker) exchange(caller context.Context, seen *Client, fresh bool, q TokenQuery) (*Token, []Warning, error) {
	if q.SubjectToken.IsZero() {
		return nil, nil, Invalid("subject_token", "is required: it is what this client exchanges")
	}
	if q.SubjectTokenType == "" {
		q.SubjectTokenType = defaultSubjectTokenType
	}
	var token *Token
	err := b.detached(caller, mintTimeout, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(caller, cancel)()
		c := seen
		if !fresh {
			switch read, err := b.readClient(ctx, seen.ID); {
			case err == nil:
				c = read
			case !outage(err):
				return err
			}
		}
		var err error
		token, err = b.exchangeNow(ctx, c, q)
		return err
	})
	if caller.Err() != nil && err != nil {
		return nil, nil, &Error{Reason: ReasonDeadlineExceeded, Op: "wait for the answer", Client: seen.ID, Err: caller.Err()}
	}
	if err != nil {
		return nil, nil, err
	}
	return token, token.serveWarnings(0, time.Now()), nil
}

func (b *Broker) exchangeNow(ctx context.Context, c *Client, q TokenQuery) (*Token, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	key, err := keyOf(c, q)
	if err != nil {
		return nil, err
	}
	current, ok := c.minting()
	if !ok {
		return nil, newError(ReasonSecretNotSet, c.ID, "")
	}
	if err := b.heldDown(c, key, time.Now(), true); err != nil {
		return nil, err
	}
	if err := b.checkParked(ctx, c, current); err != nil {
		return nil, err
	}
	token, err := b.requestCurrent(ctx, c, current, key.ask(q))
	if outage(err) && ctx.Err() == nil && !c.Upstream.limited() {
		token, err = b.exchangeInOutage(ctx, c, current, key.ask(q), err)
	}
	if err != nil {
		// What was wrong with one subject's token says nothing about the next one's.
		if reason := ReasonOf(err); parks(reason) || transient(reason) || reason == ReasonIssuanceBudgetSpent || reason == ReasonLiveTokensSpent {
			err = b.noteFailure(ctx, c, current, key, err)
		}
		return nil, err
	}
	b.failures.Invalidate(key)
	b.noteAccepted(ctx, c)
	return token, nil
}

// exchangeInOutage exchanges with the secret that was last read.
func (b *Broker) exchangeInOutage(ctx context.Context, c *Client, current SecretVersion, ask tokenAsk, cause error) (*Token, error) {
	value, ok := secret.Value{}, !c.needsSecret()
	if !ok {
		value, ok = b.secrets.get(c, current)
	}
	if !ok || checkBound(c, current) != nil {
		return nil, cause
	}
	defer value.Wipe()
	return b.request(ctx, c, current, value, ask)
}
