package rotator_test

import (
	"net/http"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/played"
)

var auth0Role = role{name: "auth0", creates: http.MethodPost, member: "client_secret", start: playAuth0}

// playAuth0 plays "Rotate a client secret" and "Get client by ID".
func playAuth0(t *testing.T) (*stage, broker.RotatorCall) {
	s := play(t, "Bearer "+management, (&played.Auth0{Secrets: makesCanaries, ClientID: clientID, Value: current}).ServeHTTP)
	return s, s.call("/api/v2/")
}

func TestAuth0(t *testing.T) {
	s, call := playAuth0(t)
	r := auth0Role.rotator(s)
	got, err := r.Create(t.Context(), call)
	if err != nil || got.Value.RevealString() != made+"1" || got.Handle != "" {
		t.Fatalf("Create = %v, %v; want the secret and no handle", got, err)
	}
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateDone)
	if !found.Created.Value.Equal(got.Value) {
		t.Error("Recover does not return the secret that was made")
	}
	call.Current = got.Value
	found, err = r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
	requests := s.count(http.MethodPost) + s.count(http.MethodGet)
	call.New = secret.NewString(current)
	if err := r.Revoke(t.Context(), call); err != nil {
		t.Errorf("Revoke = %v, want nil", err)
	}
	if got := s.count(http.MethodPost) + s.count(http.MethodGet); got != requests {
		t.Error("Revoke made a request")
	}
}

func TestAuth0ThatDoesNotShowSecrets(t *testing.T) {
	s, call := playAuth0(t)
	s.when(http.MethodGet, func(w http.ResponseWriter, _ func()) { respond(w, 200, object{"client_id": clientID}) })
	found, err := auth0Role.rotator(s).Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateUnknown)
}

func TestAuth0UnknownClient(t *testing.T) {
	s, call := playAuth0(t)
	call.ClientID = "other"
	_, err := auth0Role.rotator(s).Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, false, "Not Found: inexistent_client")
}
