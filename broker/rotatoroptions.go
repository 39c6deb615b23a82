package broker

import (
	"context"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// SecretTester is implemented by a [Rotator] that can try a new secret in a way of
// its own, besides the tokens that the broker gets with it.
type SecretTester interface {
	// TestSecret tries RotatorCall.New, which Create or Activate has brought to the
	// provider, and changes nothing. CLIENT_REJECTED if the provider refuses it, nil if
	// it takes it or the rotator cannot tell.
	TestSecret(ctx context.Context, call RotatorCall) error
}

// SecretMaker is implemented by a [Rotator] with RotatorTraits.TakesChosen whose
// secrets have a form of their own, such as key pairs. Others take random text.
type SecretMaker interface {
	// MakeSecret returns a new secret for call, whose Authentication and Settings say of
	// which kind. It asks nobody. ROTATOR_NOT_SET if they fit no secret.
	MakeSecret(call RotatorCall) (secret.Value, error)
}
