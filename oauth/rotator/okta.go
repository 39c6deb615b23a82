package rotator

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// okta adds, deactivates and deletes client secrets of an app by Okta's management
// API. The endpoint is https://ORG.okta.com/api/v1.
//
// The broker chooses the secret: Okta's secrets have no name to find them again by,
// but a chosen value can be looked for. An app has two secrets at most, so Create
// deletes an inactive one if there are two, and fails with ROTATOR_REFUSED if both
// are active, naming those that are not the current one.
//
// Sources: Okta management API, "Application Client Auth Credentials" (GET and POST
// apps/{appId}/credentials/secrets: id, client_secret, status ACTIVE or INACTIVE;
// "lets you bring your own secret"; at most two; POST {secretId}/lifecycle/deactivate;
// DELETE {secretId} of an inactive one only; scopes okta.apps.read, okta.apps.manage);
// guide "Client secret rotation"; "Rate limit best practices" (X-Rate-Limit-Reset in
// epoch seconds); the SDKs' READMEs (SSWS for API tokens, Bearer for OAuth tokens).
// Not tried against Okta itself. Not found: how soon a secret works, what the error
// of a third one looks like, and how long a chosen one may be. Help, "Rotate a Client
// Secret for an API Service Integration": there values are shown once; Recover then
// cannot tell.
type okta struct{ client *oauth.Client }

const (
	// oktaApplication is the parameter for the app's id; by default it is the
	// client_id, as Okta makes them.
	oktaApplication = "application_id"
	// oktaScheme is the parameter for the scheme of the Authorization header.
	oktaScheme = "authorization_scheme"
	// oktaMost is how many secrets an app can have.
	oktaMost = 2
)

// Traits returns the same for all settings.
func (okta) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{
		Shape: broker.ShapeOverlapping, TakesChosen: true, NeedsManagement: true, Optional: []string{oktaApplication, oktaScheme},
	}
}

// Create adds the chosen secret. If it is there already, from a try whose answer was
// lost, that is success.
func (r okta) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	s, err := r.begin(opCreate, call)
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	if err := s.checkSecretClient(); err != nil {
		return broker.CreatedSecret{}, err
	}
	if call.New.IsZero() {
		return broker.CreatedSecret{}, s.unsent(broker.ReasonInternal, "there is no chosen secret")
	}
	secrets, err := s.oktaSecrets(ctx)
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	if made := secrets.having(call.New); made != nil {
		return broker.CreatedSecret{Handle: made.text("id")}, nil
	}
	if err := s.oktaMakeRoom(ctx, secrets); err != nil {
		return broker.CreatedSecret{}, harmless(err)
	}
	target, err := s.oktaPath()
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	got, err := s.send(ctx, http.MethodPost, target, map[string]string{"client_secret": call.New.RevealString(), "status": "ACTIVE"})
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	if got.Status != http.StatusCreated && got.Status != http.StatusOK {
		return broker.CreatedSecret{}, got.failed()
	}
	id := got.object.text("id")
	if !oktaID.MatchString(id) {
		return broker.CreatedSecret{}, got.fail(broker.ReasonUpstreamMalformed, "%s without the secret's id", got.kind)
	}
	if value, ok := shown(got.object, "client_secret"); ok && !value.Equal(call.New) {
		return broker.CreatedSecret{}, got.fail(broker.ReasonUpstreamMalformed, "another secret than the chosen one")
	}
	return broker.CreatedSecret{Handle: id}, nil
}

// oktaMakeRoom deletes a secret that is inactive, and thus of no use, if there is no
// room for another one.
func (s *session) oktaMakeRoom(ctx context.Context, secrets oktaSecrets) error {
	if len(secrets) < oktaMost {
		return nil
	}
	var others []string
	for _, one := range secrets {
		id := one.text("id")
		switch {
		case id == s.call.CurrentHandle || hasValue(one, s.call.Current):
		case one.text("status") == "INACTIVE":
			return s.oktaDelete(ctx, id)
		default:
			if created := parseTime(one.text("created")); !created.IsZero() {
				id += " of " + created.Format(time.DateOnly)
			}
			others = append(others, id)
		}
	}
	return s.unsent(broker.ReasonRotatorRefused, "the app has %d secrets, as many as Okta allows; remove the one that is no longer used: %s", len(secrets), strings.Join(others, " or "))
}

func hasValue(one object, current secret.Value) bool {
	value, ok := shown(one, "client_secret")
	return ok && value.Equal(current)
}

// Recover looks for the chosen secret.
func (r okta) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	s, err := r.begin(opRecover, call)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	secrets, err := s.oktaSecrets(ctx)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	if made := secrets.having(call.New); made != nil {
		return broker.RecoveredCreate{Outcome: broker.CreateDone, Created: broker.CreatedSecret{Handle: made.text("id")}}, nil
	}
	for _, one := range secrets {
		if _, ok := shown(one, "client_secret"); !ok && one.text("id") != call.CurrentHandle || call.New.IsZero() {
			return broker.RecoveredCreate{Outcome: broker.CreateUnknown}, nil
		}
	}
	return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
}

// Activate returns nil.
func (okta) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke deactivates the secret, and deletes it so that there is room for the next
// one. It is found by Handle, or by its value if Okta shows that.
func (r okta) Revoke(ctx context.Context, call broker.RotatorCall) error {
	s, err := r.begin(opRevoke, call)
	if err != nil {
		return err
	}
	secrets, err := s.oktaSecrets(ctx)
	if errors.Is(err, errOktaGone) {
		return nil
	}
	if err != nil {
		return err
	}
	var found object
	hidden := false
	for _, one := range secrets {
		if call.Handle != "" && one.text("id") == call.Handle {
			found = one
		}
		_, ok := shown(one, "client_secret")
		hidden = hidden || !ok
	}
	if found == nil && call.Handle == "" {
		found = secrets.having(call.New)
		if found == nil && hidden {
			return s.unsent(broker.ReasonRotatorRefused, "Okta's id of the secret is not known and Okta does not show its value; remove it there by hand")
		}
	}
	if found == nil {
		return nil
	}
	id := found.text("id")
	if found.text("status") != "INACTIVE" {
		target, err := s.oktaPath(id, "lifecycle", "deactivate")
		if err != nil {
			return err
		}
		got, err := s.send(ctx, http.MethodPost, target, nil)
		if err != nil {
			return err
		}
		if got.Status != http.StatusOK && got.Status != http.StatusNoContent && !got.absent() {
			return got.failed()
		}
	}
	return s.oktaDelete(ctx, id)
}

// oktaDelete deletes an inactive secret; that it is not there is success.
func (s *session) oktaDelete(ctx context.Context, id string) error {
	target, err := s.oktaPath(id)
	if err != nil {
		return err
	}
	got, err := s.send(ctx, http.MethodDelete, target, nil)
	if err == nil && got.Status != http.StatusNoContent && got.Status != http.StatusOK && !got.absent() {
		err = got.failed()
	}
	return err
}

// oktaID is what goes from Okta's answers into paths and errors.
var oktaID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// oktaSecrets are the secrets of an app, each with an id.
type oktaSecrets []object

// having returns the one with the value; nil if there is none.
func (l oktaSecrets) having(value secret.Value) object {
	for _, one := range l {
		if !value.IsZero() && hasValue(one, value) {
			return one
		}
	}
	return nil
}

// errOktaGone says that Okta knows no such app, and so no secret of it.
var errOktaGone = errors.New("there is no such app")

// oktaSecrets lists the app's secrets.
func (s *session) oktaSecrets(ctx context.Context) (oktaSecrets, error) {
	target, err := s.oktaPath()
	if err != nil {
		return nil, err
	}
	got, err := s.ask(ctx, target)
	switch {
	case err != nil:
		return nil, err
	case got.Status != http.StatusOK || got.list == nil:
		refused := got.failed()
		if got.absent() {
			refused.Err = errOktaGone
		}
		return nil, harmless(refused)
	}
	for _, one := range got.list {
		if !oktaID.MatchString(one.text("id")) {
			return nil, harmless(got.fail(broker.ReasonUpstreamMalformed, "a secret without id"))
		}
	}
	return got.list, nil
}

func (s *session) oktaPath(segments ...string) (string, error) {
	app := s.call.Settings.Parameters[oktaApplication]
	if app == "" {
		app = s.call.ClientID
	}
	return s.under("", append([]string{"apps", app, "credentials", "secrets"}, segments...)...)
}

func (r okta) begin(op string, call broker.RotatorCall) (*session, error) {
	s := manage(r.client, op, call)
	s.scheme = call.Settings.Parameters[oktaScheme]
	if s.scheme != "" && s.scheme != "Bearer" && s.scheme != "SSWS" {
		return nil, s.unsent(broker.ReasonRotatorRefused, "rotation.parameters.%s is neither Bearer nor SSWS", oktaScheme)
	}
	return s, nil
}
