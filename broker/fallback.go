package broker

import (
	"context"
	"slices"
	"time"
)

const (
	// rollBackRefusals in rollBackAttempts that lie refusalPause apart, and no success
	// between them, prove that the authorization server does not take a new secret.
	rollBackRefusals = 3
	rollBackAttempts = 2
	refusalPause     = 10 * time.Second
)

// refusedSecret is what replicas know of a current secret that the authorization server
// refuses while a previous one is there to fall back to.
type refusedSecret struct {
	Version int64 `json:"version"`
	// Refusals counts all since the provider must know the secret, Attempts those of
	// them that came refusalPause after the one before.
	Refusals int `json:"refusals"`
	Attempts int `json:"attempts"`
	// Time is of the last attempt.
	Time time.Time `json:"time"`
	// PreviousWorked says that a token was had with the previous secret since.
	PreviousWorked bool `json:"previous_worked,omitempty"`
}

// proven reports whether a rollback is due.
func (r *refusedSecret) proven() bool {
	return r != nil && r.Refusals >= rollBackRefusals && r.Attempts >= rollBackAttempts && r.PreviousWorked
}

// fallback returns the version that is asked with where current is refused: the
// previous one, unless its tokens are not served.
func (c *Client) fallback(current SecretVersion) (SecretVersion, bool) {
	previous, ok := c.Staged(Previous)
	ok = ok && previous.Number >= c.MinSecretVersion && current.Stage == Current && checkBound(c, previous) == nil
	return previous, ok
}

// requestCurrent gets a token with the current secret or, where that is refused, with the
// previous one.
func (b *Broker) requestCurrent(ctx context.Context, c *Client, current SecretVersion, ask tokenAsk) (*Token, error) {
	return b.orPrevious(ctx, c, current, ask, func(ctx context.Context) (*Token, error) { return b.requestWith(ctx, c, current, ask) })
}

// orPrevious gets a token by request, which asks with the current secret, or, where the
// authorization server refuses that one and takes the previous one still, with the
// previous one. That is remembered, told with each such token, and ends in a rollback
// where the provider's secrets overlap.
func (b *Broker) orPrevious(ctx context.Context, c *Client, current SecretVersion, ask tokenAsk, request func(context.Context) (*Token, error)) (*Token, error) {
	previous, ok := c.fallback(current)
	if !ok {
		return request(ctx)
	}
	record, _, err := b.readUpstream(ctx, c)
	if err != nil {
		return request(ctx)
	}
	known := record.Refused
	if known != nil && known.Version != current.Number {
		known = nil
	}
	if known != nil && known.PreviousWorked && time.Since(known.Time) < known.pause() {
		if token, err := b.requestPrevious(ctx, c, previous, ask); err == nil {
			return token, nil
		}
	}
	token, err := request(ctx)
	switch {
	case err == nil && known != nil:
		b.forgetRefusal(ctx, c)
		return token, nil
	case ReasonOf(err) != ReasonClientRejected:
		return token, err
	}
	token, previousErr := b.requestPrevious(ctx, c, previous, ask)
	b.noteRefusal(ctx, c, current, previousErr == nil)
	if previousErr != nil {
		return nil, err
	}
	return token, nil
}

// pause is how long after a refusal the current secret is not tried again: some servers
// lock a client out that shows a wrong secret too often.
func (r *refusedSecret) pause() time.Duration {
	if !r.proven() {
		return refusalPause
	}
	return probeAfter[min(r.Attempts-rollBackAttempts, len(probeAfter)-1)]
}

// requestPrevious gets a token with the previous secret, and says so beside it.
func (b *Broker) requestPrevious(ctx context.Context, c *Client, previous SecretVersion, ask tokenAsk) (*Token, error) {
	token, err := b.requestWith(ctx, c, previous, ask)
	if err == nil {
		token.warnings = append(slices.Clip(token.warnings), Warning{Reason: ReasonUsingPreviousSecret})
	}
	return token, err
}

// noteRefusal remembers for all replicas that current was refused, and rolls back when
// that is proven.
func (b *Broker) noteRefusal(ctx context.Context, c *Client, current SecretVersion, previousWorked bool) {
	ctx = context.WithoutCancel(ctx)
	_, traits, _ := b.rotator(c)
	known := current.PromoteTime.Add(orDefault(c.Rotation.Propagation, traits.Propagation))
	first := false
	record, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		now := time.Now().UTC()
		first = previousWorked && (r.Refused == nil || r.Refused.Version != current.Number || !r.Refused.PreviousWorked)
		if r.Refused == nil || r.Refused.Version != current.Number {
			r.Refused = &refusedSecret{Version: current.Number}
		}
		counts, apart := !now.Before(known), now.Sub(r.Refused.Time) >= refusalPause
		if counts {
			r.Refused.Refusals++
		}
		if counts && apart {
			r.Refused.Attempts++
		}
		if apart {
			r.Refused.Time = now
		}
		r.Refused.PreviousWorked = r.Refused.PreviousWorked || previousWorked
		return true, nil
	})
	if err != nil {
		b.log.WarnContext(ctx, "other replicas are not told that a secret is refused", "client", c.ID, "reason", ReasonOf(err))
		return
	}
	if first {
		b.tell(ctx, Event{Type: EventUsingPreviousSecret, ClientID: c.ID, SecretVersion: current.Number, Reason: ReasonUsingPreviousSecret})
	}
	if record.Refused.proven() {
		b.rollBackRefused(ctx, c.ID)
	}
}

func (b *Broker) forgetRefusal(ctx context.Context, c *Client) {
	_, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		had := r.Refused != nil
		r.Refused = nil
		return had, nil
	})
	if err != nil {
		b.log.WarnContext(ctx, "other replicas are not told that a secret is accepted again", "client", c.ID, "reason", ReasonOf(err))
	}
}

// rollBackRefused rolls a rotation back whose new secret is proven to be refused, if the
// provider takes both and has had time to learn of the new one.
func (b *Broker) rollBackRefused(ctx context.Context, id string) {
	c, err := b.GetClient(ctx, id)
	if err != nil {
		return
	}
	r, _, err := b.journal(ctx, c)
	if err != nil || r == nil || r.State != RotationPromoted || r.Compromised {
		return
	}
	if r.Shape != ShapeOverlapping && r.Shape != ShapeKeyPair {
		return
	}
	previous, ok := c.Staged(Previous)
	current, _ := c.Staged(Current)
	if !ok || current.Number != r.SecretVersion || previous.Number != r.ReplacedVersion {
		return
	}
	if c, err = b.rollBack(ctx, c, previous); err != nil {
		b.log.WarnContext(ctx, "secret not rolled back", "client", id, "reason", ReasonOf(err), "cause", err)
		return
	}
	b.noteRotation(ctx, c, nil, func(r *rotationRecord) {
		r.Reason, r.Detail = ReasonClientRejected, "the authorization server refused the new secret and took the replaced one"
	})
	b.forgetRefusal(ctx, c)
}
