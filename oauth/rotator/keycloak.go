package rotator

import (
	"context"
	"net/http"
	"net/url"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// keycloak regenerates a secret by Keycloak's admin REST API. The endpoint is the
// realm's: https://HOST/admin/realms/REALM.
//
// By itself Keycloak replaces the secret in place. Where a client policy with the
// executor "secret-rotation" applies to the client, the one before goes on working
// for the policy's rotated-expiration-period; the parameter
// secret_rotation_policy=true says so, because the API does not.
//
// Sources: Server Administration Guide, "Client Secret Rotation" (two secrets at a
// time; a rotated-expiration-period of 0 removes the old one at once, so do not set
// the parameter then; an experimental feature). And the server's ClientResource and
// ClientSecretRotationExecutor, which say what the Admin REST API's reference leaves
// open: GET and POST clients/{client-uuid}/client-secret answer {type, value}; POST
// forgets a rotated secret unless a policy applies; GET client-secret/rotated is a 404
// if there is none, DELETE of it a 204 all the same. Not tried against Keycloak
// itself. When the policy ends the new secret stands in the client's attributes and
// not in the answer to POST; it is not read.
type keycloak struct{ client *oauth.Client }

// keycloakPolicy is the parameter that says that a secret rotation policy applies.
const keycloakPolicy = "secret_rotation_policy"

// Traits returns the overlapping shape where a secret rotation policy applies.
func (keycloak) Traits(settings broker.RotationSettings) broker.RotatorTraits {
	traits := broker.RotatorTraits{Shape: broker.ShapeReplaced, NeedsManagement: true, Optional: []string{keycloakPolicy}}
	if settings.Parameters[keycloakPolicy] == "true" {
		traits.Shape = broker.ShapeOverlapping
	}
	return traits
}

// Create has Keycloak generate a secret.
func (r keycloak) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	s := manage(r.client, opCreate, call)
	if err := s.checkSecretClient(); err != nil {
		return broker.CreatedSecret{}, err
	}
	uuid, err := s.keycloakClient(ctx)
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	target, err := s.under("", "clients", uuid, "client-secret")
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
	value, err := s.changed(got, "value")
	return broker.CreatedSecret{Value: value}, err
}

// Recover compares the secret that Keycloak shows with the current one.
func (r keycloak) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	s := manage(r.client, opRecover, call)
	uuid, err := s.keycloakClient(ctx)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	got, err := s.keycloakSecret(ctx, uuid)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	return s.compared(got, "value")
}

// Activate returns nil.
func (keycloak) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke ends the rotated secret if it is the one; what is neither that nor the
// client's present one has ended already. The present one cannot be ended but by
// making another: ROTATOR_REFUSED. Without a policy it returns nil.
func (r keycloak) Revoke(ctx context.Context, call broker.RotatorCall) error {
	s := manage(r.client, opRevoke, call)
	if r.Traits(call.Settings).Shape != broker.ShapeOverlapping {
		return nil
	}
	uuid, err := s.keycloakClient(ctx)
	if err != nil {
		return err
	}
	target, err := s.under("", "clients", uuid, "client-secret", "rotated")
	if err != nil {
		return err
	}
	rotated, err := s.ask(ctx, target)
	if err != nil {
		return err
	}
	if rotated.Status != http.StatusOK && !rotated.absent() {
		return harmless(rotated.failed())
	}
	if !isSecret(rotated, call.New) {
		return s.keycloakEnded(ctx, uuid)
	}
	got, err := s.send(ctx, http.MethodDelete, target, nil)
	if err != nil {
		return err
	}
	if got.Status != http.StatusNoContent && got.Status != http.StatusOK && !got.absent() {
		return got.failed()
	}
	return nil
}

// keycloakEnded refuses if the secret to revoke is the one that the client has now.
func (s *session) keycloakEnded(ctx context.Context, uuid string) error {
	present, err := s.keycloakSecret(ctx, uuid)
	if err != nil {
		return err
	}
	if isSecret(present, s.call.New) {
		return s.unsent(broker.ReasonRotatorRefused, "the secret is the client's present one at Keycloak, which is ended only by generating another")
	}
	return nil
}

func isSecret(got reply, value secret.Value) bool {
	has, ok := shown(got.object, "value")
	return ok && has.Equal(value)
}

// keycloakSecret gets the client's present secret.
func (s *session) keycloakSecret(ctx context.Context, uuid string) (reply, error) {
	target, err := s.under("", "clients", uuid, "client-secret")
	if err != nil {
		return reply{}, err
	}
	got, err := s.ask(ctx, target)
	if err == nil && (got.Status != http.StatusOK || got.object == nil) {
		err = harmless(got.failed())
	}
	return got, err
}

// keycloakClient finds Keycloak's own id of the client. It is looked up each time and
// not a parameter: with a wrong one, another client would lose its secret.
func (s *session) keycloakClient(ctx context.Context) (string, error) {
	target, err := s.under("clientId="+url.QueryEscape(s.call.ClientID), "clients")
	if err != nil {
		return "", err
	}
	got, err := s.ask(ctx, target)
	switch {
	case err != nil:
		return "", err
	case got.Status != http.StatusOK || got.list == nil:
		return "", harmless(got.failed())
	}
	for _, client := range got.list {
		if client.text("clientId") == s.call.ClientID && client.text("id") != "" {
			return client.text("id"), nil
		}
	}
	return "", harmless(got.fail(broker.ReasonRotatorRefused, "no client of that client_id; the management client may lack the role view-clients or manage-clients"))
}
