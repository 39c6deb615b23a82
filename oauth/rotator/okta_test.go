package rotator_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var oktaRole = role{name: "okta", creates: http.MethodPost, member: "client_secret", start: func(t *testing.T) (*stage, broker.RotatorCall) {
	s, call, _ := playOkta(t)
	return s, call
}}

// oktaState is what the played Okta knows of the app.
type oktaState struct {
	secrets []object
	made    int
	masked  bool // values are not shown
}

func (o *oktaState) add(value, status string) string {
	o.made++
	id := fmt.Sprintf("ocs%d", o.made)
	o.secrets = append(o.secrets, object{
		"id": id, "client_secret": value, "secret_hash": "yk4SVx4sUWVJVbHt6M-UPA", "status": status,
		"created": "2026-01-02T03:04:05.000Z", "lastUpdated": "2026-01-02T03:04:05.000Z",
	})
	return id
}

// ids returns the secrets' ids and states.
func (o *oktaState) ids() []string {
	var ids []string
	for _, one := range o.secrets {
		ids = append(ids, fmt.Sprint(one["id"], " ", one["status"]))
	}
	return ids
}

func oktaError(code, summary string) object {
	return object{"errorCode": code, "errorSummary": summary, "errorLink": code, "errorId": "oaeMHrsk2WLTACvPU5T7yQ4yw", "errorCauses": []any{}}
}

// playOkta plays "Application Client Auth Credentials" with the current secret in it.
func playOkta(t *testing.T) (*stage, broker.RotatorCall, *oktaState) {
	const base = "/api/v1/apps/" + clientID + "/credentials/secrets"
	state := &oktaState{}
	state.add(current, "ACTIVE")
	s := play(t, "Bearer "+management, func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, base)
		id, action, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		at := slices.IndexFunc(state.secrets, func(one object) bool { return one["id"] == id })
		switch {
		case !ok || id != "" && at < 0:
			respond(w, 404, oktaError("E0000007", "Not found: Resource not found"))
		case r.Method == http.MethodGet && id == "":
			list := []object{}
			for _, one := range state.secrets {
				shown := object{}
				for name, value := range one {
					if name != "client_secret" || !state.masked {
						shown[name] = value
					}
				}
				list = append(list, shown)
			}
			respond(w, 200, list)
		case r.Method == http.MethodPost && id == "":
			if len(state.secrets) == 2 {
				respond(w, 400, oktaError("E0000001", "Api validation failed: client_secret"))
				return
			}
			body := decode(r)
			state.add(body["client_secret"].(string), body["status"].(string))
			respond(w, 201, state.secrets[len(state.secrets)-1])
		case r.Method == http.MethodPost && action == "lifecycle/deactivate":
			state.secrets[at]["status"] = "INACTIVE"
			respond(w, 200, state.secrets[at])
		case r.Method == http.MethodDelete && action == "" && state.secrets[at]["status"] == "INACTIVE":
			state.secrets = slices.Delete(state.secrets, at, at+1)
			w.WriteHeader(204)
		default:
			respond(w, 400, oktaError("E0000001", "Api validation failed: status"))
		}
	})
	call := s.call("/api/v1")
	call.New = secret.NewString(chosen)
	return s, call, state
}

func TestOkta(t *testing.T) {
	s, call, state := playOkta(t)
	r := oktaRole.rotator(s)
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
	for range 2 { // the second finds it there
		got, err := r.Create(t.Context(), call)
		if err != nil || !got.Value.IsZero() || got.Handle != "ocs2" {
			t.Fatalf("Create = %v, %v; want the id alone", got, err)
		}
	}
	if got := s.count(http.MethodPost); got != 1 {
		t.Errorf("%d POST, want 1", got)
	}
	found, err = r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateDone)
	if found.Created.Handle != "ocs2" {
		t.Errorf("Recover found %q, want ocs2", found.Created.Handle)
	}
	call.New, call.Handle = secret.NewString(current), ""
	for range 2 {
		if err := r.Revoke(t.Context(), call); err != nil {
			t.Fatalf("Revoke = %v, want nil", err)
		}
	}
	if got := state.ids(); !slices.Equal(got, []string{"ocs2 ACTIVE"}) {
		t.Errorf("secrets are %q, want the new one alone", got)
	}
}

func TestOktaRoom(t *testing.T) {
	tests := []struct {
		name, current, other string
		left                 []string
		refused              string
	}{
		{name: "an inactive one", current: "ACTIVE", other: "INACTIVE", left: []string{"ocs1 ACTIVE", "ocs3 ACTIVE"}},
		{name: "both active", current: "ACTIVE", other: "ACTIVE", left: []string{"ocs1 ACTIVE", "ocs2 ACTIVE"}, refused: "remove the one that is no longer used: ocs2 of 2026-01-02"},
		{name: "the current one inactive", current: "INACTIVE", other: "ACTIVE", left: []string{"ocs1 INACTIVE", "ocs2 ACTIVE"}, refused: "ocs2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, state := playOkta(t)
			state.secrets[0]["status"] = test.current
			state.add("canary-other-7f3a9c", test.other)
			_, err := oktaRole.rotator(s).Create(t.Context(), call)
			if test.refused != "" {
				want(t, err, broker.ReasonRotatorRefused, true, test.refused)
			} else if err != nil {
				t.Fatalf("Create = %v, want nil", err)
			}
			if got := state.ids(); !slices.Equal(got, test.left) {
				t.Errorf("secrets are %q, want %q", got, test.left)
			}
		})
	}
}

func TestOktaThatShowsNoValues(t *testing.T) {
	s, call, state := playOkta(t)
	r := oktaRole.rotator(s)
	state.masked = true
	call.CurrentHandle = "ocs1"
	found, err := r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone) // all there is, is the current one
	call.CurrentHandle = ""
	found, err = r.Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateUnknown)
	want(t, r.Revoke(t.Context(), call), broker.ReasonRotatorRefused, true, "remove it there by hand")
	call.Handle = "ocs1"
	if err := r.Revoke(t.Context(), call); err != nil || len(state.secrets) != 0 {
		t.Errorf("Revoke = %v with %q left, want it found by its id", err, state.ids())
	}
}

func TestOktaParameters(t *testing.T) {
	s, call, state := playOkta(t)
	r := oktaRole.rotator(s)
	call.ClientID = "chosen-name"
	_, err := r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "E0000007: Not found")
	if err := r.Revoke(t.Context(), call); err != nil {
		t.Errorf("Revoke of an unknown app's secret = %v, want nil", err)
	}
	call.Settings.Parameters["application_id"] = clientID
	call.Settings.Parameters["authorization_scheme"] = "SSWS"
	s.auth = "SSWS " + management
	if _, err := r.Create(t.Context(), call); err != nil || len(state.secrets) != 2 {
		t.Errorf("Create = %v with %q, want a second secret", err, state.ids())
	}
	call.Settings.Parameters["authorization_scheme"] = "Basic"
	_, err = r.Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "authorization_scheme")
}
