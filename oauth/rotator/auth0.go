package rotator

import (
	"context"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// auth0 rotates a secret by Auth0's Management API. The endpoint is its audience:
// https://TENANT.auth0.com/api/v2/.
//
// Sources: Auth0 Management API v2, "Rotate a client secret" (POST
// clients/{id}/rotate-secret; not for clients with private_key_jwt) and "Get client by
// ID" (fields, include_fields; client_secret with the scope read:client_keys only);
// "Rotate Client Secrets" (a new secret may take up to thirty seconds); "Why You're
// Getting 429s in Production" (X-RateLimit-Reset). Not tried against Auth0 itself. Not
// found in its documents: that the answer is the client as "Get client by ID" shows
// it, which its SDKs take it for; how soon the old secret ends, so it counts as ended
// at once; and what becomes of tokens.
type auth0 struct{ client *oauth.Client }

// auth0Propagation is the "up to thirty seconds" of "Rotate Client Secrets".
const auth0Propagation = 30 * time.Second

// Traits returns the same for all settings.
func (auth0) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{Shape: broker.ShapeReplaced, NeedsManagement: true, Propagation: auth0Propagation}
}

// Create has Auth0 replace the secret.
func (r auth0) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	s := manage(r.client, opCreate, call)
	if err := s.checkSecretClient(); err != nil {
		return broker.CreatedSecret{}, err
	}
	target, err := s.under("", "clients", call.ClientID, "rotate-secret")
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	got, err := s.send(ctx, http.MethodPost, target, nil)
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	if got.Status != http.StatusOK {
		return broker.CreatedSecret{}, got.failed()
	}
	value, err := s.changed(got, "client_secret")
	return broker.CreatedSecret{Value: value}, err
}

// Recover compares the secret that Auth0 shows with the current one.
func (r auth0) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	s := manage(r.client, opRecover, call)
	target, err := s.under("fields=client_id,client_secret&include_fields=true", "clients", call.ClientID)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	got, err := s.ask(ctx, target)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	if got.Status != http.StatusOK || got.object == nil {
		return broker.RecoveredCreate{}, harmless(got.failed())
	}
	return s.compared(got, "client_secret")
}

// Activate returns nil.
func (auth0) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke returns nil: rotate-secret ended the secret before. The newest can be ended
// by another one only.
func (auth0) Revoke(context.Context, broker.RotatorCall) error { return nil }
