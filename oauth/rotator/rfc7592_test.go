package rotator_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var rfc7592Role = role{name: "rfc7592", creates: http.MethodPut, member: "client_secret", start: func(t *testing.T) (*stage, broker.RotatorCall) {
	s, call, _ := playRegistration(t)
	return s, call
}}

// registrationState is what the played server knows, and what it does of all that
// RFC 7592 leaves open.
type registrationState struct {
	value, token   string
	keepsSecret    bool // an update brings no new one
	hidesSecret    bool // no answer has it
	rotatesToken   bool // an update brings a new registration token
	tokenAtRead    bool // a read brings one
	secretAtRead   bool // a read brings a new secret
	moves          string
	made           int
	metadata, last object // last is the body of the last update
}

const registered = "/register/reports"

// playRegistration plays a client configuration endpoint.
func playRegistration(t *testing.T) (*stage, broker.RotatorCall, *registrationState) {
	state := &registrationState{value: current, token: registration, metadata: object{
		"client_name": "Reports", "client_name#de": "Berichte", "grant_types": []any{"client_credentials"}, "software_version": 1.5e300,
	}}
	var s *stage
	information := func() object {
		answer := object{
			"client_id": clientID, "client_id_issued_at": 1700000000, "registration_access_token": state.token,
			"registration_client_uri": s.URL + registered + state.moves,
		}
		if !state.hidesSecret {
			answer["client_secret"], answer["client_secret_expires_at"] = state.value, 1900000000+state.made
		}
		for name, value := range state.metadata {
			answer[name] = value
		}
		return answer
	}
	renew := func(secret, token bool) {
		state.made++
		if secret {
			state.value = fmt.Sprint(made, state.made)
		}
		if token {
			state.token = fmt.Sprint(registration, state.made)
			s.auth = "Bearer " + state.token
		}
	}
	s = play(t, "Bearer "+registration, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET " + registered:
			renew(state.secretAtRead, state.tokenAtRead)
			respond(w, 200, information())
		case "PUT " + registered:
			body := decode(r)
			state.last = body
			for _, forbidden := range []string{"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"} {
				if _, ok := body[forbidden]; ok {
					respond(w, 400, object{"error": "invalid_request", "error_description": "request MUST NOT include the " + forbidden + " field"})
					return
				}
			}
			if body["client_id"] != clientID || body["client_secret"] != state.value {
				respond(w, 400, object{"error": "invalid_request", "error_description": "provided client_secret does not match"})
				return
			}
			renew(!state.keepsSecret, state.rotatesToken)
			respond(w, 200, information())
		default:
			respond(w, 404, nil)
		}
	})
	call := s.call(registered)
	call.Management, call.Registration = secret.Value{}, secret.NewString(registration)
	return s, call, state
}

func TestRFC7592(t *testing.T) {
	tests := []struct {
		name   string
		server func(*registrationState)
		value  string // the new secret; "" for none
		token  string // the new registration token; "" for none
		puts   int
		reason broker.Reason
	}{
		{name: "a new secret", value: made + "2", puts: 1},
		{name: "a new secret and a new token", server: func(r *registrationState) { r.rotatesToken = true }, value: made + "2", token: registration + "2", puts: 1},
		{name: "a new token at each request", server: func(r *registrationState) { r.rotatesToken, r.tokenAtRead = true, true }, value: made + "2", token: registration + "2", puts: 1},
		{name: "a new token at reads", server: func(r *registrationState) { r.tokenAtRead = true }, value: made + "2", token: registration + "1", puts: 1},
		{name: "a new secret at reads", server: func(r *registrationState) { r.secretAtRead, r.tokenAtRead = true, true }, value: made + "1", token: registration + "1"},
		{name: "no new secret", server: func(r *registrationState) { r.keepsSecret = true }, puts: 1, reason: broker.ReasonRotatorRefused},
		{name: "no new secret, a new token", server: func(r *registrationState) { r.keepsSecret, r.rotatesToken = true, true }, token: registration + "2", puts: 1, reason: broker.ReasonRotatorRefused},
		{name: "no secret is shown", server: func(r *registrationState) { r.hidesSecret, r.rotatesToken = true, true }, token: registration + "2", puts: 1, reason: broker.ReasonUpstreamMalformed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, state := playRegistration(t)
			if test.server != nil {
				test.server(state)
			}
			got, err := rfc7592Role.rotator(s).Create(t.Context(), call)
			if test.reason != "" {
				want(t, err, test.reason, false, "answered 200")
			} else if err != nil {
				t.Fatalf("Create = %v, want nil", err)
			}
			if got.Value.RevealString() != test.value || got.Registration.RevealString() != test.token {
				t.Errorf("Create = %q and %q, want %q and %q", got.Value.RevealString(), got.Registration.RevealString(), test.value, test.token)
			}
			if puts := s.count(http.MethodPut); puts != test.puts || s.count(http.MethodGet) != 1 {
				t.Errorf("%d GET and %d PUT, want 1 and %d", s.count(http.MethodGet), puts, test.puts)
			}
			if end := time.Unix(1900000002, 0); test.reason == "" && test.puts == 1 && !got.ExpireTime.Equal(end) {
				t.Errorf("the secret ends at %s, want %s", got.ExpireTime, end)
			}
			if state.last != nil && fmt.Sprint(state.last["client_name#de"], state.last["software_version"]) != fmt.Sprint("Berichte", 1.5e300) {
				t.Errorf("the update has %v, want all metadata as they were", state.last)
			}
		})
	}
}

func TestRFC7592Recover(t *testing.T) {
	tests := []struct {
		name    string
		server  func(*registrationState)
		before  broker.CreateOutcome // of no Create at all
		after   broker.CreateOutcome // of one whose answer was lost
		brought string               // the registration token that comes with after
	}{
		{name: "the token stays", before: broker.CreateNotDone, after: broker.CreateDone},
		{name: "the token changes", server: func(r *registrationState) { r.rotatesToken = true }, before: broker.CreateNotDone, after: broker.CreateLost},
		{name: "the secret stays", server: func(r *registrationState) { r.keepsSecret = true }, before: broker.CreateNotDone, after: broker.CreateNotDone},
		{name: "no secret is shown", server: func(r *registrationState) { r.hidesSecret = true }, before: broker.CreateUnknown, after: broker.CreateUnknown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, state := playRegistration(t)
			if test.server != nil {
				test.server(state)
			}
			r := rfc7592Role.rotator(s)
			found, err := r.Recover(t.Context(), call)
			wantOutcome(t, found, err, test.before)
			s.lose(http.MethodPut)
			_, err = r.Create(t.Context(), call)
			want(t, err, broker.ReasonUpstreamConnect, false, "broke")
			s.heal()
			found, err = r.Recover(t.Context(), call)
			wantOutcome(t, found, err, test.after)
			if test.after == broker.CreateDone && found.Created.Value.RevealString() != state.value {
				t.Error("Recover does not return the secret that was made")
			}
			if got := s.count(http.MethodPut); got != 1 {
				t.Errorf("%d PUT, want 1", got)
			}
		})
	}
}

func TestRFC7592RecoverKeepsANewToken(t *testing.T) {
	s, call, state := playRegistration(t)
	state.tokenAtRead = true
	found, err := rfc7592Role.rotator(s).Recover(t.Context(), call)
	wantOutcome(t, found, err, broker.CreateNotDone)
	if got := found.Created.Registration.RevealString(); got != registration+"1" || !found.Created.Value.IsZero() {
		t.Errorf("Recover brought %q, want the new registration token and no secret", got)
	}
}

func TestRFC7592Addresses(t *testing.T) {
	tests := []struct {
		name, said string // relative to the endpoint's origin
		wanted     string
	}{
		{"the same", registered, ""},
		{"another path", "/moved/reports?v=2", "/moved/reports?v=2"},
		{"another origin", "https://evil.example/register", ""},
		{"no URL", "::", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, _ := playRegistration(t)
			said := test.said
			if strings.HasPrefix(said, "/") {
				said = s.URL + said
			}
			s.when(http.MethodPut, func(w http.ResponseWriter, _ func()) {
				respond(w, 200, object{"client_id": clientID, "client_secret": made, "registration_client_uri": said})
			})
			wanted := test.wanted
			if wanted != "" {
				wanted = s.URL + wanted
			}
			got, err := rfc7592Role.rotator(s).Create(t.Context(), call)
			if err != nil || got.RegistrationEndpoint != wanted || got.Value.IsZero() {
				t.Errorf("Create = endpoint %q, %v; want %q", got.RegistrationEndpoint, err, wanted)
			}
		})
	}
}

func TestRFC7592RegistrationOfAnother(t *testing.T) {
	s, call, _ := playRegistration(t)
	call.ClientID = "other"
	_, err := rfc7592Role.rotator(s).Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "another client")
	_, err = rfc7592Role.rotator(s).Recover(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, true, "another client")
	if got := s.count(http.MethodPut); got != 0 {
		t.Errorf("%d PUT, want none", got)
	}
}

func TestRFC7592AuthenticationMethods(t *testing.T) {
	tests := []struct {
		name       string
		registered any
		method     broker.AuthenticationMethod
		want       string
	}{
		{"a string", "client_secret_post", broker.ClientSecretBasic, "client_secret_post"},
		{"one in an array", []any{"client_secret_post"}, broker.ClientSecretBasic, "client_secret_post"},
		{"several", []any{"none", "client_secret_post"}, broker.ClientSecretPost, "client_secret_post"},
		{"several, by Basic", []any{"none", "client_secret_basic"}, broker.ClientSecretBasicRaw, "client_secret_basic"},
		{"no method", []any{}, broker.ClientSecretBasic, "[]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, call, state := playRegistration(t)
			state.metadata["token_endpoint_auth_method"] = test.registered
			call.Authentication.Method = test.method
			if _, err := rfc7592Role.rotator(s).Create(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(state.last["token_endpoint_auth_method"]); got != test.want {
				t.Errorf("the update has %s, want %s", got, test.want)
			}
		})
	}
}
