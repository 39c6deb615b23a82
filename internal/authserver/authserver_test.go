package authserver_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func TestMain(m *testing.M) {
	// net/http keeps a connection for half a second after a body that it did not read.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const (
	clientID     = "reports"
	clientSecret = "s3cret-canary % + = / ~ ! : ü \""
)

// start runs a server with one client, and returns the log beside it.
func start(t *testing.T, change func(*authserver.Config)) (*authserver.Running, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	cfg := authserver.Config{
		Logger:  slog.New(slog.NewTextHandler(log, nil)),
		Clients: []authserver.Client{{ID: clientID, Secrets: []secret.Value{secret.NewString(clientSecret)}, Scopes: []string{"read", "write"}}},
	}
	if change != nil {
		change(&cfg)
	}
	server, err := authserver.Start(t.Context(), "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if text := log.String(); strings.Contains(text, "canary") || strings.Contains(text, "eyJ") {
			t.Errorf("the log has a secret: %s", text)
		}
	})
	return server, log
}

// logBuffer is a buffer that handlers may write to while a test reads.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// ask is one request to the token endpoint.
type ask struct {
	method, query, contentType, body string
	authorization                    []string
}

func basic(id, value string) []string {
	return []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+value))}
}

func encoded(id, value string) []string { return basic(url.QueryEscape(id), url.QueryEscape(value)) }

func (a ask) do(t *testing.T, endpoint string) (*http.Response, map[string]any) {
	t.Helper()
	method, contentType := a.method, a.contentType
	if method == "" {
		method = http.MethodPost
	}
	if contentType == "" {
		contentType = "application/x-www-form-urlencoded"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, endpoint+a.query, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header["Authorization"] = a.authorization
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(body, &members); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	return res, members
}

func TestTokenRequests(t *testing.T) {
	const grant = "grant_type=client_credentials"
	good := encoded(clientID, clientSecret)
	posted := "&client_id=" + clientID + "&client_secret=" + url.QueryEscape(clientSecret)
	tests := []struct {
		name   string
		ask    ask
		status int
		code   string
		scope  string
	}{
		{name: "basic", ask: ask{authorization: good, body: grant}, status: 200, scope: "read write"},
		{name: "basic with scope", ask: ask{authorization: good, body: grant + "&scope=write"}, status: 200, scope: "write"},
		{name: "basic in lower case", ask: ask{authorization: []string{strings.Replace(good[0], "Basic", "basic", 1)}, body: grant}, status: 200, scope: "read write"},
		{name: "post", ask: ask{body: grant + posted}, status: 200, scope: "read write"},
		{name: "empty parameters are omitted", ask: ask{authorization: good, body: grant + "&scope=&client_secret="}, status: 200, scope: "read write"},
		{name: "same client_id beside basic", ask: ask{authorization: good, body: grant + "&client_id=" + clientID}, status: 200, scope: "read write"},
		{name: "repeated resource", ask: ask{authorization: good, body: grant + "&resource=https://a&resource=https://b"}, status: 200, scope: "read write"},
		{name: "get", ask: ask{method: http.MethodGet, authorization: good}, status: 405, code: "invalid_request"},
		{name: "secret in the query", ask: ask{query: "?client_id=" + clientID + "&client_secret=" + url.QueryEscape(clientSecret), body: grant}, status: 400, code: "invalid_request"},
		{name: "json", ask: ask{contentType: "application/json", authorization: good, body: "{}"}, status: 400, code: "invalid_request"},
		{name: "too large", ask: ask{authorization: good, body: grant + "&x=" + strings.Repeat("a", 65<<10)}, status: 400, code: "invalid_request"},
		{name: "not a form", ask: ask{authorization: good, body: "grant_type=%zz"}, status: 400, code: "invalid_request"},
		{name: "repeated parameter", ask: ask{authorization: good, body: grant + "&scope=read&scope=read"}, status: 400, code: "invalid_request"},
		{name: "two methods", ask: ask{authorization: good, body: grant + posted}, status: 400, code: "invalid_request"},
		{name: "two headers", ask: ask{authorization: append(good, good...), body: grant}, status: 400, code: "invalid_request"},
		{name: "post and assertion", ask: ask{body: grant + posted + "&client_assertion=x"}, status: 400, code: "invalid_request"},
		{name: "another client_id beside basic", ask: ask{authorization: good, body: grant + "&client_id=other"}, status: 400, code: "invalid_request"},
		{name: "no method", ask: ask{body: grant}, status: 401, code: "invalid_client"},
		{name: "client_id only", ask: ask{body: grant + "&client_id=" + clientID}, status: 401, code: "invalid_client"},
		{name: "bearer", ask: ask{authorization: []string{"Bearer x"}, body: grant}, status: 401, code: "invalid_client"},
		{name: "wrong secret", ask: ask{authorization: encoded(clientID, "canary-wrong"), body: grant}, status: 401, code: "invalid_client"},
		{name: "empty secret", ask: ask{authorization: encoded(clientID, ""), body: grant}, status: 401, code: "invalid_client"},
		{name: "unknown client", ask: ask{authorization: encoded("canary-as-id", "x"), body: grant}, status: 401, code: "invalid_client"},
		{name: "raw special characters", ask: ask{authorization: basic(clientID, clientSecret), body: grant}, status: 400, code: "invalid_request"},
		{name: "percent sign that encodes nothing", ask: ask{authorization: basic(clientID, "a%zz"), body: grant}, status: 400, code: "invalid_request"},
		{name: "not base64", ask: ask{authorization: []string{"Basic !"}, body: grant}, status: 400, code: "invalid_request"},
		{name: "no colon", ask: ask{authorization: []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("abc"))}, body: grant}, status: 400, code: "invalid_request"},
		{name: "no grant type", ask: ask{authorization: good}, status: 400, code: "invalid_request"},
		{name: "another grant", ask: ask{authorization: good, body: "grant_type=password"}, status: 400, code: "unsupported_grant_type"},
		{name: "unknown scope", ask: ask{authorization: good, body: grant + "&scope=read+admin"}, status: 400, code: "invalid_scope"},
	}
	server, _ := start(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := tt.ask.do(t, server.TokenEndpoint())
			if res.StatusCode != tt.status {
				t.Errorf("status = %d %v, want %d", res.StatusCode, body, tt.status)
			}
			if got, _ := body["error"].(string); got != tt.code {
				t.Errorf("error = %q, want %q", got, tt.code)
			}
			if got, _ := body["scope"].(string); got != tt.scope {
				t.Errorf("scope = %q, want %q", got, tt.scope)
			}
			if got := res.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control = %q, want no-store", got)
			}
			if challenge := res.Header.Get("WWW-Authenticate"); (challenge != "") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate = %q at status %d", challenge, tt.status)
			}
			if tt.status == 200 && (body["token_type"] != "Bearer" || body["expires_in"] != 300.0 || body["access_token"] == "") {
				t.Errorf("body = %v", body)
			}
		})
	}
	if got, want := server.Requests(), int64(len(tests)); got != want {
		t.Errorf("Requests = %d, want %d", got, want)
	}
}

func TestMethodIsPinned(t *testing.T) {
	server, _ := start(t, func(cfg *authserver.Config) { cfg.Clients[0].Method = authserver.MethodPost })
	res, body := ask{authorization: encoded(clientID, clientSecret), body: "grant_type=client_credentials"}.do(t, server.TokenEndpoint())
	if res.StatusCode != 401 || body["error"] != "invalid_client" {
		t.Errorf("basic for a post client = %d %v, want invalid_client", res.StatusCode, body)
	}
}

func TestRotation(t *testing.T) {
	server, _ := start(t, nil)
	next := secret.NewString("canary-next")
	try := func(value string) int {
		res, _ := ask{authorization: encoded(clientID, value), body: "grant_type=client_credentials"}.do(t, server.TokenEndpoint())
		return res.StatusCode
	}
	if got := try("canary-next"); got != 401 {
		t.Errorf("before AddSecret: %d, want 401", got)
	}
	if err := server.AddSecret(clientID, next); err != nil {
		t.Fatal(err)
	}
	if a, b := try(clientSecret), try("canary-next"); a != 200 || b != 200 {
		t.Errorf("while both are valid: %d and %d, want 200", a, b)
	}
	if err := server.RemoveSecret(clientID, secret.NewString(clientSecret)); err != nil {
		t.Fatal(err)
	}
	if a, b := try(clientSecret), try("canary-next"); a != 401 || b != 200 {
		t.Errorf("after RemoveSecret: %d and %d, want 401 and 200", a, b)
	}
	for name, err := range map[string]error{
		"unknown client": server.AddSecret("nobody", next),
		"empty secret":   server.AddSecret(clientID, secret.Value{}),
		"duplicate":      server.AddClient(authserver.Client{ID: clientID}),
		"nameless":       server.AddClient(authserver.Client{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	server, _ := start(t, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			value := secret.NewString("canary-more")
			if err := server.AddSecret(clientID, value); err != nil {
				t.Error(err)
			}
			ask{authorization: encoded(clientID, clientSecret), body: "grant_type=client_credentials"}.do(t, server.TokenEndpoint())
			if err := server.RemoveSecret(clientID, value); err != nil {
				t.Error(err)
			}
			server.SetTokenLifetime(time.Hour)
		})
	}
	wg.Wait()
}

func TestResource(t *testing.T) {
	server, _ := start(t, func(cfg *authserver.Config) { cfg.ResourceScope = "write" })
	token := func(form string) string {
		_, body := ask{authorization: encoded(clientID, clientSecret), body: "grant_type=client_credentials" + form}.do(t, server.TokenEndpoint())
		token, _ := body["access_token"].(string)
		return token
	}
	good := token("")
	foreign, _ := start(t, nil)
	_, body := ask{authorization: encoded(clientID, clientSecret), body: "grant_type=client_credentials"}.do(t, foreign.TokenEndpoint())
	tests := []struct {
		name          string
		authorization []string
		status        int
		challenge     string
	}{
		{"good", []string{"Bearer " + good}, 200, ""},
		{"no token", nil, 401, `Bearer realm="tokenbroker authserver"`},
		{"basic", encoded(clientID, clientSecret), 401, `Bearer realm="tokenbroker authserver"`},
		{"twice", []string{"Bearer " + good, "Bearer " + good}, 401, `Bearer realm="tokenbroker authserver"`},
		{"garbage", []string{"Bearer x"}, 401, `Bearer realm="tokenbroker authserver", error="invalid_token"`},
		{"another server's", []string{"Bearer " + body["access_token"].(string)}, 401, `Bearer realm="tokenbroker authserver", error="invalid_token"`},
		{"for another API", []string{"Bearer " + token("&audience=https://api.example")}, 401, `Bearer realm="tokenbroker authserver", error="invalid_token"`},
		{"less scope", []string{"Bearer " + token("&scope=read")}, 403, `Bearer realm="tokenbroker authserver", error="insufficient_scope", scope="write"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, body := ask{method: http.MethodGet, authorization: tt.authorization}.do(t, server.ResourceURL())
			if res.StatusCode != tt.status {
				t.Errorf("status = %d %v, want %d", res.StatusCode, body, tt.status)
			}
			if got := res.Header.Get("WWW-Authenticate"); got != tt.challenge {
				t.Errorf("challenge = %q, want %q", got, tt.challenge)
			}
		})
	}
}

// roundTrip calls the handler without a network, so that it runs in a bubble.
func roundTrip(h http.Handler, r *http.Request) *recorder {
	w := &recorder{header: make(http.Header)}
	h.ServeHTTP(w, r)
	return w
}

type recorder struct {
	header http.Header
	status int
	bytes.Buffer
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }

func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := authserver.New(authserver.Config{
			Issuer: "https://as.example", TokenLifetime: time.Minute,
			Clients: []authserver.Client{{ID: clientID, Secrets: []secret.Value{secret.NewString("x")}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		post, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, server.TokenEndpoint(), strings.NewReader("grant_type=client_credentials"))
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		post.Header["Authorization"] = basic(clientID, "x")
		var body struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}
		if err := json.Unmarshal(roundTrip(server, post).Bytes(), &body); err != nil || body.ExpiresIn != 60 {
			t.Fatalf("token answer = %+v, %v", body, err)
		}
		get, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, server.ResourceURL(), nil)
		get.Header.Set("Authorization", "Bearer "+body.AccessToken)
		if got := roundTrip(server, get).status; got != 200 {
			t.Errorf("fresh token = %d, want 200", got)
		}
		time.Sleep(time.Minute)
		if got := roundTrip(server, get).status; got != 401 {
			t.Errorf("expired token = %d, want 401", got)
		}
	})
}

func TestStartRefuses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "localhost:0", "192.0.2.1:0", "127.0.0.1"} {
		if server, err := authserver.Start(t.Context(), address, authserver.Config{}); err == nil {
			t.Errorf("Start(%q) listens", address)
			_ = server.Close()
		}
	}
	for _, issuer := range []string{"", "as.example", "https://as.example/", "https://as.example?x"} {
		if _, err := authserver.New(authserver.Config{Issuer: issuer}); err == nil {
			t.Errorf("New takes the issuer %q", issuer)
		}
	}
}
