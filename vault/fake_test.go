package vault_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

// fakeVault lets a session come about and answers everything else as the test
// says. What a real Vault answers is tested with a real one; this is for answers
// that none gives on demand.
type fakeVault struct {
	*httptest.Server
	// records answers what goes to the records themselves.
	records http.HandlerFunc

	mu   sync.Mutex
	seen []string // guarded by mu; method and path of each request to a record
}

func newFakeVault(t *testing.T, records http.HandlerFunc) *fakeVault {
	t.Helper()
	f := &fakeVault{records: records}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// ServeHTTP implements http.Handler.
func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/auth/token/lookup-self":
		fmt.Fprint(w, `{"data":{"ttl":0,"renewable":false}}`)
	case "/v1/sys/internal/ui/mounts/tokenbroker":
		fmt.Fprint(w, `{"data":{"path":"tokenbroker/","type":"kv","options":{"version":"2"}}}`)
	case "/v1/tokenbroker/config":
		fmt.Fprint(w, `{"data":{"delete_version_after":"0s"}}`)
	default:
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		f.records(w, r)
	}
}

// requests returns what went to records since the last call.
func (f *fakeVault) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = nil
	return seen
}

// config returns a configuration that logs in to f.
func (f *fakeVault) config(t *testing.T) vault.Config {
	return vault.Config{Address: f.URL, TokenFile: file(t, "s.canary-token"), Timeout: time.Second}
}

// file returns the path of a new file that holds content.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start returns a running store, which ends with the test.
func start(t *testing.T, config vault.Config) *vault.Store {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	store, err := vault.New(config)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}

// object returns the JSON object {"n":n}.
func object(n int) secret.Value { return secret.NewString(fmt.Sprintf(`{"n":%d}`, n)) }

// wantReason checks the reason of err and returns it as a *broker.Error whose
// detail and text hold all parts.
func wantReason(t *testing.T, what string, err error, want broker.Reason, parts ...string) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: error = %v, want reason %s", what, err, want)
	}
	if e.Reason != want {
		t.Errorf("%s: reason = %s (%v), want %s", what, e.Reason, err, want)
	}
	for _, part := range parts {
		if !strings.Contains(e.Detail, part) {
			t.Errorf("%s: detail = %q, want %q in it", what, e.Detail, part)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("%s: the error shows what it must not: %v", what, err)
	}
	return e
}
