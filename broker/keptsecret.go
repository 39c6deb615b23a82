package broker

import (
	"context"
	"slices"
	"strings"
)

// keptSecret returns the current secret as if it were given anew, so that it is
// bound to where it is to be sent from now on. A client without one keeps none.
func (b *Broker) keptSecret(ctx context.Context, present *Client) (SecretInput, error) {
	current, ok := present.Staged(Current)
	if !ok {
		return SecretInput{}, newError(ReasonDestinationNotBound, present.ID, "only a pending secret is bound elsewhere; retire it first")
	}
	value, registration, err := b.readWithRegistration(ctx, present, current)
	return SecretInput{
		Value: value, ExpireTime: current.ExpireTime, KeepTrailingSpace: true, Registration: registration,
		Reference: current.Reference, ownerVersion: current.OwnerVersion,
	}, err
}

// checkKeptSecret refuses settings that the secrets which the client keeps must
// not or cannot be used with.
func (b *Broker) checkKeptSecret(ctx context.Context, present, changed *Client) error {
	for _, stage := range []Stage{Current, Pending} {
		version, ok := changed.Staged(stage)
		if !ok {
			continue
		}
		// One that is bound elsewhere already, because the client moved with another
		// secret while it was pending, goes nowhere and is no reason to refuse a label.
		if err := checkBound(changed, version); err != nil && checkBound(present, version) == nil {
			return err
		}
		if changed.Upstream.Provider != present.Upstream.Provider {
			return newError(ReasonDestinationNotBound, changed.ID, "secret version %d was given for the provider %q, whose profile says how it is sent, and not for %q", version.Number, present.Upstream.Provider, changed.Upstream.Provider)
		}
		if changed.Upstream.secretUse() == present.Upstream.secretUse() {
			continue
		}
		value, err := b.readSecret(ctx, present, version)
		switch reason := string(ReasonOf(err)); {
		case strings.HasPrefix(reason, "SECRET_"), strings.HasPrefix(reason, "RECORD_"):
			continue // what is broken already cannot be made worse by settings
		case err != nil:
			return err // whether it fits is not known
		}
		err = b.checkSecret(changed.Upstream.secretUse(), value)
		value.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkBound reports whether version may be sent to c's token endpoint.
func checkBound(c *Client, version SecretVersion) error {
	origin, err := Origin(c.Upstream.TokenEndpoint)
	if err != nil {
		return newError(ReasonInvalidRequest, c.ID, "token_endpoint %v", err)
	}
	if !slices.Contains(version.Destinations, origin) {
		return newError(ReasonDestinationNotBound, c.ID, "secret version %d is bound to %v, not to %s", version.Number, version.Destinations, origin)
	}
	for _, o := range c.Upstream.TokenDestinations {
		if !slices.Contains(version.TokenDestinations, o) {
			return newError(ReasonDestinationNotBound, c.ID, "tokens of secret version %d are bound to %v, not to %s", version.Number, version.TokenDestinations, o)
		}
	}
	if !version.Registered {
		return nil
	}
	if origin, err := Origin(c.Rotation.Endpoint); err != nil || !slices.Contains(version.Destinations, origin) {
		return newError(ReasonDestinationNotBound, c.ID, "the registration access token of secret version %d is bound to %v", version.Number, version.Destinations)
	}
	return nil
}
