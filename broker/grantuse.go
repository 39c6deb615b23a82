package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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

// refreshScopes are those that are sent with a refresh token (RFC 6749 §6): never more
// than what was granted, and nil for all of that.
func refreshScopes(c *Client, asked, granted []string) ([]string, error) {
	if granted == nil {
		return nil, nil
	}
	var send []string
	for _, scope := range asked {
		if slices.Contains(granted, scope) {
			send = append(send, scope)
		}
	}
	switch {
	case len(send) == 0 && len(asked) > 0 && len(granted) > 0:
		return nil, newError(ReasonScopeNotGranted, c.ID, "the user granted %s", truncate(strings.Join(granted, " "), 200))
	case len(send) == len(granted):
		return nil, nil
	}
	return send, nil
}

// rotates reports whether a use has to be taken to replace the refresh token.
func (r *grantRecord) rotates(policy RefreshPolicy) bool {
	switch {
	case r.Rotates || policy.Rotation == RotationAlways:
		return true
	case policy.Rotation == RotationNever:
		return false
	}
	return r.RefreshTime.IsZero() // one that was used and stayed is not replaced
}

// refreshed takes in the answer to the use of token.
func (r *grantRecord) refreshed(policy RefreshPolicy, token string, s *grantSecrets, answer TokenResponse, now time.Time) {
	r.Lease, r.Spending, r.Ended, r.RefreshTime = nil, nil, "", now
	if policy.WithAccessToken {
		s.AccessToken = answer.AccessToken.RevealString()
		return
	}
	next := answer.RefreshToken.RevealString()
	if next == "" || next == token {
		s.RefreshToken = token
		if answer.RefreshExpiresIn != nil {
			r.RefreshExpireTime = refreshExpiry(policy, answer, now)
		}
		return
	}
	r.Rotates, s.RefreshToken, s.Previous = true, next, ""
	if policy.Grace > 0 && len(next)+len(token) <= MaxTokenBytes {
		s.Previous = token
	}
	r.RefreshExpireTime = refreshExpiry(policy, answer, now)
}
