package bearer_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// world is an issuer on no network, and a verifier that runs.
type world struct {
	*bearer.Verifier
	fetches atomic.Int32
	log     safeBuffer

	mu     sync.Mutex // guards answer
	answer http.HandlerFunc
}

// RoundTrip lets the handler answer, as long as the request is not given up.
func (w *world) RoundTrip(request *http.Request) (*http.Response, error) {
	w.fetches.Add(1)
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	recorder := httptest.NewRecorder()
	answer(recorder, request)
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

func (w *world) set(answer http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

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

func serving(body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		_, _ = io.WriteString(w, body)
	}
}

func failing(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", issuerName+"/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "canary")
	}
}

// hanging answers when the request is given up.
func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// inWorld runs a test in virtual time, with a verifier that has made its first fetch.
func inWorld(t *testing.T, first http.HandlerFunc, test func(t *testing.T, w *world), change ...func(*bearer.Issuer)) {
	t.Helper()
	testKeys() // not in virtual time
	synctest.Test(t, func(t *testing.T) {
		w := &world{answer: first}
		issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: everyAlgorithm, JWKSURL: jwksURL}
		for _, c := range change {
			c(&issuer)
		}
		var err error
		w.Verifier, err = bearer.New(bearer.Config{Issuers: []bearer.Issuer{issuer}, Transport: w, Logger: slog.New(slog.NewTextHandler(&w.log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		test(t, w)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if text := w.log.String(); strings.Contains(text, "canary") || strings.Contains(text, "eyJ") {
			t.Errorf("the log has what a server or a token said: %s", text)
		}
	})
}

func (w *world) wantFetches(t *testing.T, want int) {
	t.Helper()
	if got := int(w.fetches.Load()); got != want {
		t.Errorf("got %d fetches, want %d", got, want)
	}
}
