package rotator_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var auth0Role = role{name: "auth0", creates: http.MethodPost, member: "client_secret", start: playAuth0}

// playAuth0 plays "Rotate a client secret" and "Get client by ID".
func playAuth0(t *testing.T) (*stage, broker.RotatorCall) {
	value, n := current, 0
	s := play(t, "Bearer "+management, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "POST /api/v2/clients/" + clientID + "/rotate-secret":
			n++
			value = fmt.Sprint(made, n)
			respond(w, 200, object{"client_id": clientID, "name": "Reports", "client_secret": value, "tenant": "acme"})
		case "GET /api/v2/clients/" + clientID:
			if got := r.URL.RawQuery; got != "fields=client_id,client_secret&include_fields=true" {
				t.Errorf("query = %q", got)
			}
			respond(w, 200, object{"client_id": clientID, "client_secret": value})
		default:
			respond(w, 404, object{"statusCode": 404, "error": "Not Found", "message": "The client does not exist", "errorCode": "inexistent_client"})
		}
	})
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
