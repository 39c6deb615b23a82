package rotator

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// rfc7592 has an authorization server issue a new secret by an update of the client's
// registration that changes nothing. The endpoint is the registration_client_uri.
//
// Source: RFC 7592. §2.1: a read brings the metadata, and may bring a new secret and
// a new registration access token, in which case the ones before are to be
// discarded. §2.2: an update is a PUT of all metadata, with client_id, without
// registration_access_token, registration_client_uri, client_secret_expires_at and
// client_id_issued_at; if client_secret is in it, it must be the current one; a
// client cannot choose its secret. §3: the answer, to both. Whether an update brings
// a new secret is the server's to decide (appendix A); where it does not, Create
// fails with ROTATOR_REFUSED and nothing has changed.
//
// Tried against oidc-provider, which issues a new secret by a registration policy
// only and a new registration access token by default, and against glewlwyd, which
// issues a new secret at each update and keeps the token.
type rfc7592 struct{ client *oauth.Client }

// Traits returns the same for all settings: RFC 7592 promises no overlap.
func (rfc7592) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{Shape: broker.ShapeReplaced, NeedsRegistration: true}
}

// Create reads the metadata and puts them back. Where the read shows another secret
// than the current one already, that is the new one, and nothing is put.
//
// With an error the result may have a Registration, which replaces the one before:
// the server issued it, but no new secret.
func (r rfc7592) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	s := r.begin(opCreate, call)
	if err := s.checkSecretClient(); err != nil {
		return broker.CreatedSecret{}, err
	}
	metadata, err := s.registered(ctx)
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	changed := s.registration(metadata)
	if value, ok := shown(metadata.object, "client_secret"); ok && !value.Equal(call.Current) {
		if changed.Value, err = s.newSecret(metadata, "client_secret"); err != nil {
			return kept(changed), err
		}
		return changed, nil
	}
	if !changed.Registration.IsZero() {
		s.token = changed.Registration
	}
	got, err := s.send(ctx, http.MethodPut, call.Settings.Endpoint, update(metadata.object, call))
	if err != nil {
		return kept(changed), err
	}
	if got.Status != http.StatusOK || got.object == nil {
		return kept(changed), got.failed()
	}
	updated := s.registration(got)
	if updated.Registration.IsZero() {
		updated.Registration = changed.Registration
	}
	if updated.RegistrationEndpoint == "" {
		updated.RegistrationEndpoint = changed.RegistrationEndpoint
	}
	updated.Value, err = s.changed(got, "client_secret")
	if err != nil {
		return kept(updated), err
	}
	return updated, nil
}

// kept is what counts of a registration that brought no secret.
func kept(c broker.CreatedSecret) broker.CreatedSecret {
	return broker.CreatedSecret{Registration: c.Registration, RegistrationEndpoint: c.RegistrationEndpoint}
}

// update returns the body of the PUT. Members that are not sent are deleted (§2.2),
// so it is everything that was read.
func update(metadata object, call broker.RotatorCall) map[string]any {
	body := make(map[string]any, len(metadata)+2)
	for name, value := range metadata {
		body[name] = value
	}
	for _, name := range []string{"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"} {
		delete(body, name)
	}
	// A string (RFC 7591 §2), which glewlwyd shows as an array and takes as a string only.
	var methods []string
	if json.Unmarshal(metadata["token_endpoint_auth_method"], &methods) == nil && len(methods) > 0 {
		body["token_endpoint_auth_method"] = methods[0]
		if own := registeredMethod(call.Authentication.Method); slices.Contains(methods, own) {
			body["token_endpoint_auth_method"] = own
		}
	}
	body["client_id"] = call.ClientID
	body["client_secret"] = call.Current.RevealString()
	return body
}

// registeredMethod returns the method's name in the IANA registry.
func registeredMethod(method broker.AuthenticationMethod) string {
	if method == broker.ClientSecretBasicRaw {
		method = broker.ClientSecretBasic
	}
	return string(method)
}

// Recover reads the registration with the token that was there before Create.
// CreateLost if the server no longer takes it: a new one, and with it what else
// Create brought, was in the answer that is lost.
func (r rfc7592) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	s := r.begin(opRecover, call)
	got, err := s.send(ctx, http.MethodGet, call.Settings.Endpoint, nil)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	if got.Status == http.StatusUnauthorized {
		return broker.RecoveredCreate{Outcome: broker.CreateLost}, nil
	}
	if err := s.checkRegistered(got); err != nil {
		return broker.RecoveredCreate{}, err
	}
	recovered, err := s.compared(got, "client_secret")
	registration := s.registration(got)
	if recovered.Outcome == broker.CreateDone {
		registration.Value = recovered.Created.Value
		recovered.Created = registration
	} else {
		recovered.Created = kept(registration)
	}
	return recovered, err
}

// Activate returns nil.
func (rfc7592) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke returns nil: a new secret has ended the one before (§2.2).
func (rfc7592) Revoke(context.Context, broker.RotatorCall) error { return nil }

func (r rfc7592) begin(op string, call broker.RotatorCall) *session {
	return &session{client: r.client, op: op, call: call, token: call.Registration}
}

// registered reads the registration. A server may issue secret and token anew at a
// read, so a lost answer is not harmless; an answer that refuses is.
func (s *session) registered(ctx context.Context) (reply, error) {
	got, err := s.send(ctx, http.MethodGet, s.call.Settings.Endpoint, nil)
	if err == nil {
		err = s.checkRegistered(got)
	}
	return got, err
}

// checkRegistered refuses what is no registration of this client.
func (s *session) checkRegistered(got reply) error {
	if got.Status >= 400 {
		return harmless(got.failed())
	}
	if got.Status != http.StatusOK || got.object == nil {
		return got.failed()
	}
	if id := got.object.text("client_id"); id != "" && id != s.call.ClientID {
		return harmless(got.fail(broker.ReasonRotatorRefused, "the registration of another client"))
	}
	return nil
}

// registration returns what an answer says of the registration itself. A new address
// on another origin is not followed: the token is bound to this one.
func (s *session) registration(got reply) broker.CreatedSecret {
	created := broker.CreatedSecret{ExpireTime: secretExpiry(got.object)}
	if token := got.object.text("registration_access_token"); token != "" && token != s.token.RevealString() {
		created.Registration = secret.NewString(token)
	}
	if endpoint := got.object.text("registration_client_uri"); endpoint != s.call.Settings.Endpoint {
		if origin, err := broker.Origin(endpoint); err == nil && origin == got.Origin {
			created.RegistrationEndpoint = endpoint
		}
	}
	return created
}

// secretExpiry reads client_secret_expires_at: seconds since 1970, 0 for never
// (RFC 7591 §3.2.1).
func secretExpiry(o object) time.Time {
	var seconds float64
	if json.Unmarshal(o["client_secret_expires_at"], &seconds) != nil || !(seconds > 0) || seconds > math.MaxInt32*16 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}
