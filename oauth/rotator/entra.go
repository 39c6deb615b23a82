package rotator

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// entra adds and removes passwords of an application by Microsoft Graph. The endpoint
// is https://graph.microsoft.com/v1.0, or that of a national cloud. The application
// is addressed by its appId, which is the client_id, so that none can be confused.
//
// A password's displayName is the rotation's id: by it an orphan, whose value was in
// a lost answer, is found and removed. Nothing else is ever removed but what Create
// returned.
//
// Sources: Microsoft Graph v1.0, "application: addPassword" (200 with secretText,
// which is shown once, keyId and endDateTime, by default two years from now;
// permission Application.ReadWrite.OwnedBy or .All), "application: removePassword"
// (keyId; 204), "passwordCredential resource type", "Get application" (by appId, with
// passwordCredentials), "Microsoft Graph throttling guidance" (429, Retry-After). Not
// documented, and from what others met: a removed or not yet known keyId is a 400 "No
// password credential found with keyId"; reads lag behind writes by seconds; a new
// password works after 4 to 18 s (microsoft-graph-docs issue 17966, with no promise),
// in the field also later. Not tried against Microsoft. The limit of displayName is
// not documented; the token's 26 characters fit the 32 bytes of the older API.
type entra struct{ client *oauth.Client }

const (
	// entraLifetime is the parameter for how many days a new password lasts.
	entraLifetime = "lifetime_days"
	// entraPropagation is well over what was met.
	entraPropagation = 2 * time.Minute
)

// Traits returns the same for all settings.
func (entra) Traits(broker.RotationSettings) broker.RotatorTraits {
	return broker.RotatorTraits{
		Shape: broker.ShapeOverlapping, NeedsManagement: true, Propagation: entraPropagation, Optional: []string{entraLifetime},
	}
}

// Create adds a password.
func (r entra) Create(ctx context.Context, call broker.RotatorCall) (broker.CreatedSecret, error) {
	s := manage(r.client, opCreate, call)
	if err := s.checkSecretClient(); err != nil {
		return broker.CreatedSecret{}, err
	}
	target, err := s.entraApplication("", "addPassword")
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	credential := map[string]string{"displayName": call.Token}
	if text, ok := call.Settings.Parameters[entraLifetime]; ok {
		days, err := strconv.Atoi(text)
		if err != nil || days < 1 || days > 3650 {
			return broker.CreatedSecret{}, s.unsent(broker.ReasonRotatorRefused, "rotation.parameters.%s is not a number of days from 1 to 3650", entraLifetime)
		}
		credential["endDateTime"] = time.Now().UTC().AddDate(0, 0, days).Format(time.RFC3339)
	}
	got, err := s.send(ctx, http.MethodPost, target, map[string]any{"passwordCredential": credential})
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	if got.Status != http.StatusOK && got.Status != http.StatusCreated {
		return broker.CreatedSecret{}, got.failed()
	}
	id := got.object.text("keyId")
	if !guid.MatchString(id) {
		return broker.CreatedSecret{}, got.fail(broker.ReasonUpstreamMalformed, "%s without a keyId", got.kind)
	}
	value, err := s.newSecret(got, "secretText")
	if err != nil {
		return broker.CreatedSecret{}, err
	}
	return broker.CreatedSecret{Value: value, Handle: id, ExpireTime: parseTime(got.object.text("endDateTime"))}, nil
}

// Recover removes a password that has the rotation's id for a name: nobody knows its
// value. One is removed by a call; if there are more, UPSTREAM_UNAVAILABLE asks for
// another one.
//
// Graph may not show yet what was added a moment ago. An orphan that is overlooked so
// harms nothing: nobody has its value, and it has a name and an end.
func (r entra) Recover(ctx context.Context, call broker.RotatorCall) (broker.RecoveredCreate, error) {
	s := manage(r.client, opRecover, call)
	got, err := s.entraRead(ctx)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	credentials, err := entraCredentials(got)
	if err != nil {
		return broker.RecoveredCreate{}, err
	}
	var orphans []string
	for _, credential := range credentials {
		id := credential.text("keyId")
		if call.Token != "" && credential.text("displayName") == call.Token && id != "" && !strings.EqualFold(id, call.CurrentHandle) {
			orphans = append(orphans, id)
		}
	}
	if len(orphans) > 0 {
		if err := s.entraRemove(ctx, orphans[0]); err != nil {
			return broker.RecoveredCreate{}, err
		}
	}
	if len(orphans) > 1 {
		return broker.RecoveredCreate{}, &broker.Error{
			Reason: broker.ReasonUpstreamUnavailable, Op: s.op,
			Detail: fmt.Sprintf("one of %d passwords of this rotation was removed; the next call removes another", len(orphans)),
		}
	}
	return broker.RecoveredCreate{Outcome: broker.CreateNotDone}, nil
}

// Activate returns nil.
func (entra) Activate(context.Context, broker.RotatorCall) error { return nil }

// Revoke removes the password that Handle names, unless its name at Entra shows that
// the broker did not make it: ROTATOR_REFUSED, as for one of which there is no
// Handle.
func (r entra) Revoke(ctx context.Context, call broker.RotatorCall) error {
	s := manage(r.client, opRevoke, call)
	if !guid.MatchString(call.Handle) {
		return s.unsent(broker.ReasonRotatorRefused, "Entra's keyId of the secret is not known, because the broker did not make it; remove it there by hand")
	}
	got, err := s.entraRead(ctx)
	if err != nil {
		return err
	}
	if entraGone(got) {
		return nil
	}
	credentials, err := entraCredentials(got)
	if err != nil {
		return err
	}
	for _, credential := range credentials {
		if strings.EqualFold(credential.text("keyId"), call.Handle) && !rotationID.MatchString(credential.text("displayName")) {
			return s.unsent(broker.ReasonRotatorRefused, "the password %s was not made by the broker; remove it at Entra by hand", call.Handle)
		}
	}
	// Also if it is not in the list, which lags.
	return s.entraRemove(ctx, call.Handle)
}

var (
	guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	// rotationID is what RotatorCall.Token looks like.
	rotationID = regexp.MustCompile(`^[a-z2-7]{26}$`)
)

// entraApplication returns the URL of the application or of an action on it.
func (s *session) entraApplication(query string, action ...string) (string, error) {
	if !guid.MatchString(s.call.ClientID) {
		return "", s.unsent(broker.ReasonRotatorRefused, "the client_id is not an application id of Entra, which is a GUID")
	}
	base, err := s.under("")
	if err != nil {
		return "", err
	}
	path := append([]string{base, "applications(appId='" + s.call.ClientID + "')"}, action...)
	if query != "" {
		query = "?" + query
	}
	return strings.Join(path, "/") + query, nil
}

// entraRead reads the application.
func (s *session) entraRead(ctx context.Context) (reply, error) {
	target, err := s.entraApplication("$select=appId,passwordCredentials")
	if err != nil {
		return reply{}, err
	}
	return s.ask(ctx, target)
}

// entraCredentials returns the passwords of the application that was read.
func entraCredentials(got reply) ([]object, error) {
	if got.Status != http.StatusOK {
		return nil, harmless(got.failed())
	}
	credentials, ok := got.object.objects("passwordCredentials")
	if !ok {
		return nil, harmless(got.fail(broker.ReasonUpstreamMalformed, "%s without passwordCredentials", got.kind))
	}
	return credentials, nil
}

// entraGone reports whether Graph says that the application does not exist.
func entraGone(got reply) bool {
	nested, err := parseObject(got.object["error"])
	return err == nil && got.Status == http.StatusNotFound && nested.text("code") == "Request_ResourceNotFound"
}

// entraRemove removes a password; that it is not there is success.
func (s *session) entraRemove(ctx context.Context, id string) error {
	target, err := s.entraApplication("", "removePassword")
	if err != nil {
		return err
	}
	got, err := s.send(ctx, http.MethodPost, target, map[string]string{"keyId": id})
	switch {
	case err != nil:
		return err
	case got.Status == http.StatusNoContent, got.Status == http.StatusOK, entraGone(got):
		return nil
	case got.Status == http.StatusBadRequest || got.Status == http.StatusNotFound:
		nested, err := parseObject(got.object["error"])
		if err == nil && strings.HasPrefix(nested.text("message"), "No password credential found with keyId") {
			return nil
		}
	}
	return got.failed()
}
