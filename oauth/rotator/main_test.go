package rotator_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/rotator"
	"github.com/tokenbroker/tokenbroker/test/played"
)

func TestMain(m *testing.M) {
	// net/http keeps a connection for half a second after a body that it did not read.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// What must not show up in an error; each has "canary" in it.
const (
	management   = "canary-management-7f3a9c"
	registration = "canary-registration-7f3a9c"
	current      = "canary-current-7f3a9c+/="
	chosen       = "canary-chosen-7f3a9c"
	made         = "canary-made-7f3a9c" // a number follows
)

const (
	token    = "abcdefghijklmnopqrstuvwx27" // a rotation's id
	clientID = "0f0e0d0c-0b0a-4908-8706-050403020100"
)

// stage is a provider that is played: what arrives is counted and shown to the test,
// which may answer in the provider's place.
type stage struct {
	*httptest.Server
	client *oauth.Client

	mu        sync.Mutex // guards all below, and the state of the play
	requests  []string   // method and path of each
	auth      string     // the Authorization header that is asked for
	intercept func(w http.ResponseWriter, r *http.Request, act func()) (answered bool)
}

// play serves a handler, which is called with the lock held.
func play(t *testing.T, auth string, handler http.HandlerFunc) *stage {
	t.Helper()
	s := &stage{auth: auth}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		wanted, intercept := s.auth, s.intercept
		s.mu.Unlock()
		act := func() http.ResponseWriter {
			if got := r.Header.Get("Authorization"); got != wanted {
				t.Logf("%s %s with another authorization", r.Method, r.URL.Path)
				respond(w, 401, object{"error": "invalid_token"})
				return w
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			handler(w, r)
			return w
		}
		if intercept != nil && intercept(w, r, func() {
			real := w
			w = httptest.NewRecorder()
			act()
			w = real
		}) {
			return
		}
		act()
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	s.client = oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: roots, Timeout: 5 * time.Second})
	t.Cleanup(s.client.Close)
	return s
}

// when has the test answer requests of a method in the provider's place; act lets the
// provider do its work first.
func (s *stage) when(method string, answer func(w http.ResponseWriter, act func())) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = func(w http.ResponseWriter, r *http.Request, act func()) bool {
		if r.Method == method {
			answer(w, act)
		}
		return r.Method == method
	}
}

// lose has the provider act on requests of a method and cut the connection.
func (s *stage) lose(method string) {
	s.when(method, func(_ http.ResponseWriter, act func()) {
		act()
		panic(http.ErrAbortHandler)
	})
}

// heal ends what when and lose began.
func (s *stage) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = nil
}

// count returns how many requests of a method there were; of all for "".
func (s *stage) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, request := range s.requests {
		if method == "" || strings.HasPrefix(request, method+" ") {
			n++
		}
	}
	return n
}

// object is a JSON object.
type object = played.Object

func respond(w http.ResponseWriter, status int, body any) { played.Respond(w, status, body) }

// makesCanaries has providers make the secrets that must not show up.
var makesCanaries = played.Secrets{Make: func(n int) string { return fmt.Sprint(made, n) }}

func decode(r *http.Request) object {
	var body object
	_ = json.NewDecoder(r.Body).Decode(&body)
	return body
}

// call is a call to the provider that is played.
func (s *stage) call(endpoint string) broker.RotatorCall {
	origin, err := broker.Origin(s.URL)
	if err != nil {
		panic(err)
	}
	return broker.RotatorCall{
		Token: token, ClientID: clientID, ID: "reports", UID: "u1",
		Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
		Settings:       broker.RotationSettings{Endpoint: s.URL + endpoint, Parameters: map[string]string{}},
		Destinations:   []string{origin},
		Management:     secret.NewString(management), Current: secret.NewString(current),
	}
}

// role is a provider as the tests of all of them need it.
type role struct {
	name string
	// creates is the method of the request that makes the secret, and only of it.
	creates string
	// member holds the secret in the answer to that.
	member string
	// start begins a play and returns a call that would succeed.
	start func(t *testing.T) (*stage, broker.RotatorCall)
}

var roles = []role{auth0Role, keycloakRole, entraRole, oktaRole, rfc7592Role}

func (r role) rotator(s *stage) broker.Rotator { return rotator.New(s.client)[r.name] }

// want checks reason and text of an error, that it gives nothing away, and whether it
// says that nothing was done.
func want(t *testing.T, err error, reason broker.Reason, unsent bool, text string) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want a *broker.Error with %s", err, reason)
	}
	if e.Reason != reason || !strings.Contains(err.Error(), text) {
		t.Errorf("error = %v, want reason %s and %q", err, reason, text)
	}
	var marked *broker.UnsentError
	if got := errors.As(err, &marked); got != unsent {
		t.Errorf("error = %v: unsent is %t, want %t", err, got, unsent)
	}
	wantNoCanary(t, err)
	return e
}

// wantNoCanary looks at everything that can be printed of an error and its causes.
func wantNoCanary(t *testing.T, err error) {
	t.Helper()
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
			text := strings.ToLower(fmt.Sprintf(verb, cause))
			for _, piece := range []string{"canary", "7f3a9c", "y2fuyxj5", "63616e617279"} {
				if strings.Contains(text, piece) {
					t.Errorf("%s of the error has %q: %s", verb, piece, text)
				}
			}
		}
	}
}

// wantOutcome checks what Recover found.
func wantOutcome(t *testing.T, got broker.RecoveredCreate, err error, outcome broker.CreateOutcome) {
	t.Helper()
	if err != nil || got.Outcome != outcome {
		t.Fatalf("Recover = %q, %v; want %q", got.Outcome, err, outcome)
	}
}

func TestNamesAndTraits(t *testing.T) {
	client := oauth.New(oauth.Config{})
	t.Cleanup(client.Close)
	all := rotator.New(client)
	if got, want := slices.Sorted(maps.Keys(all)), []string{"auth0", "entra", "keycloak", "okta", "rfc7592"}; !slices.Equal(got, want) {
		t.Errorf("New has %v, want %v", got, want)
	}
	tests := []struct {
		name  string
		set   broker.RotationSettings
		shape broker.Shape
	}{
		{"auth0", broker.RotationSettings{}, broker.ShapeReplaced},
		{"entra", broker.RotationSettings{}, broker.ShapeOverlapping},
		{"keycloak", broker.RotationSettings{}, broker.ShapeReplaced},
		{"keycloak", broker.RotationSettings{Parameters: map[string]string{"secret_rotation_policy": "true"}}, broker.ShapeOverlapping},
		{"okta", broker.RotationSettings{}, broker.ShapeOverlapping},
		{"rfc7592", broker.RotationSettings{}, broker.ShapeReplaced},
	}
	for _, test := range tests {
		traits := all[test.name].Traits(test.set)
		if traits.Shape != test.shape {
			t.Errorf("%s is %s, want %s", test.name, traits.Shape, test.shape)
		}
		if traits.NeedsManagement == traits.NeedsRegistration {
			t.Errorf("%s asks for management %t and registration %t, want one of them", test.name, traits.NeedsManagement, traits.NeedsRegistration)
		}
		if err := all[test.name].Activate(t.Context(), broker.RotatorCall{}); err != nil {
			t.Errorf("%s: Activate = %v", test.name, err)
		}
	}
}
