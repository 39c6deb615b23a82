package bearer

import "fmt"

// Cause is why a token was refused. The set is closed: it may label a metric.
type Cause string

// The causes. The text of a constant is stable and stands in logs and the audit.
const (
	// Malformed: no compact JWS of JSON objects, a member is there twice, or a member of
	// the header is not what the RFCs say it is.
	Malformed Cause = "malformed"
	// TooLarge: over 16 KiB.
	TooLarge Cause = "too_large"
	// HeaderNotAllowed: crit, b64 or enc is in the header.
	HeaderNotAllowed Cause = "header_not_allowed"
	// UnknownIssuer: no configured issuer has this iss.
	UnknownIssuer Cause = "unknown_issuer"
	// TypeNotAllowed: the issuer's tokens have another typ.
	TypeNotAllowed Cause = "type_not_allowed"
	// AlgorithmNotAllowed: alg is not on the issuer's list.
	AlgorithmNotAllowed Cause = "algorithm_not_allowed"
	// MissingClaim: a claim that must be there is not; Error.Claim says which.
	MissingClaim Cause = "missing_claim"
	// InvalidClaim: a claim is of the wrong type or out of range; Error.Claim says which.
	InvalidClaim Cause = "invalid_claim"
	// WrongClaim: a required claim has another value; Error.Claim says which.
	WrongClaim Cause = "wrong_claim"
	// WrongAudience: aud has none of the issuer's audiences.
	WrongAudience Cause = "wrong_audience"
	// Expired: exp and the leeway are past.
	Expired Cause = "expired"
	// NotYetValid: nbf or iat is in the future by more than the leeway.
	NotYetValid Cause = "not_yet_valid"
	// LifetimeTooLong: exp - iat is over max_lifetime.
	LifetimeTooLong Cause = "lifetime_too_long"
	// UnknownKey: not exactly one key of the issuer has this kid and fits the alg.
	UnknownKey Cause = "unknown_key"
	// BadSignature: the key is known and the signature is not its.
	BadSignature Cause = "bad_signature"
	// Replayed: a token of an issuer with single_use was shown before.
	Replayed Cause = "replayed"
	// ReplayMemoryFull: so many tokens of an issuer with single_use are alive that one
	// more could not be remembered, and so could be replayed.
	ReplayMemoryFull Cause = "replay_memory_full"
	// KeysUnavailable: the issuer's keys could not be fetched yet, or not for max_stale.
	KeysUnavailable Cause = "keys_unavailable"
)

// Causes lists all causes.
func Causes() []Cause {
	return []Cause{
		Malformed, TooLarge, HeaderNotAllowed, UnknownIssuer, TypeNotAllowed, AlgorithmNotAllowed, MissingClaim, InvalidClaim, WrongClaim,
		WrongAudience, Expired, NotYetValid, LifetimeTooLong, UnknownKey, BadSignature, Replayed, ReplayMemoryFull, KeysUnavailable,
	}
}

// Error says why a token was refused. Nothing in it is taken from the token: issuer
// and claim are spelled as in the configuration.
type Error struct {
	Cause Cause
	// Issuer is the configured issuer that the token claims to be of; "" if none.
	Issuer string
	// Claim is the claim concerned, if the cause is about one.
	Claim string
	// Err is why keys are unavailable, if that is known.
	Err error
}

// Error names cause, claim and issuer.
func (e *Error) Error() string {
	text := "bearer token refused: " + string(e.Cause)
	if e.Claim != "" {
		text += " " + e.Claim
	}
	if e.Issuer != "" {
		text += fmt.Sprintf(" (issuer %s)", e.Issuer)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Unavailable reports whether the refusal says nothing about the token: the caller may
// try the same one again later. All other refusals are final for that token, but
// UnknownKey, which an issuer's fresh key may also meet for a moment.
func (e *Error) Unavailable() bool {
	return e.Cause == KeysUnavailable || e.Cause == ReplayMemoryFull
}
