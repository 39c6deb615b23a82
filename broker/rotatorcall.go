package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// rotator returns what changes c's secret at its provider. ROTATOR_NOT_SET.
func (b *Broker) rotator(c *Client) (Rotator, RotatorTraits, error) {
	if c.Rotation.Rotator == "" {
		return nil, RotatorTraits{}, newError(ReasonRotatorNotSet, c.ID, "")
	}
	rotator, ok := b.rotators[c.Rotation.Rotator]
	if !ok {
		return nil, RotatorTraits{}, newError(ReasonRotatorNotSet, c.ID, "there is no rotator %q here", truncate(c.Rotation.Rotator, 64))
	}
	return rotator, rotator.Traits(c.Rotation), nil
}

// shapeOf says how c's provider changes secrets.
func (b *Broker) shapeOf(c *Client) Shape {
	if _, traits, err := b.rotator(c); err == nil {
		return traits.Shape
	}
	if c.Rotation.OverlappingSecrets {
		return ShapeOverlapping
	}
	return ShapeByHand
}

// rotatorCall is what all calls of this rotation have in common. It reads the current
// secret and gets the management client's token, as the traits ask.
func (run *rotationRun) rotatorCall(ctx context.Context, traits RotatorTraits) (RotatorCall, error) {
	return run.callFor(ctx, run.c, run.r.ID, traits)
}

func (b *Broker) callFor(ctx context.Context, c *Client, token string, traits RotatorTraits) (RotatorCall, error) {
	call := RotatorCall{
		Token: token, ClientID: c.Upstream.ClientID, ID: c.ID, UID: c.UID, TokenEndpoint: c.Upstream.TokenEndpoint,
		Authentication: c.Upstream.Authentication, Settings: c.Rotation,
	}
	var err error
	if current, ok := c.Staged(Current); ok {
		call.CurrentHandle, call.Destinations = current.Handle, current.Destinations
		if call.Current, call.Registration, err = b.readWithRegistration(ctx, c, current); err != nil && traits.NeedsRegistration {
			return RotatorCall{}, err
		}
	}
	if traits.NeedsRegistration && call.Registration.IsZero() {
		return RotatorCall{}, newError(ReasonRotatorNotSet, c.ID, "no registration access token is kept with the current secret; stage one with it")
	}
	if traits.NeedsManagement {
		call.Management, call.Destinations, err = b.managementToken(ctx, c)
	}
	return call, err
}

// managementToken gets the token of c's management client, and where it may be sent.
func (b *Broker) managementToken(ctx context.Context, c *Client) (secret.Value, []string, error) {
	id := c.Rotation.ManagementClient
	if id == "" {
		return secret.Value{}, nil, newError(ReasonRotatorNotSet, c.ID, "the rotator needs rotation.management_client")
	}
	origin, err := Origin(c.Rotation.Endpoint)
	if err != nil {
		return secret.Value{}, nil, newError(ReasonRotatorNotSet, c.ID, "the rotator needs rotation.endpoint")
	}
	token, _, err := b.GetToken(ctx, TokenQuery{ClientID: id})
	if err != nil {
		e := AsError(err)
		return secret.Value{}, nil, &Error{Reason: e.Reason, Op: "get the management client's token", Client: id, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	manager, err := b.GetClient(ctx, id)
	if err != nil {
		return secret.Value{}, nil, err
	}
	version, ok := manager.Secret(token.SecretVersion)
	current, _ := manager.Staged(Current)
	if slices.Contains(current.TokenDestinations, origin) && !slices.Contains(version.TokenDestinations, origin) { // it is older than the secret
		if token, err = b.newManagementToken(ctx, manager); err != nil {
			return secret.Value{}, nil, err
		}
		version, ok = current, true
	}
	if !ok {
		return secret.Value{}, nil, newError(ReasonConcurrentChange, id, "its secret changed while a token was requested")
	}
	if slices.Contains(version.TokenDestinations, origin) {
		return token.Access, version.TokenDestinations, nil
	}
	return secret.Value{}, nil, newError(ReasonDestinationNotBound, id, "its tokens are bound to %v, not to %s; name that in token_destinations and give the secret anew", version.TokenDestinations, origin)
}

// newManagementToken gets a management client another token, whatever the age of the
// present one: it may not do what this one may.
func (b *Broker) newManagementToken(ctx context.Context, manager *Client) (*Token, error) {
	current, ok := manager.Staged(Current)
	if !ok {
		return nil, newError(ReasonSecretNotSet, manager.ID, "")
	}
	key, err := manager.keyAlone()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	token, err := b.requestWith(limited, manager, current, tokenAsk{tokenKey: key})
	if err == nil {
		b.publish(ctx, manager, key, token)
	}
	return token, err
}

// renewManagement has another token got for c's management client, after one was
// refused: what a person has granted since may be in new ones only.
func (b *Broker) renewManagement(ctx context.Context, c *Client) {
	id := c.Rotation.ManagementClient
	if id == "" {
		return
	}
	manager, err := b.GetClient(ctx, id)
	if err == nil && manager.usable() == nil {
		_, err = b.newManagementToken(ctx, manager)
	}
	if err != nil {
		b.log.WarnContext(ctx, "the management client has no new token", "client", id, "reason", ReasonOf(err))
	}
}

// known reports whether a failed call to a provider surely has had no effect.
func known(err error) bool {
	var unsent *UnsentError
	if errors.As(err, &unsent) {
		return true
	}
	switch ReasonOf(err) {
	case ReasonRotatorRefused, ReasonRotatorUnauthorized, ReasonUpstreamRateLimited, ReasonDestinationNotBound, ReasonUpstreamAddressRefused, ReasonUpstreamDNS:
		return true
	}
	return false
}

// outsideFailed decides what a failed call to a provider means.
func (run *rotationRun) outsideFailed(ctx context.Context, step string, err error) error {
	switch reason := ReasonOf(err); {
	case reason == ReasonShuttingDown:
		return err
	case outage(err) || reason == ReasonStoreSealed:
		return err
	case reason == ReasonRotatorRefused, reason == ReasonRotatorUnauthorized, reason == ReasonRotatorNotSet, reason == ReasonDestinationNotBound,
		reason == ReasonUpstreamAddressRefused, unreadable(err):
		run.callOperator(step, err)
	default:
		run.retry(step, err, 0)
	}
	return run.save(ctx)
}

// checkRotator refuses a rotator that there is not, and parameters that it does not take.
func (b *Broker) checkRotator(v *violations, s RotationSettings) {
	if s.Rotator == "" {
		return
	}
	rotator, ok := b.rotators[s.Rotator]
	if !ok {
		v.add("client.rotation.rotator", "is none of those that are configured: %s", strings.Join(slices.Sorted(maps.Keys(b.rotators)), ", "))
		return
	}
	traits := rotator.Traits(s)
	for _, name := range traits.Parameters {
		if s.Parameters[name] == "" {
			v.add("client.rotation.parameters."+name, "is required by %s", s.Rotator)
		}
	}
	for name := range s.Parameters {
		if !slices.Contains(traits.Parameters, name) && !slices.Contains(traits.Optional, name) {
			v.add("client.rotation.parameters."+truncate(name, 64), "is not taken by %s, but %v", s.Rotator, slices.Concat(traits.Parameters, traits.Optional))
		}
	}
	if traits.NeedsManagement && s.ManagementClient == "" {
		v.add("client.rotation.management_client", "is required by %s", s.Rotator)
	}
	if (traits.NeedsManagement || traits.NeedsRegistration) && s.Endpoint == "" {
		v.add("client.rotation.endpoint", "is required by %s", s.Rotator)
	}
}
