package broker_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	endpoint = "https://as.example/token"
	origin   = "https://as.example"
	// password is the first secret of every client that a fixture registers.
	password = "hunter2-hunter2"
)

// fixture is a Broker with everything around it in memory.
type fixture struct {
	*broker.Broker
	memory   *brokertest.Memory
	store    *brokertest.Faulty
	upstream *brokertest.Upstream
	sent     *sent
	log      *logged
	// ctx is for hooks, which have no test to ask.
	ctx context.Context
	// stopRun ends Run where it runs.
	stopRun func()
}

// newFixture returns a Broker on an empty store, closed when the test ends.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	return open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), nil)
}

// replica returns a second Broker on the same store with the same authorization server.
func (f *fixture) replica(t *testing.T) *fixture {
	t.Helper()
	return open(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, nil)
}

// open returns a Broker on store; edit, if not nil, changes its configuration.
func open(t *testing.T, memory *brokertest.Memory, store *brokertest.Faulty, upstream *brokertest.Upstream, edit func(*broker.Config)) *fixture {
	t.Helper()
	f := &fixture{memory: memory, store: store, upstream: upstream, sent: &sent{}, log: &logged{}}
	cfg := broker.Config{
		Store: store, RequestToken: f.sent.before(upstream.RequestToken), CheckSecret: checkSecret,
		RevokeToken: upstream.RevokeToken,
		Logger:      slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&cfg)
	}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(b.Close)
	f.Broker = b
	return f
}

// checkSecret stands in for the adapter's: a key is for private_key_jwt only.
func checkSecret(a broker.Authentication, s secret.Value) error {
	text := s.RevealString()
	isKey := strings.HasPrefix(text, "-----BEGIN ") || strings.HasPrefix(text, "{")
	if isKey != (a.Method == broker.PrivateKeyJWT) {
		return &broker.Error{Reason: broker.ReasonSecretUnusable, Op: "check secret", Detail: "does not fit " + string(a.Method)}
	}
	return nil
}

// sent records every request that leaves the Broker, also those which the
// authorization server refuses to count.
type sent struct {
	mu       sync.Mutex
	requests []broker.TokenRequest
}

func (s *sent) before(next broker.RequestToken) broker.RequestToken {
	return func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
		kept := req
		kept.Secret = secret.New(req.Secret.Reveal()) // the broker wipes its own
		s.mu.Lock()
		s.requests = append(s.requests, kept)
		s.mu.Unlock()
		return next(ctx, req)
	}
}

func (s *sent) all() []broker.TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// logged is the log of a Broker.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newClient describes a client whose secret is [password].
func newClient(id string) broker.NewClient {
	return broker.NewClient{
		ID: id,
		Upstream: broker.Upstream{
			TokenEndpoint: endpoint, ClientID: "client-id-of-" + id,
			Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
			DefaultScopes:  []string{"read"}, AllowedScopes: []string{"write", "admin"},
			Audience: "aud-1", AllowedAudiences: []string{"aud-2"},
			Resources: []string{"https://api.example/a"}, AllowedResources: []string{"https://api.example/b"},
		},
		Rotation: broker.RotationSettings{VerifySpacing: time.Millisecond},
		Secret:   input(password),
	}
}

func input(text string) broker.SecretInput {
	return broker.SecretInput{Value: secret.NewString(text)}
}

// create registers a client with [password], at the authorization server too.
func (f *fixture) create(t *testing.T, id string, edits ...func(*broker.NewClient)) *broker.Client {
	t.Helper()
	n := newClient(id)
	for _, edit := range edits {
		edit(&n)
	}
	c, err := f.CreateClient(t.Context(), n)
	if err != nil {
		t.Fatalf("CreateClient(%q): %v", id, err)
	}
	f.upstream.Register(n.Upstream.ClientID, n.Secret.Value.RevealString())
	return c
}

// get returns the client as the store has it.
func (f *fixture) get(t *testing.T, id string) *broker.Client {
	t.Helper()
	c, err := f.GetClient(t.Context(), id)
	if err != nil {
		t.Fatalf("GetClient(%q): %v", id, err)
	}
	return c
}

// token gets a token for the client's defaults.
func (f *fixture) token(t *testing.T, id string) *broker.Token {
	t.Helper()
	token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: id})
	if err != nil {
		t.Fatalf("GetToken(%q): %v", id, err)
	}
	return token
}

// stage stages a secret that the authorization server knows.
func (f *fixture) stage(t *testing.T, id, text string) broker.SecretVersion {
	t.Helper()
	f.upstream.Register("client-id-of-"+id, text)
	v, err := f.StageSecret(t.Context(), id, input(text), "")
	if err != nil {
		t.Fatalf("StageSecret(%q): %v", id, err)
	}
	return v
}

// promote verifies and promotes what is pending.
func (f *fixture) promote(t *testing.T, id string) *broker.Client {
	t.Helper()
	if _, _, err := f.VerifySecret(t.Context(), id, 0); err != nil {
		t.Fatalf("VerifySecret(%q): %v", id, err)
	}
	c, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: id})
	if err != nil {
		t.Fatalf("PromoteSecret(%q): %v", id, err)
	}
	return c
}

// wantReason checks why something failed; "" means that it did not.
func wantReason(t *testing.T, what string, err error, want broker.Reason) {
	t.Helper()
	if got := broker.ReasonOf(err); got != want {
		t.Errorf("%s: reason %q (%v), want %q", what, got, err, want)
	}
}

// fieldsOf returns the fields that an INVALID_REQUEST error names.
func fieldsOf(err error) []string {
	var fields []string
	for _, violation := range broker.AsError(err).Fields {
		fields = append(fields, violation.Field)
	}
	return fields
}

func warningsOf(warnings []broker.Warning) []broker.Reason {
	var reasons []broker.Reason
	for _, w := range warnings {
		reasons = append(reasons, w.Reason)
	}
	return reasons
}

// content returns everything in the store: equal contents mean that nothing was
// written, since every write has a version and a write_id of its own.
func content(t *testing.T, m *brokertest.Memory) string {
	t.Helper()
	var text strings.Builder
	for _, key := range m.Keys() {
		record, err := m.Read(t.Context(), key)
		text.WriteString(key + " " + record.Data.RevealString())
		if err != nil {
			text.WriteString(err.Error())
		}
		text.WriteByte('\n')
	}
	return text.String()
}

// recordOf returns the JSON text at key.
func recordOf(t *testing.T, m *brokertest.Memory, key string) string {
	t.Helper()
	record, err := m.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("Read(%q): %v", key, err)
	}
	return record.Data.RevealString()
}

// keysUnder returns the keys that begin with prefix.
func keysUnder(m *brokertest.Memory, prefix string) []string {
	return slices.DeleteFunc(m.Keys(), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// keyUnder returns the only key that begins with prefix.
func keyUnder(t *testing.T, m *brokertest.Memory, prefix string) string {
	t.Helper()
	keys := keysUnder(m, prefix)
	if len(keys) != 1 {
		t.Fatalf("keys under %s: %q, want one", prefix, keys)
	}
	return keys[0]
}

func in(d time.Duration) *time.Duration { return &d }

// checkAnySecret stands in for an adapter's that takes each secret.
func checkAnySecret(broker.Authentication, secret.Value) error { return nil }
