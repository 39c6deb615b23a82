package oauth

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// verdict is what an answer without a token means.
type verdict struct {
	reason broker.Reason
	// wait is how long something else than the Retry-After header says to wait; 0 if
	// nothing does.
	wait time.Duration
}

// byProfile judges an answer as the profile of the server does, first by what its words
// say and then by its code; false if the profile has no opinion.
func (a *attempt) byProfile(ans answer, code, description string) (verdict, bool) {
	if a.dialect.profile == nil {
		return verdict{}, false
	}
	says := a.dialect.profile.Answer()
	for _, words := range []string{description, ans.text} {
		words = words[:min(len(words), maxLooked)]
		for _, one := range says.Descriptions {
			if groups := one.Match.FindStringSubmatch(words); groups != nil {
				return verdict{one.Reason, waitIn(one, groups)}, true
			}
		}
	}
	if says.Retryable[code] {
		return verdict{reason: broker.ReasonUpstreamUnavailable}, true
	}
	reason, known := says.Aliases[code]
	return verdict{reason: reason}, known
}

// waitIn returns how long the groups of a match say to wait, up to an hour.
func waitIn(one profile.Judgement, groups []string) time.Duration {
	var wait time.Duration
	for index, unit := range map[int]time.Duration{one.Seconds: time.Second, one.Minutes: time.Minute} {
		if index < 0 || index >= len(groups) {
			continue
		}
		if number, ok := parseNumber(groups[index]); ok && number > 0 {
			wait += min(bounded(number, unit), maxRetryAfter)
		}
	}
	return min(wait, maxRetryAfter)
}

// writtenWait finds the header that some servers write into a text body instead
// (Microsoft Entra).
var writtenWait = regexp.MustCompile(`(?i)\bretry-after:\s*([0-9]{1,9})\b`)

// waitWritten returns how long a text body says to wait, up to an hour; 0 if it does not.
func waitWritten(ans answer) time.Duration {
	found := writtenWait.FindStringSubmatch(ans.text)
	if found == nil {
		return 0
	}
	seconds, err := strconv.ParseInt(found[1], 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// polled judges the answers that only a poll for a device's consent gets (RFC 8628 §3.5);
// false if it is none. They come before any status: some servers say 403, 428 or 429.
func (a *attempt) polled(ans answer, code string) (verdict, bool) {
	if a.dialect.grant != broker.DeviceCode {
		return verdict{}, false
	}
	switch code {
	case "authorization_pending":
		return verdict{broker.ReasonAuthorizationPending, a.pollWait(ans, 0)}, true
	case "slow_down":
		return verdict{broker.ReasonAuthorizationPending, a.pollWait(ans, pollStep)}, true
	case "expired_token":
		return verdict{reason: broker.ReasonAuthorizationExpired}, true
	case "access_denied":
		return verdict{reason: broker.ReasonAuthorizationDenied}, true
	}
	return verdict{}, false
}

const (
	// pollInterval is what is waited between polls where nothing else is said (RFC 8628
	// §3.2), pollStep what slow_down adds to it (§3.5).
	pollInterval = 5 * time.Second
	pollStep     = 5 * time.Second
	// maxPollInterval is less than a device code lives anywhere.
	maxPollInterval = 5 * time.Minute
)

// pollWait returns how long the next poll waits: as long as this one did and more on top,
// or what the answer says if that is longer (GitHub tells the interval with slow_down).
func (a *attempt) pollWait(ans answer, more time.Duration) time.Duration {
	wait := pollInterval
	if a.dialect.pollInterval > 0 {
		wait = a.dialect.pollInterval
	}
	wait += more
	var said json.Number
	if json.Unmarshal(ans.doc.members["interval"], &said) == nil {
		if number, ok := parseNumber(said.String()); ok && number > 0 {
			wait = max(wait, bounded(number, time.Second))
		}
	}
	return min(wait, maxPollInterval)
}

// reuseTold are pieces of descriptions, in lower case, and reuseCodes codes that prove
// that a refresh token was used before. Most servers do not tell it from other ends of a
// refresh token: Auth0 says "Unknown or invalid refresh token.", Okta "The refresh token
// is invalid or expired.", GitLab and oidc-provider the words of RFC 6749 for any grant.
var (
	reuseTold = []string{
		"refresh token reuse exceeded",        // Keycloak
		"refresh token was already used",      // Ory Hydra, OpenAI
		"refresh token has already been used", // OpenAI
		"refresh token: already used",         // Supabase
		"refresh token reuse detected",
	}
	reuseCodes = []string{
		"refresh_token_already_used", // Supabase
		"refresh_token_reused",       // OpenAI
	}
	// subjectTold are pieces of descriptions, in lower case, that name the subject token as
	// what is wrong with an exchange: the code is the one for all that is wrong with a
	// request (RFC 8693 §2.2.2).
	subjectTold = []string{"subject_token", "subject token"}
	// subjectCodes can be about no other token in an exchange.
	subjectCodes = []string{"invalid_token", "invalid_subject_token"}
)

// ofGrant says what a reason means of the grant that was presented. A profile has one
// reason for a code whatever the grant, so that one about another grant is taken for no
// more than that this one was refused.
func (d dialect) ofGrant(found broker.Reason, code, description string) broker.Reason {
	description = strings.ToLower(description)
	switch d.grant {
	case broker.AuthorizationCode, broker.DeviceCode:
		if refusesGrant(found) {
			return broker.ReasonAuthorizationNotTaken
		}
	case broker.RefreshToken:
		switch {
		case slices.Contains(reuseCodes, code), refusesGrant(found) && containsAny(description, reuseTold):
			return broker.ReasonRefreshTokenReused
		case found == broker.ReasonRefreshTokenReused, found == broker.ReasonRefreshTokenExpired:
			return found
		case refusesGrant(found):
			return broker.ReasonRefreshTokenRejected
		}
	case broker.TokenExchange:
		about := refusesGrant(found) || found == broker.ReasonRequestRejected
		switch {
		case slices.Contains(subjectCodes, code), about && containsAny(description, subjectTold):
			return broker.ReasonSubjectTokenRejected
		case found == broker.ReasonSubjectTokenRejected:
			return found
		case refusesGrant(found):
			return broker.ReasonGrantRejected
		}
	default:
		if refusesGrant(found) {
			return broker.ReasonGrantRejected
		}
	}
	return found
}

// refusesGrant reports whether a reason says that a grant was not taken, of whichever
// type.
func refusesGrant(reason broker.Reason) bool {
	switch reason {
	case broker.ReasonGrantRejected, broker.ReasonAuthorizationNotTaken, broker.ReasonSubjectTokenRejected,
		broker.ReasonRefreshTokenRejected, broker.ReasonRefreshTokenExpired, broker.ReasonRefreshTokenReused:
		return true
	}
	return false
}

// tooMany judges a 429, which has but one meaning; the wait may stand anywhere.
func (a *attempt) tooMany(ans answer, code, description string) (verdict, bool) {
	if ans.status != http.StatusTooManyRequests {
		return verdict{}, false
	}
	told, _ := a.byProfile(ans, code, description)
	return verdict{broker.ReasonUpstreamRateLimited, max(told.wait, waitWritten(ans))}, true
}
