package rotator_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var keycloakRole = role{name: "keycloak", creates: http.MethodPost, member: "value", start: func(t *testing.T) (*stage, broker.RotatorCall) {
	s, call, _ := playKeycloak(t, false)
	return s, call
}}

// keycloakState is what the played Keycloak knows.
type keycloakState struct {
	value, rotated string
	made           int
}

// playKeycloak plays the admin REST API, with or without a secret rotation policy.
func playKeycloak(t *testing.T, policy bool) (*stage, broker.RotatorCall, *keycloakState) {
	const base = "/admin/realms/acme/clients"
	const uuid = "11111111-2222-3333-4444-555555555555"
	state := &keycloakState{value: current}
	credential := func(value string) object { return object{"type": "secret", "value": value} }
	s := play(t, "Bearer "+management, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET " + base:
			list := []object{}
			if r.URL.Query().Get("clientId") == clientID {
				list = append(list, object{"id": "another", "clientId": clientID + "x"}, object{"id": uuid, "clientId": clientID, "attributes": object{}})
			}
			respond(w, 200, list)
		case "GET " + base + "/" + uuid + "/client-secret":
			respond(w, 200, credential(state.value))
		case "POST " + base + "/" + uuid + "/client-secret":
			state.rotated = ""
			if policy {
				state.rotated = state.value
			}
			state.made++
			state.value = fmt.Sprint(made, state.made)
			respond(w, 200, credential(state.value))
		case "GET " + base + "/" + uuid + "/client-secret/rotated":
			if state.rotated == "" {
				respond(w, 404, object{"error": "Client does not have a rotated secret"})
				return
			}
			respond(w, 200, credential(state.rotated))
		case "DELETE " + base + "/" + uuid + "/client-secret/rotated":
			state.rotated = ""
			w.WriteHeader(204)
		default:
			respond(w, 404, object{"error": "Could not find client"})
		}
	})
	call := s.call("/admin/realms/acme")
	if policy {
		call.Settings.Parameters["secret_rotation_policy"] = "true"
	}
	return s, call, state
}

func TestKeycloak(t *testing.T) {
	s, call, _ := playKeycloak(t, false)
	r := keycloakRole.rotator(s)
	got, err := r.Create(t.Context(), call)
	if err != nil || got.Value.RevealString() != made+"1" {
		t.Fatalf("Create = %v, %v; want the secret", got, err)
	}
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateDone)
	if !found.Created.Value.Equal(got.Value) {
		t.Error("Recover does not return the secret that was made")
	}
	call.New = call.Current
	if err := r.Revoke(t.Context(), call); err != nil || s.count(http.MethodDelete) != 0 {
		t.Errorf("Revoke = %v with %d DELETE, want nil and none", err, s.count(http.MethodDelete))
	}
}

func TestKeycloakRevoke(t *testing.T) {
	tests := []struct {
		name    string
		revoke  string
		present string // after Create
		rotated string
		deletes int
		refused bool
	}{
		{name: "the rotated one", revoke: current, present: made, rotated: current, deletes: 1},
		{name: "one that has ended", revoke: current, present: made},
		{name: "one of long ago", revoke: "canary-old-7f3a9c", present: made, rotated: current},
		{name: "the present one", revoke: made, present: made, rotated: current, refused: true},
		{name: "the present one, alone", revoke: made, present: made, refused: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, state := playKeycloak(t, true)
			state.value, state.rotated = test.present, test.rotated
			call.New = secret.NewString(test.revoke)
			for range 2 { // twice is as once
				err := keycloakRole.rotator(s).Revoke(t.Context(), call)
				if test.refused {
					want(t, err, broker.ReasonRotatorRefused, true, "present one")
				} else if err != nil {
					t.Fatalf("Revoke = %v, want nil", err)
				}
			}
			if got := s.count(http.MethodDelete); got != test.deletes {
				t.Errorf("%d DELETE, want %d", got, test.deletes)
			}
			if state.value != test.present {
				t.Error("the present secret changed")
			}
		})
	}
}

func TestKeycloakUnknownClient(t *testing.T) {
	s, call, _ := playKeycloak(t, false)
	call.ClientID = "other"
	_, err := keycloakRole.rotator(s).Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "no client of that client_id")
	if got := s.count(http.MethodPost); got != 0 {
		t.Errorf("%d secrets were asked for, want none", got)
	}
}
