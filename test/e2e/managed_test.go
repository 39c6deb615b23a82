package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/played"
)

// provider is an authorization server with the management APIs of Entra and Auth0
// beside it, played, which a management client's tokens open.
type provider struct {
	t  *testing.T
	up *upstream

	mu     sync.Mutex      // guards the rest, and what is played
	opened map[string]bool // :: token of the manager's → true
}

// The client whose tokens open the management APIs.
const (
	manager       = "clients/manager"
	managerApp    = "manager-app"
	managerSecret = "the manager's secret"
)

// newProvider adds the management APIs to an upstream, and the manager to the broker.
func newProvider(t *testing.T, up *upstream, n *node) *provider {
	t.Helper()
	p := &provider{t: t, up: up, opened: map[string]bool{}}
	if err := up.AddClient(authserver.Client{ID: managerApp, Scopes: []string{"read"}, Secrets: []secret.Value{secret.NewString(managerSecret)}}); err != nil {
		t.Fatal(err)
	}
	up.mux.HandleFunc("/manager"+authserver.TokenPath, p.serveManager)
	p.addManager(n, "manager", up.origin)
	return p
}

// addManager makes a management client, whose tokens may be sent to origins.
func (p *provider) addManager(n *node, id string, origins ...string) *pb.Client {
	p.t.Helper()
	client := newClient(id, p.up.origin+"/manager"+authserver.TokenPath)
	client.ClientId, client.TokenDestinations = managerApp, origins
	created, err := n.operator.clients.CreateClient(p.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(managerSecret)})
	if err != nil {
		p.t.Fatalf("CreateClient %s: %v", id, err)
	}
	return created.GetClient()
}

// serveManager answers token requests, and remembers what it granted.
func (p *provider) serveManager(w http.ResponseWriter, r *http.Request) {
	r.URL.Path = authserver.TokenPath
	answer := httptest.NewRecorder()
	p.up.serveToken(answer, r)
	var granted struct {
		Token string `json:"access_token"`
	}
	if json.Unmarshal(answer.Body.Bytes(), &granted) == nil && granted.Token != "" {
		p.mu.Lock()
		p.opened[granted.Token] = true
		p.mu.Unlock()
	}
	passOn(w, answer)
}

// passOn gives an answer that was recorded.
func passOn(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// managed is a client with an account and an endpoint of its own at the provider.
type managed struct {
	*provider
	id, name, app     string
	rotator, endpoint string
	auth0             *played.Auth0
	entra             *played.Entra
	gate              gate
	refuses           atomic.Bool  // the manager's tokens, for good
	revoked           atomic.Int32 // tokens
}

func (m *managed) firstSecret() string { return "the first secret of " + m.id }

// add makes a client with a secret that was brought by hand, whose rotator is "entra"
// or "auth0".
func (p *provider) add(n *node, rotator, id string) *managed {
	p.t.Helper()
	m := &managed{provider: p, id: id, name: "clients/" + id, app: fmt.Sprintf("0f0e0d0c-0b0a-4908-8706-%012x", crc32.ChecksumIEEE([]byte(id))), rotator: rotator}
	if err := p.up.AddClient(authserver.Client{ID: m.app, Scopes: []string{"read", "write"}, Secrets: []secret.Value{secret.NewString(m.firstSecret())}}); err != nil {
		p.t.Fatal(err)
	}
	secrets := played.Secrets{
		Make:  func(n int) string { return fmt.Sprintf("secret %d that the provider made for %s", n, id) },
		Added: func(value string) { m.must(p.up.AddSecret(m.app, secret.NewString(value))) },
		Ended: func(value string) { m.must(p.up.RemoveSecret(m.app, secret.NewString(value))) },
	}
	client := newClient(id, p.up.origin+"/"+id+authserver.TokenPath)
	client.ClientId, client.RevocationEndpoint = m.app, p.up.origin+"/"+id+"/revoke"
	var play http.Handler
	switch rotator {
	case "auth0":
		m.auth0 = &played.Auth0{Secrets: secrets, ClientID: m.app, Value: m.firstSecret()}
		play, m.endpoint = m.auth0, p.up.origin+"/"+id+"/api/v2/"
	case "entra":
		m.entra = &played.Entra{Secrets: secrets, ClientID: m.app, Passwords: []played.Object{{"keyId": played.EntraKeyID(100), "displayName": "by hand"}}}
		play, m.endpoint = m.entra, p.up.origin+"/"+id+"/v1.0"
	}
	client.Rotation = m.settings(manager)
	p.up.mux.HandleFunc("/"+id+"/", m.gate.keep(http.StripPrefix("/"+id, m.guarded(play)).ServeHTTP))
	p.up.mux.HandleFunc("/"+id+authserver.TokenPath, m.gate.keep(http.StripPrefix("/"+id, http.HandlerFunc(p.up.serveToken)).ServeHTTP))
	p.up.mux.HandleFunc("/"+id+"/revoke", func(http.ResponseWriter, *http.Request) { m.revoked.Add(1) })
	if _, err := n.operator.clients.CreateClient(p.t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(m.firstSecret())}); err != nil {
		p.t.Fatalf("CreateClient %s: %v", id, err)
	}
	return m
}

// guarded serves the play to who has a token of the manager's, one at a time.
func (m *managed) guarded(play http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if m.refuses.Load() {
			delete(m.opened, token)
		}
		if !m.opened[token] {
			played.Respond(w, http.StatusUnauthorized, played.Object{"error": "invalid_token"})
			return
		}
		play.ServeHTTP(w, r)
	}
}

// must fails the test from whatever goroutine.
func (m *managed) must(err error) {
	if err != nil {
		m.t.Errorf("the provider of %s: %v", m.id, err)
	}
}

// settings are its rotation settings with a management client.
func (m *managed) settings(manager string) *pb.RotationSettings {
	return &pb.RotationSettings{
		Rotator: m.rotator, Endpoint: m.endpoint, ManagementClient: manager, Propagation: durationpb.New(time.Second), Overlap: durationpb.New(time.Second),
		VerifyTokens: 2, VerifySpacing: durationpb.New(10 * time.Millisecond),
	}
}

// hasOnly returns what is wrong unless one version is in the broker, and nothing of the
// broker's but that at the provider.
func (m *managed) hasOnly(ctx context.Context, n *node, version int64) error {
	list, err := n.operator.rotations.ListSecretVersions(ctx, &pb.ListSecretVersionsRequest{Client: m.name})
	if versions := list.GetSecretVersions(); err != nil || len(versions) != 1 || versions[0].GetNumber() != version || versions[0].GetStage() != pb.SecretStage_SECRET_STAGE_CURRENT {
		return fmt.Errorf("versions %v, %w; want version %d alone, current", versions, orNothing(err), version)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entra == nil {
		return nil
	}
	handle := list.GetSecretVersions()[0].GetProviderHandle()
	for _, password := range m.entra.Passwords[1:] { // the first one was made by hand
		if password["keyId"] != handle {
			return fmt.Errorf("the provider has the passwords %v; want %q and the one by hand", m.entra.Passwords, handle)
		}
	}
	if version > 1 && len(m.entra.Passwords) != 2 {
		return fmt.Errorf("the provider has %d passwords, want 2", len(m.entra.Passwords))
	}
	return nil
}

// gate is before an endpoint: it counts requests, and freezes the provider at one.
type gate struct {
	mu     sync.Mutex // guards the rest
	seen   []string   // method and last part of the path of each
	at     int        // the request from which on nothing is answered; 0 for none
	acted  bool       // whether the provider acts on it first
	frozen chan struct{}
}

// freeze answers nothing from the n-th request on, from 1. What is returned is closed
// when it has come.
func (g *gate) freeze(nth int, acted bool) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen, g.at, g.acted, g.frozen = nil, nth, acted, make(chan struct{})
	return g.frozen
}

// thaw has requests answered that come from now on; it returns those that came.
func (g *gate) thaw() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = 0
	return g.seen
}

// enter counts a request, and reports whether the provider acts on it and answers.
func (g *gate) enter(r *http.Request) (acts, answers bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, r.Method+" "+r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	n := len(g.seen)
	return g.at == 0 || n < g.at || n == g.at && g.acted, g.at == 0 || n < g.at
}

func (g *gate) keep(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // without it nobody is told that the peer has gone
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		acts, answers := g.enter(r)
		answer := httptest.NewRecorder()
		if acts {
			next(answer, r.WithContext(context.WithoutCancel(r.Context())))
		}
		if answers {
			passOn(w, answer)
			return
		}
		g.mu.Lock()
		if len(g.seen) >= g.at && g.frozen != nil {
			close(g.frozen)
			g.frozen = nil
		}
		g.mu.Unlock()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}
