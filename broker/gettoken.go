package broker

import (
	"context"
	"slices"
	"time"
)

// GetToken returns a token that satisfies q: the cached one, or a new one, for
// which all callers that want the same share one request. A caller that leaves
// cancels nothing. While a refresh fails, a token that is still valid is served
// with a warning. The Token is shared and must not be changed; nor may q's lists be,
// which are kept.
//
// A token by TokenExchange is the call's alone. A token that is bound to a key or a
// certificate is handed to who shows, or says, that it holds that.
//
// INVALID_REQUEST, SCOPE_NOT_ALLOWED, TARGET_NOT_ALLOWED, CLIENT_NOT_FOUND,
// CLIENT_DISABLED, CLIENT_DELETED, DEADLINE_EXCEEDED, SHUTTING_DOWN, REPLICA_BLIND,
// AUTHORIZATION_REQUIRED and the other reasons of users' grants, a DPOP_ reason,
// TOKEN_BOUND_ELSEWHERE, TOKEN_NOT_BOUND, a SECRET_ reason, or one of the store or of the
// authorization server.
func (b *Broker) GetToken(ctx context.Context, q TokenQuery) (*Token, []Warning, error) {
	if err := checkQuery(&q); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	if err := b.blindAt(now); err != nil {
		return nil, nil, err
	}
	loaded, fresh, err := b.load(ctx, q.ClientID)
	if err != nil {
		return nil, nil, err
	}
	if !loaded.usable {
		return nil, nil, loaded.client.usable()
	}
	if fresh {
		now = time.Now()
	}
	if !loaded.plain || !q.SubjectToken.IsZero() {
		return b.getSpecial(ctx, loaded, fresh, q, now)
	}
	return b.serve(ctx, loaded, fresh, &q, now)
}

// serve serves the token at hand, or another one.
func (b *Broker) serve(ctx context.Context, loaded *loadedClient, fresh bool, q *TokenQuery, now time.Time) (*Token, []Warning, error) {
	held := b.atHand(loaded, q, now)
	if held == nil {
		var err error
		if held, err = b.lookUp(loaded, q, now); err != nil {
			return nil, nil, err
		}
	}
	if held != nil && (held.SecretVersion < loaded.minSecretVersion || !held.aliveAt(now) || held.grant != 0 && !b.grantHolds(held)) {
		held = nil
	}
	minValidity := loaded.minValidity
	if q.MinValidity != nil {
		minValidity = loaded.client.minValidity(*q)
	}
	if held == nil || !held.good(minValidity, now) || q.RejectedTokenID == held.ID {
		key, err := loaded.keyFor(q)
		if err != nil {
			return nil, nil, err
		}
		return b.getAnother(ctx, loaded.client, want{query: *q, key: key, seen: held, minValidity: minValidity, fresh: fresh}, now)
	}
	held.noteUse()
	warnings := held.serveWarnings(minValidity, now)
	if now.After(held.RefreshAfter) && q.binding == "" { // a proof is good for the call that brings it
		key, err := loaded.keyFor(q)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(slices.Clip(warnings), b.refresh(loaded.client, *q, key, held, now)...)
	}
	return held, warnings, nil
}

// getAnother is GetToken for a caller that the token in memory does not satisfy.
func (b *Broker) getAnother(ctx context.Context, c *Client, w want, now time.Time) (*Token, []Warning, error) {
	held, rejected := w.seen, w.seen != nil && w.query.RejectedTokenID == w.seen.ID
	if rejected {
		b.ledger.noteEnd(held, now)
	}
	serveHeld := func(more ...Warning) (*Token, []Warning, error) {
		held.noteUse()
		warnings := append(slices.Clip(held.serveWarnings(w.minValidity, time.Now())), more...)
		if rejected {
			warnings = append(warnings, Warning{Reason: ReasonTokenRejected})
		}
		return held, warnings, nil
	}
	lately := holdDown
	if rejected {
		lately = c.Upstream.rejectionHold()
	}
	if held != nil && now.Sub(held.IssueTime) < lately {
		return serveHeld()
	}
	if held != nil {
		if err := held.unreplacedAt(now); err != nil {
			return serveHeld(refreshFailing(err))
		}
	}
	patient := ctx
	if most := patience(ctx); held != nil && !rejected && held.ExpireTime.Sub(now) > most {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	token, err := b.mintFor(patient, c, w, now)
	if patient.Err() != nil && err != nil && ctx.Err() == nil && !held.aliveAt(time.Now()) {
		// It ended just now, before a caller on a busy machine had its turn again: there is
		// nothing to fall back to, and nobody said that the caller is in a hurry.
		token, err = b.mintFor(ctx, c, w, time.Now())
	}
	if err != nil && held != nil && held.aliveAt(time.Now()) && ReasonOf(err) != ReasonClientDisabled && ReasonOf(err) != ReasonClientDeleted {
		if ReasonOf(err) != ReasonDeadlineExceeded { // else it may yet come
			held.unreplaced.Store(&failure{err: err, at: time.Now()})
		}
		return serveHeld(refreshFailing(err))
	}
	if err != nil {
		return nil, nil, err
	}
	warnings := token.serveWarnings(w.minValidity, time.Now())
	if rejected && token.ID == held.ID {
		warnings = append(slices.Clip(warnings), Warning{Reason: ReasonTokenRejected})
	}
	return token, warnings, nil
}

func refreshFailing(err error) Warning {
	return Warning{Reason: ReasonRefreshFailing, Detail: string(ReasonOf(err))}
}

func checkQuery(q *TokenQuery) error {
	if len(q.Scopes)+len(q.Audience)+len(q.Resources)+len(q.RejectedTokenID)+len(q.Subject)+len(q.SubjectTokenType)+len(q.DPoPProof)+len(q.CertificateThumbprint) == 0 &&
		q.MinValidity == nil && q.SubjectToken.IsZero() {
		return nil // nothing to check but the id, which the index does on a miss
	}
	var v violations
	checkScopes(&v, "scopes", q.Scopes)
	checkText(&v, "audience", q.Audience, maxURLLength)
	checkTargets(&v, "resources", q.Resources, true)
	checkText(&v, "rejected_token_id", q.RejectedTokenID, maxTokenIDLength)
	checkText(&v, "subject", q.Subject, maxSubjectLength)
	checkText(&v, "subject_token_type", q.SubjectTokenType, maxURLLength)
	if len(q.SubjectToken.Reveal()) > MaxTokenBytes {
		v.add("subject_token", "has %d bytes; at most %d", len(q.SubjectToken.Reveal()), MaxTokenBytes)
	}
	checkText(&v, "dpop_proof", q.DPoPProof, maxProofLength)
	checkText(&v, "certificate_thumbprint", q.CertificateThumbprint, maxTokenIDLength)
	if q.MinValidity != nil && (*q.MinValidity < 0 || *q.MinValidity > maxMinValidity) {
		v.add("min_validity", "must lie between 0 and %v", maxMinValidity)
	}
	return v.err()
}

// serveWarnings returns the token's own warnings, and one more if it lives shorter
// than asked for. The common case shares the token's list.
func (t *Token) serveWarnings(minValidity time.Duration, now time.Time) []Warning {
	if t.ExpireTime.Sub(now) >= minValidity {
		return t.warnings
	}
	return append(slices.Clip(t.warnings), Warning{Reason: ReasonTokenShorterThanAsked})
}
