package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Shape says how a provider changes a client's secret. Each needs another order of
// steps to leave no gap.
type Shape string

// The shapes.
const (
	// ShapeByHand: a person changes it there; whether two work at a time is not known.
	ShapeByHand Shape = "by_hand"
	// ShapeOverlapping: several secrets work at a time.
	ShapeOverlapping Shape = "overlapping"
	// ShapeActivated: a new one is made first, and ends the present one when it is
	// activated.
	ShapeActivated Shape = "activated"
	// ShapeReplaced: a new one ends the present one at once.
	ShapeReplaced Shape = "replaced"
	// ShapeKeyPair: public keys are published, of which several work at a time.
	ShapeKeyPair Shape = "key_pair"
)

// RotatorTraits are what a rotation has to know of a provider before it begins.
type RotatorTraits struct {
	Shape Shape
	// TakesChosen says that the broker makes the secret and Create tells the provider;
	// otherwise the provider makes it. A [Rotator] with it is given RotatorCall.New.
	TakesChosen bool
	// NeedsManagement says that calls carry a token of a management client.
	NeedsManagement bool
	// NeedsRegistration says that calls carry the registration access token that is
	// kept with the current secret (RFC 7592).
	NeedsRegistration bool
	// WorksBeforeActivation says of ShapeActivated that the new secret can be verified
	// before it is activated.
	WorksBeforeActivation bool
	// Propagation is how long the provider takes to make a new secret known
	// everywhere; until then a refusal proves nothing.
	Propagation time.Duration
	// Parameters are the names that RotationSettings.Parameters must have, Optional
	// those that it may have.
	Parameters, Optional []string
}

// Rotator changes secrets at one kind of provider. It is called without any lock
// held and is safe for concurrent use; a rotation is at one call at a time. Calls
// end with their context and make no retries of their own.
//
// Errors are *[Error] with an UPSTREAM_ or rejection reason, DESTINATION_NOT_BOUND,
// ROTATOR_REFUSED (the provider refused for good, such as an unknown application),
// or ROTATOR_UNAUTHORIZED (the management credentials were refused), and never hold a
// secret, a token or a response body. [UnsentError] tells what surely did not reach
// the provider.
type Rotator interface {
	// Traits returns what is known beforehand. It may differ by settings.
	Traits(RotationSettings) RotatorTraits
	// Create has the provider make a secret, or take the chosen one. With an error the
	// result may have a Registration and a RegistrationEndpoint: the provider issued
	// them, but no secret, and they replace those before.
	Create(ctx context.Context, call RotatorCall) (CreatedSecret, error)
	// Recover finds out what became of a Create of the same Token whose answer is not
	// known, and removes what nobody can use any more.
	Recover(ctx context.Context, call RotatorCall) (RecoveredCreate, error)
	// Activate makes the provider accept the new secret as the only one
	// (ShapeActivated). Doing so twice succeeds. Others return nil.
	Activate(ctx context.Context, call RotatorCall) error
	// Revoke makes the provider refuse the secret that Handle and New describe. Doing
	// so twice succeeds. A provider that ended it by itself returns nil.
	Revoke(ctx context.Context, call RotatorCall) error
}

// RotatorCall is one call to a provider's management.
type RotatorCall struct {
	// Token is the same in all tries of one step of one rotation: the rotation's id.
	// It has 26 characters of a-z and 2-7.
	Token string
	// ClientID is what the authorization server calls the client; ID is the broker's
	// name and UID the random one.
	ClientID, ID, UID string
	// TokenEndpoint and Authentication are those of the client.
	TokenEndpoint  string
	Authentication Authentication
	// Settings are the client's; Settings.Endpoint is the management API.
	Settings RotationSettings
	// Destinations are the origins that Management, or Registration and Current, may
	// be sent to. A request to any other is refused as DESTINATION_NOT_BOUND.
	Destinations []string
	// Management is an access token of the management client; the zero Value unless
	// the traits ask for it.
	Management secret.Value
	// Registration is the registration access token; the zero Value unless the traits
	// ask for it.
	Registration secret.Value
	// Current is the secret that is to be replaced; CurrentHandle what the provider
	// calls it, "" if it has no name or none is known.
	Current       secret.Value
	CurrentHandle string
	// New is, in Create and Recover of a rotator that takes chosen secrets, the chosen
	// one, and in Activate and Revoke the one to activate or revoke; Handle is what the provider
	// calls it.
	New    secret.Value
	Handle string
}

// CreatedSecret is what a provider made.
type CreatedSecret struct {
	// Value is the new secret; the zero Value where the broker chose it.
	Value secret.Value
	// Handle is what the provider calls it; "" if it has no name.
	Handle string
	// ExpireTime is when the provider stops taking it; zero if never or unknown.
	ExpireTime time.Time
	// Registration is the registration access token from now on (RFC 7592 §2.1); the
	// zero Value if it stays.
	Registration secret.Value
	// RegistrationEndpoint is the registration_client_uri from now on; "" if it stays.
	RegistrationEndpoint string
}

// CreateOutcome is what became of a Create.
type CreateOutcome string

// The outcomes.
const (
	// CreateNotDone: the provider has nothing of it, or what it had was removed; Create
	// may be called again.
	CreateNotDone CreateOutcome = "not_done"
	// CreateDone: the provider has it and shows it.
	CreateDone CreateOutcome = "done"
	// CreateLost: the provider has changed the secret and cannot show it.
	CreateLost CreateOutcome = "lost"
	// CreateUnknown: the provider cannot tell.
	CreateUnknown CreateOutcome = "unknown"
)

// RecoveredCreate is what Recover found.
type RecoveredCreate struct {
	Outcome CreateOutcome
	// Created is set with CreateDone. With another outcome it may have a Registration
	// and a RegistrationEndpoint, which replace those before.
	Created CreatedSecret
}

// UnsentError is wrapped by errors of calls whose request for a change surely has
// not reached the provider, so that the outcome is known: nothing was done.
type UnsentError struct{ Err error }

// Error returns the wrapped error's text.
func (e *UnsentError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *UnsentError) Unwrap() error { return e.Err }

// Unwrap takes what a Vault response-wrapping token wraps, once, without retry.
// WRAPPING_TOKEN_INVALID (used, expired, invented: Vault answers alike),
// WRAPPING_PATH_REFUSED, which leaves it wrapped, WRAPPING_CONTENT_INVALID,
// WRAPPING_ANSWER_LOST, or a reason of the store, which leaves it wrapped too.
type Unwrap func(ctx context.Context, token secret.Value) (secret.Value, error)

// SecretReference names a secret that is owned elsewhere in the same Vault.
type SecretReference struct {
	// Mount is a KV v2 engine's, Path below it, Field of the value there.
	Mount string `json:"mount"`
	Path  string `json:"path"`
	Field string `json:"field"`
}

// IsZero reports whether r names nothing.
func (r SecretReference) IsZero() bool { return r == SecretReference{} }

// String returns "mount/path#field".
func (r SecretReference) String() string { return r.Mount + "/" + r.Path + "#" + r.Field }

// ReferencedSecret is what a reference leads to.
type ReferencedSecret struct {
	Value secret.Value
	// Version is its owner's number for it.
	Version int64
}

// References reads secrets that are owned elsewhere in the same Vault. Safe for
// concurrent use. REFERENCE_NOT_ALLOWED for a place that the configuration does not
// name, REFERENCE_UNREADABLE for one that holds no such secret, or a reason of the
// store.
type References interface {
	// Version returns the number of the latest version without reading it. Numbers
	// begin at 1 and grow, unless the owner begins anew.
	Version(ctx context.Context, r SecretReference) (int64, error)
	// Read returns the version of that number; 0 means the latest.
	Read(ctx context.Context, r SecretReference, number int64) (ReferencedSecret, error)
}
