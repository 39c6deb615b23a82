package notify_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/notify"
)

// key is what requests are signed with in all tests.
const key = "canary-key-0123456789abcdef0123456789"

// receiver answers requests, and remembers them.
type receiver struct {
	mu       sync.Mutex // guards what follows
	answer   http.HandlerFunc
	requests []received
}

type received struct {
	at     time.Time
	header http.Header
	body   string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	r.mu.Lock()
	r.requests = append(r.requests, received{time.Now(), request.Header.Clone(), string(body)})
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		answer(w, request)
	}
}

// RoundTrip is the receiver without a network, for virtual time.
func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	r.ServeHTTP(recorder, request)
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

func (r *receiver) set(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.requests...)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://elsewhere.example/")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "canary-answer")
	}
}

// hanging answers when the request is given up.
func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// secretFile returns a file with content of mode 0600.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// running is a Notifier that runs until stop.
type running struct {
	*notify.Notifier
	log  *safeBuffer
	stop func()
}

func run(t *testing.T, cfg notify.Config) *running {
	t.Helper()
	r := &running{log: &safeBuffer{}}
	cfg.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := notify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Notifier = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// virtual runs one webhook whose receiver is on no network.
func virtual(t *testing.T, r *receiver, edits ...func(*notify.Webhook)) *running {
	t.Helper()
	w := notify.Webhook{Name: "pager", URL: "https://hooks.example/canary-path", SecretFile: secretFile(t, key+"\n")}
	for _, edit := range edits {
		edit(&w)
	}
	return run(t, notify.Config{Webhooks: []notify.Webhook{w}, Transport: r})
}

// counts returns how the first webhook fares.
func (r *running) counts() map[notify.Outcome]int64 { return r.Status()[0].Counts }

// event returns one with all fields that a type may have.
func event(id string) broker.Event {
	return broker.Event{
		ID: id, Type: broker.EventRotationFailed, Time: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC), ClientID: "acme",
		Rotation: "r-1", State: "FAILED", Reason: broker.ReasonClientRejected, Remedy: "mend it", SecretVersion: 3,
	}
}
