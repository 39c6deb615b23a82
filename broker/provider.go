package broker

import (
	"time"
)

// Providers knows profiles: declarations of how one kind of authorization server
// departs from the standards. It is safe for concurrent use and never changes.
type Providers interface {
	// Provider returns the profile of that name.
	Provider(name string) (Provider, bool)
	// Names lists all names, sorted.
	Names() []string
	// Complete fills what the settings of a client leave open with what the profile
	// named by u.Provider declares, and says what does not fit that profile. Fields are
	// spelled as in a request: "client.provider_variables[\"tenant\"]". A profile that is
	// not there is one of the violations.
	Complete(u *Upstream, p *TokenPolicy, r *RotationSettings) []FieldViolation
}

// Provider is what the broker itself needs to know of a profile; how its requests and
// answers look is package oauth's. It is immutable.
type Provider struct {
	// Name is an id as a client's is; Title what people call it.
	Name, Title string
	// BuiltIn says that it came with the broker.
	BuiltIn bool
	// Sources are the provider's documents that it was made from, Unverified what could
	// not be verified.
	Sources, Unverified []string
	Variables           []ProviderVariable
	GrantTypes          []GrantType
	// AuthenticationMethods has the best one first.
	AuthenticationMethods []AuthenticationMethod
	// StatusPage is an https URL; "" if none is known.
	StatusPage string
	// Hints are what else to look at for a reason.
	Hints map[Reason]string
	// LocksOut says that it locks clients out after a few wrong tries.
	LocksOut bool
	// Refresh is what its refresh tokens are like.
	Refresh RefreshPolicy
	// IssuerInAnswer says that answers at the redirect URI name the issuer (RFC 9207).
	IssuerInAnswer bool
	// Definition is the whole profile as YAML.
	Definition string
}

// ProviderVariable is something that a client of a provider must or may say.
type ProviderVariable struct {
	Name, Description, Example string
	// Default is taken when it is not said; "" if it must be.
	Default string
}

// RefreshRotation says whether a provider answers the use of a refresh token with a
// successor that takes its place.
type RefreshRotation string

// The rotations of refresh tokens.
const (
	// RotationUnknown is taken for RotationAlways once a successor was seen, and before.
	RotationUnknown RefreshRotation = ""
	// RotationAlways: each use ends the one that was used.
	RotationAlways RefreshRotation = "always"
	// RotationNever: one refresh token is used again and again.
	RotationNever RefreshRotation = "never"
)

// RefreshPolicy is what a provider's refresh tokens are like.
type RefreshPolicy struct {
	Rotation RefreshRotation
	// Grace is how long after its use a replaced refresh token may be used once more, as
	// when an answer was lost (RFC 9700 §4.14.2); 0 if it may not.
	Grace time.Duration
	// Lifetime and IdleLifetime are how long one lives, and how long unused; 0 if unknown.
	Lifetime, IdleLifetime time.Duration
	// WithAccessToken says that the last access token is sent instead of a refresh token.
	WithAccessToken bool
}
