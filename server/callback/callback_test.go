package callback_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/callback"
)

const path = "/authorization/callback"

// world is a callback whose broker is the test.
type world struct {
	*callback.Server
	mu       sync.Mutex // guards what follows
	answers  []broker.AuthorizationAnswer
	recorded []callback.Done
	answered []broker.Reason
}

// newWorld returns one whose answers get err.
func newWorld(t *testing.T, complete func(broker.AuthorizationAnswer) error, edits ...func(*callback.Config)) *world {
	t.Helper()
	w := &world{}
	cfg := callback.Config{
		URL: "https://broker.example.com" + path,
		Complete: func(_ context.Context, a broker.AuthorizationAnswer) (*broker.Authorization, error) {
			w.mu.Lock()
			w.answers = append(w.answers, a)
			w.mu.Unlock()
			if err := complete(a); err != nil {
				return nil, err
			}
			return &broker.Authorization{ClientID: "crm", Subject: "users/4711"}, nil
		},
		Record: func(d callback.Done) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.recorded = append(w.recorded, d)
			return nil
		},
		Answered: func(r broker.Reason) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.answered = append(w.answered, r)
		},
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	s, err := callback.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	w.Server = s
	return w
}

func granted(broker.AuthorizationAnswer) error { return nil }

func failing(reason broker.Reason) func(broker.AuthorizationAnswer) error {
	return func(broker.AuthorizationAnswer) error {
		return &broker.Error{Reason: reason, Client: "crm", Detail: "a detail"}
	}
}

// get calls the callback from an address.
func (w *world) get(method, target, remote string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, "https://broker.example.com"+target, nil)
	request.RemoteAddr = remote
	recorder := httptest.NewRecorder()
	w.ServeHTTP(recorder, request)
	return recorder
}

const somebody = "192.0.2.1:4711"

func TestAnAnswerIsTaken(t *testing.T) {
	w := newWorld(t, granted)
	got := w.get(http.MethodGet, path+"?state=s&code=c&iss=https%3A%2F%2Fas.example&session_state=x", somebody)
	if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "Access was granted") || !strings.Contains(got.Body.String(), `role="status"`) {
		t.Errorf("%d\n%s", got.Code, got.Body)
	}
	if want := (broker.AuthorizationAnswer{State: "s", Code: "c", Issuer: "https://as.example", AtCallback: true}); len(w.answers) != 1 || w.answers[0].State != want.State ||
		w.answers[0].Code != want.Code || w.answers[0].Issuer != want.Issuer || !w.answers[0].AtCallback {
		t.Errorf("took %+v, want %+v", w.answers, want)
	}
	if len(w.recorded) != 1 || w.recorded[0].Client != "crm" || w.recorded[0].Subject != "users/4711" || w.recorded[0].Reason != "" || !strings.Contains(got.Body.String(), w.recorded[0].RequestID) {
		t.Errorf("recorded %+v", w.recorded)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
	} {
		if got := got.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	policy := got.Header().Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy %q lacks %s", policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
}

// Each reason that there is gets a page that names it, in words for users.
func TestEachReasonHasAPage(t *testing.T) {
	for _, info := range broker.Reasons() {
		w := newWorld(t, failing(info.Reason))
		got := w.get(http.MethodGet, path+"?state=s&code=c", somebody)
		body := got.Body.String()
		if got.Code < 400 || !strings.Contains(body, string(info.Reason)) || !strings.Contains(body, `role="alert"`) || !strings.Contains(body, "<h1") {
			t.Errorf("%s: %d\n%s", info.Reason, got.Code, body)
		}
		if strings.Contains(body, info.Summary) || strings.Contains(body, "a detail") {
			t.Errorf("%s: the page has words for operators\n%s", info.Reason, body)
		}
	}
}

func TestNothingIsReflected(t *testing.T) {
	const hostile = `"><script>alert(1)</script><img src=https://evil.example/x>`
	for _, complete := range []func(broker.AuthorizationAnswer) error{granted, failing(broker.ReasonAuthorizationDenied), failing(broker.ReasonStateInvalid)} {
		w := newWorld(t, complete)
		query := url.Values{"state": {hostile}, "error": {hostile}, "error_description": {hostile}, "iss": {hostile}, "code": {hostile}, hostile: {hostile}}
		got := w.get(http.MethodGet, path+"?"+query.Encode(), somebody)
		for _, part := range []string{"alert(1)", "evil.example", "<script", "<img"} {
			if strings.Contains(got.Body.String(), part) {
				t.Errorf("the page has %q", part)
			}
		}
	}
}

func TestWhatIsNotAnAnswer(t *testing.T) {
	w := newWorld(t, granted)
	cases := []struct {
		name, method, target string
		want                 int
	}{
		{"another path", http.MethodGet, "/", http.StatusNotFound},
		{"longer path", http.MethodGet, path + "/?state=s&code=c", http.StatusNotFound},
		{"path that means the same", http.MethodGet, "/authorization/%63allback?state=s&code=c", http.StatusNotFound},
		{"HEAD", http.MethodHead, path + "?state=s&code=c", http.StatusMethodNotAllowed},
		{"POST", http.MethodPost, path + "?state=s&code=c", http.StatusMethodNotAllowed},
		{"OPTIONS", http.MethodOptions, path, http.StatusMethodNotAllowed},
		{"state twice", http.MethodGet, path + "?state=s&state=t&code=c", http.StatusBadRequest},
		{"semicolon", http.MethodGet, path + "?state=s;code=c", http.StatusBadRequest},
		{"no percent", http.MethodGet, path + "?state=%zz", http.StatusBadRequest},
		{"long", http.MethodGet, path + "?state=" + strings.Repeat("s", 25<<10), http.StatusBadRequest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := w.get(c.method, c.target, somebody); got.Code != c.want {
				t.Errorf("%d, want %d", got.Code, c.want)
			}
		})
	}
	if len(w.answers) > 0 {
		t.Errorf("took %+v", w.answers)
	}
}

func TestAStateIsWorkedOnOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		w := newWorld(t, func(broker.AuthorizationAnswer) error { <-hold; return nil })
		first := make(chan int, 1)
		go func() { first <- w.get(http.MethodGet, path+"?state=s&code=c", somebody).Code }()
		synctest.Wait()
		if got := w.get(http.MethodGet, path+"?state=s&code=c", somebody); got.Code != http.StatusBadRequest || !strings.Contains(got.Body.String(), "STATE_INVALID") {
			t.Errorf("the same state meanwhile: %d", got.Code)
		}
		close(hold)
		if code := <-first; code != http.StatusOK || len(w.answers) != 1 {
			t.Errorf("the first: %d, %d answers", code, len(w.answers))
		}
	})
}

func TestFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, failing(broker.ReasonStateInvalid))
		tries := func(remote string, n int) (let int) {
			for range n {
				if w.get(http.MethodGet, path+"?state=s&code=c", remote).Code != http.StatusTooManyRequests {
					let++
				}
			}
			return let
		}
		if let := tries(somebody, 60); let != 20 {
			t.Errorf("%d of 60 from one address, want 20", let)
		}
		if let := tries("[2001:db8::1]:1", 60) + tries("[2001:db8::2]:1", 60); let != 20 {
			t.Errorf("%d of 120 from one /64, want 20", let)
		}
		if let := tries("192.0.2.2:1", 5); let != 5 {
			t.Errorf("%d of 5 from somebody else, want 5", let)
		}
		time.Sleep(time.Minute)
		let := 0
		for i := range 200 {
			let += tries(net.JoinHostPort(net.IPv4(198, 51, 100, byte(i)).String(), "1"), 1)
		}
		if let != 100 {
			t.Errorf("%d of 200 from as many addresses, want 100", let)
		}
	})
}

func TestStrangersWriteNoAudit(t *testing.T) {
	w := newWorld(t, func(broker.AuthorizationAnswer) error { return &broker.Error{Reason: broker.ReasonStateInvalid} })
	w.get(http.MethodGet, path+"?state=forged&code=c", somebody)
	if len(w.recorded) > 0 || len(w.answered) != 1 {
		t.Errorf("recorded %+v, counted %v", w.recorded, w.answered)
	}
}

func TestAnAnswerThatIsNotRecorded(t *testing.T) {
	w := newWorld(t, granted, func(cfg *callback.Config) {
		cfg.Record = func(callback.Done) error { return errors.New("no space left") }
	})
	if got := w.get(http.MethodGet, path+"?state=s&code=c", somebody); got.Code != http.StatusServiceUnavailable || !strings.Contains(got.Body.String(), "AUDIT_UNAVAILABLE") {
		t.Errorf("%d", got.Code)
	}
}

func TestPlaintextIsForLoopback(t *testing.T) {
	w := newWorld(t, granted)
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Serve(t.Context(), listener); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeEnds(t *testing.T) {
	w := newWorld(t, granted)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, listener) }()
	response, err := http.Get("http://" + listener.Addr().String() + path + "?state=s&code=c")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-served; err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("status %d, Serve: %v", response.StatusCode, err)
	}
}
