package rotator_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

var entraRole = role{name: "entra", creates: http.MethodPost, member: "secretText", start: func(t *testing.T) (*stage, broker.RotatorCall) {
	s, call, _ := playEntra(t)
	return s, call
}}

// entraState is what the played Graph knows of the application.
type entraState struct {
	credentials []object
	made        int
	hidden      bool // reads lag behind: the list is empty
}

// names returns the passwords' names.
func (e *entraState) names() []string {
	var names []string
	for _, credential := range e.credentials {
		names = append(names, credential["displayName"].(string))
	}
	return names
}

const entraEnd = "2028-11-21T08:00:00Z"

// keyID returns the id of the n-th password.
func keyID(n int) string { return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n) }

func graphError(code, message string) object {
	return object{"error": object{"code": code, "message": message, "innerError": object{"request-id": clientID}}}
}

// playEntra plays addPassword, removePassword and "Get application".
func playEntra(t *testing.T) (*stage, broker.RotatorCall, *entraState) {
	const base = "/v1.0/applications(appId='" + clientID + "')"
	state := &entraState{credentials: []object{
		{"keyId": keyID(100), "displayName": "by hand", "hint": "abc", "secretText": nil},
	}}
	s := play(t, "Bearer "+management, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET " + base:
			shown := state.credentials
			if state.hidden {
				shown = []object{}
			}
			respond(w, 200, object{"appId": clientID, "passwordCredentials": shown})
		case "POST " + base + "/addPassword":
			asked, _ := decode(r)["passwordCredential"].(object)
			state.made++
			end := entraEnd
			if wanted, ok := asked["endDateTime"].(string); ok {
				end = wanted
			}
			one := object{"keyId": keyID(state.made), "displayName": asked["displayName"], "endDateTime": end, "hint": "can", "secretText": nil}
			state.credentials = append(state.credentials, one)
			answer := object{"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#microsoft.graph.passwordCredential"}
			for name, value := range one {
				answer[name] = value
			}
			answer["secretText"] = fmt.Sprint(made, state.made)
			respond(w, 200, answer)
		case "POST " + base + "/removePassword":
			id, _ := decode(r)["keyId"].(string)
			at := slices.IndexFunc(state.credentials, func(c object) bool { return c["keyId"] == id })
			if at < 0 {
				respond(w, 400, graphError("Request_BadRequest", "No password credential found with keyId "+id+" for application."))
				return
			}
			state.credentials = slices.Delete(state.credentials, at, at+1)
			w.WriteHeader(204)
		default:
			respond(w, 404, graphError("Request_ResourceNotFound", "Resource does not exist or one of its queried reference-property objects are not present."))
		}
	})
	return s, s.call("/v1.0"), state
}

func TestEntra(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	got, err := r.Create(t.Context(), call)
	end, _ := time.Parse(time.RFC3339, entraEnd)
	if err != nil || got.Value.RevealString() != made+"1" || got.Handle != keyID(1) || !got.ExpireTime.Equal(end) {
		t.Fatalf("Create = %v, %v; want the secret, its keyId and end", got, err)
	}
	if names := state.names(); !slices.Equal(names, []string{"by hand", token}) {
		t.Errorf("passwords are %q, want the rotation's id as name", names)
	}
	call.New, call.Handle = got.Value, got.Handle
	for range 2 {
		if err := r.Revoke(t.Context(), call); err != nil {
			t.Fatalf("Revoke = %v, want nil", err)
		}
	}
	if names := state.names(); !slices.Equal(names, []string{"by hand"}) {
		t.Errorf("passwords are %q, want what was not made by the broker", names)
	}
}

func TestEntraLifetime(t *testing.T) {
	s, call, _ := playEntra(t)
	call.Settings.Parameters["lifetime_days"] = "30"
	got, err := entraRole.rotator(s).Create(t.Context(), call)
	if left := time.Until(got.ExpireTime); err != nil || left < 29*24*time.Hour || left > 31*24*time.Hour {
		t.Errorf("Create = end in %s, %v; want 30 days", left, err)
	}
	for _, bad := range []string{"", "0", "3651", "x", "1.5"} {
		call.Settings.Parameters["lifetime_days"] = bad
		_, err := entraRole.rotator(s).Create(t.Context(), call)
		want(t, err, broker.ReasonRotatorRefused, true, "lifetime_days")
	}
}

func TestEntraOrphans(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	s.lose(http.MethodPost)
	for range 2 {
		_, err := r.Create(t.Context(), call)
		want(t, err, broker.ReasonUpstreamConnect, false, "broke")
	}
	s.heal()
	_, err := r.Recover(t.Context(), call)
	want(t, err, broker.ReasonUpstreamUnavailable, false, "one of 2")
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
	if names := state.names(); !slices.Equal(names, []string{"by hand"}) {
		t.Errorf("passwords are %q, want no orphan and what was there", names)
	}
	found, err = r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
}

func TestEntraRemovesNothingOfOthers(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	call.Handle = keyID(100)
	want(t, r.Revoke(t.Context(), call), broker.ReasonRotatorRefused, true, "was not made by the broker")
	call.Handle = ""
	want(t, r.Revoke(t.Context(), call), broker.ReasonRotatorRefused, true, "keyId of the secret is not known")
	state.credentials = append(state.credentials, object{"keyId": keyID(7), "displayName": "bbbbbbbbbbbbbbbbbbbbbbbbbb"})
	found, err := r.Recover(t.Context(), call) // another rotation's
	wantOutcome(t, found, err, broker.CreateNotDone)
	if len(state.credentials) != 2 {
		t.Errorf("passwords are %q, want all that were there", state.names())
	}
}

func TestEntraLaggingReads(t *testing.T) {
	s, call, state := playEntra(t)
	r := entraRole.rotator(s)
	got, err := r.Create(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	state.hidden = true
	call.Handle = got.Handle
	if err := r.Revoke(t.Context(), call); err != nil || len(state.credentials) != 1 {
		t.Errorf("Revoke = %v with %q left, want it removed although it is not listed", err, state.names())
	}
}

func TestEntraApplicationThatIsGone(t *testing.T) {
	s, call, _ := playEntra(t)
	r := entraRole.rotator(s)
	call.ClientID = "99999999-0b0a-4908-8706-050403020100"
	call.Handle = keyID(1)
	if err := r.Revoke(t.Context(), call); err != nil {
		t.Errorf("Revoke = %v, want nil", err)
	}
	_, err := r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, false, "Request_ResourceNotFound")
	_, err = r.Recover(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "Request_ResourceNotFound")
	call.ClientID = "reports"
	_, err = r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "GUID")
}
