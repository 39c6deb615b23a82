package broker

import (
	"context"
	"errors"
	"strings"
	"time"
)

const (
	// After a failure nobody asks again for holdDown, doubled with each further
	// failure up to maxHoldDown, and up to maxWaitingHoldDown while callers wait
	// without a good token; a longer Retry-After wins, up to maxRetryAfter.
	holdDown           = 5 * time.Second
	maxHoldDown        = 5 * time.Minute
	maxWaitingHoldDown = 30 * time.Second
	maxRetryAfter      = 5 * time.Minute
)

// failure remembers why the last mint of a key failed. It is immutable.
type failure struct {
	err           error
	secretVersion int64
	count         int
	at            time.Time
	// hold is how long nobody asks again in the background, waitingHold how long
	// nobody does while callers wait.
	hold, waitingHold time.Duration
	// retryAt is when it is worth asking again where that is later than the hold; zero
	// if it is not.
	retryAt time.Time
	// ended says that asking again changes nothing before somebody acts.
	ended bool
}

// newFailure is the failure that follows last, which may be nil, at now.
func newFailure(last *failure, err error, secretVersion int64, now time.Time) *failure {
	e := AsError(err)
	f := &failure{err: err, secretVersion: secretVersion, count: 1, at: now}
	if last != nil && last.secretVersion == secretVersion {
		f.count = last.count + 1
	}
	if errors.Is(err, errNotAsked) { // somebody else's failures do not add up to one's own
		f.count--
		f.hold, f.waitingHold = e.RetryAfter, e.RetryAfter
		if last != nil {
			f.hold = max(f.hold, last.hold)
		}
		return f
	}
	f.hold = min(holdDown<<min(f.count-1, 10), maxHoldDown)
	f.waitingHold = min(f.hold, maxWaitingHoldDown)
	retryAfter := min(e.RetryAfter, maxRetryAfter)
	f.hold, f.waitingHold = max(f.hold, retryAfter), max(f.waitingHold, retryAfter)
	return f
}

func (f *failure) until(waiting bool) time.Time {
	if waiting {
		return f.at.Add(f.waitingHold)
	}
	return f.at.Add(f.hold)
}

// told is the error that callers get at now: why, and when it is worth asking again.
func (f *failure) told(now time.Time) error {
	e := *AsError(f.err)
	if f.ended {
		return &e
	}
	retryAt := f.at.Add(f.waitingHold)
	if f.retryAt.After(retryAt) {
		retryAt = f.retryAt
	}
	if wait := retryAt.Sub(now); wait > 0 {
		e.RetryAfter = wait
	}
	return &e
}

// heldDown returns the last failure while it is not yet time to ask again; waiting
// says whether callers wait. A new secret ends the wait at once.
func (b *Broker) heldDown(c *Client, key tokenKey, now time.Time, waiting bool) error {
	f, ok := b.failures.GetIfPresent(key)
	if !ok || !now.Before(f.until(waiting)) {
		return nil
	}
	if current, ok := c.minting(); !ok || current.Number != f.secretVersion {
		return nil
	}
	return f.told(now)
}

// noteFailure makes the next callers wait after a failure at the authorization
// server. Failures of the store have no hold-down: they may end any moment and
// asking the store again costs little. It returns err with the wait as RetryAfter,
// so that those who waited for this mint are told the same as those who come later.
func (b *Broker) noteFailure(ctx context.Context, c *Client, current SecretVersion, key tokenKey, err error) error {
	last, _ := b.failures.GetIfPresent(key)
	now := time.Now()
	var f *failure
	switch reason := ReasonOf(err); {
	case parks(reason) && !(reason == ReasonGrantRejected && key.subject != ""): // one user's grant is not the client's
		p := b.park(ctx, c, current, err)
		f = standing(p.refusal(c, now), current.Number, now)
	case reason == ReasonIssuanceBudgetSpent || reason == ReasonLiveTokensSpent:
		f = standing(err, current.Number, now)
	case fromUpstream(reason):
		f = newFailure(last, err, current.Number, now)
	case grantEnds(reason):
		f = &failure{err: err, secretVersion: current.Number, count: 1, at: now, hold: maxWaitingHoldDown, waitingHold: holdDown, ended: true}
	default:
		return err
	}
	b.failures.Set(key, f)
	b.ledger.noteFailure(c, current.Number, err, now)
	return f.told(now)
}

// standing is a failure that lasts for its RetryAfter unless somebody acts: that is
// looked for in the store from time to time, nobody else is asked.
func standing(err error, secretVersion int64, now time.Time) *failure {
	wait := AsError(err).RetryAfter
	return &failure{
		err: err, secretVersion: secretVersion, count: 1, at: now, retryAt: now.Add(wait),
		hold: min(wait, maxWaitingHoldDown), waitingHold: min(wait, holdDown),
	}
}

// transient reports whether r may be gone the next moment.
func transient(r Reason) bool {
	switch r {
	case ReasonUpstreamDNS, ReasonUpstreamConnect, ReasonUpstreamProxy, ReasonUpstreamTimeout, ReasonUpstreamUnavailable, ReasonUpstreamMalformed:
		return true
	}
	return false
}

// answered reports whether r is what an authorization server said, of whatever.
func answered(r Reason) bool {
	switch r {
	case ReasonRefreshTokenRejected, ReasonRefreshTokenReused, ReasonRefreshTokenExpired, ReasonSubjectTokenRejected,
		ReasonDPoPProofInvalid, ReasonDPoPNonceRequired, ReasonAuthorizationDenied, ReasonAuthorizationNotTaken:
		return true
	}
	return fromUpstream(r)
}

// fromUpstream reports whether r tells of the authorization server or the way to it.
func fromUpstream(r Reason) bool {
	switch r {
	case ReasonClientRejected, ReasonGrantRejected, ReasonGrantTypeRejected, ReasonScopeRejected, ReasonTargetRejected,
		ReasonRequestRejected, ReasonTokenTypeUnsupported, ReasonScopeNotGranted, ReasonTokenExpired,
		ReasonTokenNotBound, ReasonTokenBoundElsewhere, ReasonTokenInactive, ReasonPasswordRejected:
		return true
	}
	return strings.HasPrefix(string(r), "UPSTREAM_")
}
