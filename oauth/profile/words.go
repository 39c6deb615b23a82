package profile

import (
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What keys of a profile say. [Parse] fills in the first one of each group where the
// file says nothing; of units of time that is UnitSeconds.
const (
	// FormatForm, FormatJSON and FormatQuery are values of Request.Format.
	FormatForm  = "form"
	FormatJSON  = "json"
	FormatQuery = "query"

	// PKCESupported, PKCERequired and PKCERefused are values of Consent.PKCE.
	PKCESupported = "supported"
	PKCERequired  = "required"
	PKCERefused   = "refused"

	// UnitSeconds and so on are values of Duration.Unit. Those that are points in time
	// are UnitUnix, UnitUnixMilliseconds and UnitRFC3339.
	UnitSeconds          = "seconds"
	UnitMilliseconds     = "milliseconds"
	UnitMinutes          = "minutes"
	UnitUnix             = "unix"
	UnitUnixMilliseconds = "unix_milliseconds"
	UnitRFC3339          = "rfc3339"
	UnitClock            = "clock"

	// ZeroAbsent, ZeroNever and ZeroExpired are values of Duration.Zero.
	ZeroAbsent  = "absent"
	ZeroNever   = "never"
	ZeroExpired = "expired"

	// PolicyAnswer, PolicyDeclared and PolicyRolling are values of Expiry.Policy.
	PolicyAnswer   = "answer"
	PolicyDeclared = "declared"
	PolicyRolling  = "rolling"

	// RefreshWithToken, RefreshWithAccessToken and RefreshByLogin are values of
	// Refresh.With.
	RefreshWithToken       = "refresh_token"
	RefreshWithAccessToken = "access_token"
	RefreshByLogin         = "login"

	rotationUnknown = "unknown"
)

// standardNames are the parameters that a profile may call by another name.
var standardNames = []string{
	"access_token", "actor_token", "actor_token_type", "assertion", "audience", "client_assertion", "client_assertion_type", "client_id",
	"client_secret", "code", "code_verifier", "device_code", "grant_type", "password", "redirect_uri", "refresh_token",
	"requested_token_type", "resource", "scope", "subject_token", "subject_token_type", "username",
}

// credentialNames are the parameters that carry a credential, or what stands for one.
// A profile is no place for either.
var credentialNames = []string{
	"access_token", "actor_token", "api_key", "apikey", "assertion", "client_assertion", "client_id", "client_secret", "code", "code_verifier",
	"device_code", "id_token", "password", "redirect_uri", "refresh_token", "state", "subject_token", "token", "username",
}

// credentialWords are in the names of headers and parameters that carry a credential.
var credentialWords = []string{"secret", "password", "passwd", "credential", "signature", "api_key", "api-key", "apikey", "private_key", "private-key"}

// ownHeaders are those that a request has or needs for itself, and those that carry a
// credential.
var ownHeaders = []string{
	"accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie", "dpop", "expect", "host", "keep-alive",
	"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
}

// upstreamReasons are what an answer can mean.
var upstreamReasons = []broker.Reason{
	broker.ReasonClientRejected, broker.ReasonGrantRejected, broker.ReasonGrantTypeRejected, broker.ReasonScopeRejected,
	broker.ReasonTargetRejected, broker.ReasonRequestRejected, broker.ReasonUpstreamRateLimited, broker.ReasonUpstreamUnavailable,
	broker.ReasonUpstreamRefused, broker.ReasonIssuanceBudgetSpent, broker.ReasonLiveTokensSpent,
	broker.ReasonSubjectTokenRejected, broker.ReasonDPoPProofInvalid, broker.ReasonDPoPNonceRequired,
	broker.ReasonAuthorizationPending, broker.ReasonAuthorizationDenied, broker.ReasonAuthorizationExpired, broker.ReasonAuthorizationNotTaken,
	broker.ReasonRefreshTokenRejected, broker.ReasonRefreshTokenExpired, broker.ReasonRefreshTokenReused,
}

func isReason(name string) bool {
	return slices.ContainsFunc(broker.Reasons(), func(known broker.ReasonInfo) bool { return string(known.Reason) == name })
}
