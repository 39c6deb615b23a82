package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/glewlwyd"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
	"github.com/tokenbroker/tokenbroker/test/registration"
)

// registrar is an authorization server at which clients register and manage
// themselves (RFC 7591, RFC 7592), and a broker that trusts it.
type registrar struct {
	*node
	bench    *registration.Bench
	web      *http.Client
	register func(name string) registration.Client
	scope    string
	// put changes a client's secret as a person does at the provider's console; nil
	// where the tests have no way to.
	put func(id, secret string)
	// longLived says that tokens live for many minutes: a replaced version is kept as
	// long.
	longLived bool
}

// registeredLifetime is that of oidc-provider's tokens here: callers need many of them
// while a test runs, and they outlive what a provider takes its time for.
const registeredLifetime = 10 * time.Second

func newOIDCRegistrar(t *testing.T, settings oidcprovider.Registration) *registrar {
	t.Helper()
	server := oidcprovider.Start(t, oidcprovider.Config{
		Registration: &settings, Resources: []oidcprovider.Resource{{URI: crmAPI, Scopes: []string{"read"}}}, DefaultResource: crmAPI, Lifetime: registeredLifetime,
	})
	r := &registrar{
		web: server.HTTPClient(), scope: "read",
		register: func(name string) registration.Client { return server.Register(name, "read") },
		put: func(id, secret string) {
			server.PutClient(oidcprovider.Client{ID: id, Secret: secret, Scopes: []string{"read"}})
		},
	}
	r.serve(t, server.CAFile())
	return r
}

func newGlewlwydRegistrar(t *testing.T) *registrar {
	t.Helper()
	server := glewlwyd.Start(t)
	r := &registrar{web: server.HTTPClient(), scope: glewlwyd.Scope, register: server.Register, longLived: true}
	r.serve(t, server.CAFile())
	return r
}

// serve starts the broker, which trusts the provider and lossyWays.
func (r *registrar) serve(t *testing.T, caFile string) {
	t.Helper()
	r.bench = registration.NewBench(t, r.web)
	provider, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	store := sharedStore(t)
	r.node = newSite(t, store.config(store.Addr()), provider, lossyAuthority()).start(t, program(t))
}

// create brings a registration into the broker: its secret and its registration access
// token in one request.
func (r *registrar) create(t *testing.T, id string, c registration.Client) string {
	t.Helper()
	client := &pb.Client{
		Name: "clients/" + id, TokenEndpoint: c.TokenEndpoint, ClientId: c.ID, AuthenticationMethod: basic, DefaultScopes: []string{r.scope},
		Rotation: &pb.RotationSettings{
			Rotator: "rfc7592", Endpoint: c.Endpoint, VerifyTokens: 2, VerifySpacing: durationpb.New(10 * time.Millisecond), Overlap: durationpb.New(time.Second),
		},
	}
	secret := secretInput(c.Secret)
	secret.RegistrationAccessToken = c.Token
	if _, err := r.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secret}); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	return client.GetName()
}

// rotateOnce has the rotator bring a new secret, and demands that it ends well.
func (r *registrar) rotateOnce(t *testing.T, name, requestID string) *pb.Rotation {
	t.Helper()
	return r.retires(t, r.begin(t, name, requestID))
}

// begin begins a rotation that goes on by itself.
func (n *node) begin(t *testing.T, name, requestID string) string {
	t.Helper()
	if _, err := n.operator.rotations.RotateSecret(t.Context(), &pb.RotateSecretRequest{Client: name, RequestId: requestID}); err != nil {
		t.Fatalf("RotateSecret %s: %v", requestID, err)
	}
	return name
}

// retires retires the replaced version by hand as soon as it is replaced, which ends a
// rotation before its time.
func (r *registrar) retires(t *testing.T, name string) *pb.Rotation {
	t.Helper()
	promoted := r.reaches(t, name, pb.RotationState_ROTATION_STATE_PROMOTED)
	if _, err := r.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: name, SecretVersion: promoted.GetReplacedVersion()}); err != nil {
		t.Fatalf("RetireSecret: %v", err)
	}
	return r.ends(t, name, pb.RotationState_ROTATION_STATE_COMPLETED)
}

// ends watches a rotation to its end.
func (n *node) ends(t *testing.T, name string, want pb.RotationState) *pb.Rotation {
	t.Helper()
	last, err := watchToEnd(t.Context(), &replica{node: n}, name)
	if err != nil || last.GetState() != want {
		t.Fatalf("the rotation of %s ended as %v %s (%s), %v; want %v; events %v", name, last.GetState(), last.GetReason(), last.GetDetail(), err, want, last.GetEvents())
	}
	return last
}

// reaches waits until the rotation is in a state.
func (n *node) reaches(t *testing.T, name string, want pb.RotationState) (last *pb.Rotation) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%s %v", name, want), func() error {
		answer, err := n.operator.rotations.GetRotation(t.Context(), &pb.GetRotationRequest{Client: name})
		last = answer.GetRotation()
		if err == nil && last.GetState() != want {
			err = fmt.Errorf("it is %v %s (%s), events %v", last.GetState(), last.GetReason(), last.GetDetail(), last.GetEvents())
		}
		return err
	})
	return last
}

// made reports whether the rotation's journal names a step.
func made(r *pb.Rotation, step string) bool {
	return slices.ContainsFunc(r.GetEvents(), func(e *pb.RotationEvent) bool { return e.GetStep() == step && e.GetReason() == "" })
}

// newTokenOf demands a token that was got a moment ago, and its secret version.
func (n *node) newTokenOf(ctx context.Context, name string, version int64) error {
	if _, err := n.operator.tokens.RevokeTokens(ctx, &pb.RevokeTokensRequest{Client: name}); err != nil {
		return fmt.Errorf("RevokeTokens: %w", err)
	}
	token, err := n.token(ctx, name)
	if err == nil && token.GetSecretVersion() != version {
		err = fmt.Errorf("the token is of version %d, want %d", token.GetSecretVersion(), version)
	}
	return err
}

// lossyWay leads to an authorization server. The answers to updates of registrations
// can be held up, or lost, after the server has acted.
type lossyWay struct {
	*httptest.Server

	mu    sync.Mutex // guards the rest
	lose  bool
	held  chan struct{} // closed when an answer is held up; nil to let it pass
	until chan struct{} // closed when it may go on
}

// lossyAuthority is what vouches for lossyWays, PEM.
func lossyAuthority() []byte {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	return pemOf(server.Certificate())
}

// lossyTo returns a way to the registration of c, and c with its endpoint there.
func (r *registrar) lossyTo(t *testing.T, c registration.Client) (*lossyWay, registration.Client) {
	t.Helper()
	target, err := url.Parse(c.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	way := &lossyWay{}
	way.Server = httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport:      r.web.Transport,
		Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host}) },
		ModifyResponse: way.answer,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	})
	way.StartTLS()
	t.Cleanup(way.Close)
	c.Endpoint = way.URL + target.Path
	return way, c
}

// answer passes on what the server answers, if it is to.
func (w *lossyWay) answer(answer *http.Response) error {
	if answer.Request.Method != http.MethodPut {
		return nil
	}
	w.mu.Lock()
	held, until, lose := w.held, w.until, w.lose
	w.held = nil
	w.mu.Unlock()
	if held != nil {
		close(held)
		<-until
	}
	if lose {
		return errors.New("lost")
	}
	return nil
}

// hold holds the next answer up.
func (w *lossyWay) hold() (held <-chan struct{}, release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.until = make(chan struct{}), make(chan struct{})
	until := w.until
	return w.held, func() { close(until) }
}

// loses says whether answers are lost from now on.
func (w *lossyWay) loses(lose bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose = lose
}
