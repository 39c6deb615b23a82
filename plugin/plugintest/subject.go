package plugintest

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/plugin"
)

// Subject is a running rotator and a client of its provider.
type Subject struct {
	// Config is how the broker would reach it.
	Config plugin.Config
	// Client is registered at the provider and has exactly one secret.
	Client Client
	// Accepts asks the provider whether a secret of Client works, as by a token.
	Accepts func(ctx context.Context, secret string) (bool, error)
	// Count returns how many secrets of Client work at the provider; nil if it cannot
	// be found out, and then leftovers go unnoticed.
	Count func(ctx context.Context) (int, error)
	// Restart ends the rotator as a crash does and starts it again at the same address;
	// nil if that cannot be done.
	Restart func(t *testing.T)
}

// Client is a client of the provider, as it is registered with the broker.
type Client struct {
	// ID is what a broker would call it.
	ID string
	// ClientID is what the provider calls it.
	ClientID string
	// TokenEndpoint and Method are how it gets tokens, such as "client_secret_basic".
	TokenEndpoint, Method string
	// Parameters and Endpoint are its rotation settings.
	Parameters map[string]string
	Endpoint   string
	// Secret works; Handle is what the provider calls it, "" if it has no name.
	Secret, Handle string
}

// run is one test with what it needs.
type run struct {
	*testing.T
	Subject
	rotator *plugin.Rotator
	wire    *wire
	uid     string

	mu      sync.Mutex
	secrets []string // guarded by mu: must stand in no error
}

// settles is how long a provider may take for a change besides its propagation.
const settles = 10 * time.Second

func newRun(t *testing.T, s Subject) *run {
	t.Helper()
	r := &run{T: t, Subject: s, wire: &wire{}, uid: newToken(), secrets: []string{s.Client.Secret}}
	r.rotator = r.dial(s.Config, grpc.WithUnaryInterceptor(r.wire.intercept))
	return r
}

func (r *run) dial(cfg plugin.Config, options ...grpc.DialOption) *plugin.Rotator {
	r.Helper()
	rotator, err := plugin.New(cfg, options...)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = rotator.Close() })
	return rotator
}

// newToken returns a token as the broker makes them.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// call is the call of a rotation with token, whose new secret is made; made is zero
// before it is.
func (r *run) call(token string, made broker.CreatedSecret) broker.RotatorCall {
	return broker.RotatorCall{
		Token: token, ID: r.Client.ID, UID: r.uid, ClientID: r.Client.ClientID, TokenEndpoint: r.Client.TokenEndpoint,
		Authentication: broker.Authentication{Method: broker.AuthenticationMethod(r.Client.Method)},
		Settings:       broker.RotationSettings{Rotator: r.Config.Name, Parameters: r.Client.Parameters, Endpoint: r.Client.Endpoint},
		Current:        secret.NewString(r.Client.Secret), CurrentHandle: r.Client.Handle,
		New: made.Value, Handle: made.Handle,
	}
}

// begin is call before the secret is made: with a chosen one, if the rotator takes such.
func (r *run) begin(token string) broker.RotatorCall {
	made := broker.CreatedSecret{}
	if r.Config.TakesChosen {
		made.Value = secret.NewString("chosen-" + newToken())
	}
	return r.call(token, made)
}

// noted keeps the secret of a Create and returns it with the chosen value filled in.
func (r *run) noted(call broker.RotatorCall, made broker.CreatedSecret) broker.CreatedSecret {
	if r.Config.TakesChosen {
		made.Value = call.New
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, made.Value.RevealString())
	return made
}

// create makes a secret or fails the test.
func (r *run) create(call broker.RotatorCall) broker.CreatedSecret {
	r.Helper()
	made, err := r.rotator.Create(r.Context(), call)
	r.clean(err)
	if err != nil {
		r.Fatalf("Create: %v", err)
	}
	return r.noted(call, made)
}

// settle does what the broker does after a Create of unknown outcome; lost says that
// the provider cannot show the new secret.
func (r *run) settle(call broker.RotatorCall) (made broker.CreatedSecret, lost bool) {
	r.Helper()
	found := r.recover(call)
	switch found.Outcome {
	case broker.CreateDone:
		return r.noted(call, found.Created), false
	case broker.CreateNotDone:
		return r.create(call), false
	case broker.CreateLost:
		if r.Config.Shape != broker.ShapeReplaced {
			r.Fatalf("Recover says %s: only a provider that replaces its secret loses one", found.Outcome)
		}
		return broker.CreatedSecret{}, true
	}
	r.Fatalf("Recover says %s", found.Outcome)
	return broker.CreatedSecret{}, false
}

// recover calls Recover until it has an answer: a connection that a restart has broken
// comes back in its own time.
func (r *run) recover(call broker.RotatorCall) broker.RecoveredCreate {
	r.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(settles); ; <-tick.C {
		found, err := r.rotator.Recover(r.Context(), call)
		r.clean(err)
		reason := broker.ReasonOf(err)
		switch {
		case err == nil:
			return found
		case reason != broker.ReasonUpstreamConnect && reason != broker.ReasonUpstreamUnavailable, time.Now().After(end):
			r.Fatalf("Recover: %v", err)
		}
	}
}

// clean fails the test if an error holds a secret.
func (r *run) clean(err error) {
	r.Helper()
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, value := range r.secrets {
		if value != "" && strings.Contains(err.Error(), value) {
			r.Error("an error holds a secret")
		}
	}
}

// wantRefused checks that err is of reason and that the provider was not touched.
func (r *run) wantRefused(what string, err error, reason broker.Reason) {
	r.Helper()
	r.clean(err)
	var unsent *broker.UnsentError
	if broker.ReasonOf(err) != reason || !errors.As(err, &unsent) {
		r.Errorf("%s: %v, want %s of what changed nothing", what, err, reason)
	}
}

// wantAccepted waits until the provider takes a secret, or does not.
func (r *run) wantAccepted(what, value string, want bool) {
	r.Helper()
	r.eventually(func() (string, error) {
		got, err := r.Accepts(r.Context(), value)
		if got == want || err != nil {
			return "", err
		}
		return "the provider accepts the " + what + " secret: " + word(got) + ", want " + word(want), nil
	})
}

func word(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// wantCount waits until the provider has so many secrets.
func (r *run) wantCount(want int) {
	r.Helper()
	if r.Count == nil {
		return
	}
	r.eventually(func() (string, error) {
		got, err := r.Count(r.Context())
		if got == want || err != nil {
			return "", err
		}
		return "the provider has another number of secrets than it should have", nil
	})
}

// eventually polls until problem returns "": providers take time to tell all of their
// parts.
func (r *run) eventually(problem func() (string, error)) {
	r.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(r.Config.Propagation + settles)
	for {
		text, err := problem()
		if err != nil {
			r.Fatalf("ask the provider: %v", err)
		}
		if text == "" {
			return
		}
		if time.Now().After(end) {
			r.Fatal(text)
		}
		<-tick.C
	}
}

// wire loses requests and answers.
type wire struct {
	mu   sync.Mutex
	lose map[string]bool // :: method → whether the request was to arrive; once each
}

// loseAnswer makes the next call of method happen without an answer.
func (w *wire) loseAnswer(method string) { w.set(method, true) }

// loseRequest makes the next call of method not happen.
func (w *wire) loseRequest(method string) { w.set(method, false) }

func (w *wire) set(method string, arrives bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose = map[string]bool{method: arrives}
}

func (w *wire) intercept(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	name := method[strings.LastIndex(method, "/")+1:]
	w.mu.Lock()
	arrives, loses := w.lose[name]
	delete(w.lose, name)
	w.mu.Unlock()
	if !loses {
		return invoke(ctx, method, request, answer, conn, options...)
	}
	if arrives {
		if err := invoke(ctx, method, request, answer, conn, options...); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "the connection broke")
}
