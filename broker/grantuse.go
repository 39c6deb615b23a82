package broker

import (
	"errors"
	"fmt"
	"time"
)

// useOutcome is what is known of a use of a refresh token that failed.
type useOutcome int

const (
	// useNone: it was not sent, or the answer says that nothing was done.
	useNone useOutcome = iota
	// useLost: it may have been used up, and the successor be lost.
	useLost
	// useRejected: it is taken no more.
	useRejected
)

// useOf says what an error tells. Only what proves that no byte was sent, or is an
// answer, tells that nothing was done.
func useOf(err error) useOutcome {
	var unsent *UnsentError
	if errors.As(err, &unsent) {
		return useNone
	}
	switch ReasonOf(err) {
	case ReasonRefreshTokenRejected, ReasonRefreshTokenReused, ReasonRefreshTokenExpired:
		return useRejected
	case ReasonUpstreamTimeout, ReasonUpstreamConnect, ReasonUpstreamProxy, ReasonUpstreamMalformed, ReasonUpstreamTLS,
		ReasonDeadlineExceeded, ReasonInternal, ReasonTokenTypeUnsupported:
		return useLost
	}
	return useNone
}

// refusal is why no token can be had by r at now; nil if it may be tried.
func (r *grantRecord) refusal(c *Client, policy RefreshPolicy, now time.Time) error {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	var came Reason // of a consent that is not pending
	if r.Consent != nil {
		came = r.Consent.outcome(now)
	}
	switch pending := r.Consent != nil && came == ""; {
	case r.Generation == 0 && pending:
		return newError(ReasonAuthorizationPending, c.ID, "asked for until %s", at(r.Consent.ExpireTime))
	case r.Generation == 0 && r.Consent != nil:
		return newError(ReasonAuthorizationRequired, c.ID, "the last consent that was asked for came to nothing: %s", came)
	case r.Generation == 0:
		return newError(ReasonAuthorizationRequired, c.ID, "")
	case r.GrantedTo != c.Upstream.grantedTo():
		return newError(ReasonGrantOfOldClient, c.ID, "granted at %s", at(r.GrantTime))
	case r.Ended == ReasonRefreshAnswerLost && r.Spending != nil:
		return newError(r.Ended, c.ID, "sent at %s, without an answer", at(r.Spending.Time))
	case r.Ended != "":
		return newError(r.Ended, c.ID, "granted at %s, last refreshed %s", at(r.GrantTime), r.lastRefresh())
	case !r.Refreshable:
		return r.missing(c)
	}
	if expired := r.refreshExpires(policy); !expired.IsZero() && !now.Before(expired) {
		return newError(ReasonRefreshTokenExpired, c.ID, "at %s; granted at %s, last refreshed %s", at(expired), at(r.GrantTime), r.lastRefresh())
	}
	return nil
}

// missing says after how long such connections fail, and since when.
func (r *grantRecord) missing(c *Client) error {
	if r.TokenExpireTime.IsZero() {
		return newError(ReasonRefreshTokenMissing, c.ID, "granted at %s", r.GrantTime.UTC().Format(time.RFC3339))
	}
	return newError(ReasonRefreshTokenMissing, c.ID, "it ends %v after each consent, this time at %s: granted at %s without a refresh token",
		r.TokenExpireTime.Sub(r.GrantTime).Round(time.Second), r.TokenExpireTime.UTC().Format(time.RFC3339), r.GrantTime.UTC().Format(time.RFC3339))
}

func (r *grantRecord) lastRefresh() string {
	if r.RefreshTime.IsZero() {
		return "never"
	}
	return fmt.Sprintf("at %s", r.RefreshTime.UTC().Format(time.RFC3339))
}

// refreshExpires is when the refresh token ends if it is not used before; zero if that is
// not known.
func (r *grantRecord) refreshExpires(policy RefreshPolicy) time.Time {
	expires := r.RefreshExpireTime
	if policy.IdleLifetime > 0 {
		used := r.GrantTime
		if r.RefreshTime.After(used) {
			used = r.RefreshTime
		}
		expires = earlier(expires, used.Add(policy.IdleLifetime))
	}
	return expires
}

// grantEnds reports whether r is one that asking again does not change: only the user,
// or an operator, does.
func grantEnds(r Reason) bool {
	switch r {
	case ReasonAuthorizationRequired, ReasonAuthorizationPending, ReasonGrantOfOldClient, ReasonRefreshTokenMissing,
		ReasonRefreshTokenExpired, ReasonRefreshTokenRejected, ReasonRefreshTokenReused, ReasonRefreshAnswerLost:
		return true
	}
	return false
}
