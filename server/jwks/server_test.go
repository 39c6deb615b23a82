package jwks_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/server/jwks"
)

// withClients returns a Broker that has clients: acme and stopped with key pairs, and
// plain with a secret.
func withClients(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.New(broker.Config{
		Store: brokertest.NewMemory(), RequestToken: brokertest.NewUpstream().RequestToken, CheckSecret: oauth.CheckSecret, PublicKey: oauth.PublicKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	for _, id := range []string{"acme", "stopped", "gone", "plain"} {
		n := broker.NewClient{ID: id, Upstream: broker.Upstream{TokenEndpoint: "https://as.example/token", ClientID: id, Authentication: broker.Authentication{Method: broker.PrivateKeyJWT}}}
		n.Secret = broker.SecretInput{Value: newKey(t)}
		if id == "plain" {
			n.Upstream.Authentication.Method, n.Secret.Value = broker.ClientSecretBasic, secret.NewString("hunter2-hunter2")
		}
		if _, err := b.CreateClient(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.SetDisabled(t.Context(), "stopped", true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.DeleteClient(t.Context(), "gone", ""); err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey(t *testing.T) secret.Value {
	t.Helper()
	value, err := oauth.KeyPairRotator{}.MakeSecret(broker.RotatorCall{Authentication: broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "ES256"}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func newServer(t *testing.T, cfg jwks.Config) *jwks.Server {
	t.Helper()
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 5 * time.Minute
	}
	s, err := jwks.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask asks without a network.
func ask(t *testing.T, s http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestKeysOfAClient(t *testing.T) {
	b := withClients(t)
	s := newServer(t, jwks.Config{Keys: b.PublicKeys})
	const path = "/clients/acme/jwks.json"
	first := ask(t, s, "GET", path)
	header := first.Header()
	if first.Code != 200 || header.Get("Content-Type") != "application/jwk-set+json" || header.Get("Cache-Control") != "public, max-age=300" || header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("answered %d with %v", first.Code, header)
	}
	keysIn := func(w *httptest.ResponseRecorder) int {
		t.Helper()
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
			t.Fatal(err)
		}
		for _, key := range set.Keys {
			if !key.IsPublic() || !key.Valid() || key.KeyID == "" || key.Use != "sig" {
				t.Errorf("published the key %s, public %v", key.KeyID, key.IsPublic())
			}
		}
		return len(set.Keys)
	}
	if n := keysIn(first); n != 1 {
		t.Errorf("%d keys, want 1", n)
	}
	etag := header.Get("ETag")
	for _, match := range []string{etag, "W/" + etag, `"x", ` + etag} {
		if again := ask(t, s, "GET", path, "If-None-Match", match); again.Code != 304 || again.Body.Len() > 0 || again.Header().Get("Cache-Control") == "" {
			t.Errorf("If-None-Match %s: answered %d", match, again.Code)
		}
	}
	if head := ask(t, s, "HEAD", path); head.Code != 200 || head.Body.Len() > 0 || head.Header().Get("ETag") != etag {
		t.Errorf("HEAD: answered %d", head.Code)
	}
	if _, err := b.StageSecret(t.Context(), "acme", broker.SecretInput{Value: newKey(t)}, ""); err != nil {
		t.Fatal(err)
	}
	next := ask(t, s, "GET", path, "If-None-Match", etag)
	if n := keysIn(next); next.Code != 200 || n != 2 || next.Header().Get("ETag") == etag {
		t.Errorf("after staging: answered %d with %d keys", next.Code, n)
	}
}

// TestNobodyLearnsWhichClientsThereAre compares all that is no client with keys: what
// is answered, and when.
func TestNobodyLearnsWhichClientsThereAre(t *testing.T) {
	synctest.Test(t, nobodyLearnsWhichClientsThereAre)
}

func nobodyLearnsWhichClientsThereAre(t *testing.T) {
	s := newServer(t, jwks.Config{Keys: withClients(t).PublicKeys})
	begun := time.Now()
	want := ask(t, s, "GET", "/clients/nobody/jwks.json")
	took := time.Since(begun)
	if want.Code != 404 || want.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("unknown: answered %d with %v", want.Code, want.Header())
	}
	for _, path := range []string{
		"/clients/stopped/jwks.json", "/clients/gone/jwks.json", "/clients/plain/jwks.json", "/clients/UPPER/jwks.json",
		"/clients/../jwks.json", "/clients/%61cme/jwks.json/", "/clients/a%2fb/jwks.json", "/clients/acme", "/clients/", "/clients//jwks.json", "/",
		"/clients/" + strings.Repeat("a", 4000) + "/jwks.json",
	} {
		begun := time.Now()
		got := ask(t, s, "GET", path)
		if d := time.Since(begun); d != took || d == 0 {
			t.Errorf("%.60s: answered after %v, an unknown one after %v", path, d, took)
		}
		if got.Code != want.Code || got.Body.String() != want.Body.String() || len(got.Header()) != len(want.Header()) {
			t.Errorf("%.60s: answered %d %q with %v", path, got.Code, got.Body, got.Header())
		}
	}
	if post := ask(t, s, "POST", "/clients/acme/jwks.json"); post.Code != 405 || post.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: answered %d", post.Code)
	}
}

// TestStoreAway is told apart from no keys, and logged once.
func TestStoreAway(t *testing.T) {
	var log bytes.Buffer
	statuses := map[int]int{}
	s := newServer(t, jwks.Config{
		Keys: func(context.Context, string) (broker.JWKS, error) {
			return broker.JWKS{}, &broker.Error{Reason: broker.ReasonStoreSealed}
		},
		Answered: func(status int) { statuses[status]++ }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	for range 3 {
		if got := ask(t, s, "GET", "/clients/acme/jwks.json"); got.Code != 503 || got.Header().Get("Retry-After") == "" || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("answered %d with %v", got.Code, got.Header())
		}
	}
	if n := strings.Count(log.String(), "STORE_SEALED"); n == 0 || strings.Count(log.String(), "\n") != 1 || statuses[503] != 3 {
		t.Errorf("counted %v, the log is %q", statuses, log.String())
	}
}

// TestLookupsAreBounded refuses what would wait for a store that hangs, and goes on
// when it does no longer.
func TestLookupsAreBounded(t *testing.T) {
	waits, entered := make(chan struct{}), make(chan struct{}, 100)
	s := newServer(t, jwks.Config{Keys: func(context.Context, string) (broker.JWKS, error) {
		entered <- struct{}{}
		<-waits
		return broker.JWKS{Keys: []json.RawMessage{json.RawMessage(`{}`)}}, nil
	}})
	const many = 16
	codes := make(chan int, many)
	for range many {
		go func() { codes <- ask(t, s, "GET", "/clients/acme/jwks.json").Code }()
	}
	for range many {
		<-entered
	}
	if got := ask(t, s, "GET", "/clients/acme/jwks.json"); got.Code != 503 {
		t.Errorf("one too many: answered %d", got.Code)
	}
	close(waits)
	for range many {
		if code := <-codes; code != 200 {
			t.Errorf("answered %d", code)
		}
	}
	if got := ask(t, s, "GET", "/clients/acme/jwks.json"); got.Code != 200 {
		t.Errorf("afterwards: answered %d", got.Code)
	}
}

// TestCertificateIsReadAgain serves over TLS and replaces the certificate.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	issue := func() *x509.CertPool {
		t.Helper()
		authority, err := devpki.New("jwks")
		if err != nil {
			t.Fatal(err)
		}
		c, k, err := authority.Server("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string][]byte{certificate: c, key: k} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pool := x509.NewCertPool()
		pool.AddCert(authority.Certificate())
		return pool
	}
	trusted := issue()
	s := newServer(t, jwks.Config{Keys: withClients(t).PublicKeys, CertificateFile: certificate, KeyFile: key})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	fetch := func(pool *x509.CertPool) error {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
		answer, err := client.Get("https://" + listener.Addr().String() + "/clients/acme/jwks.json")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		return err
	}
	if err := fetch(trusted); err != nil {
		t.Fatal(err)
	}
	next := issue()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		err := fetch(next)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with the new certificate: %v", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestNoTLSOffLoopback refuses to serve where others could change the keys on the way.
func TestNoTLSOffLoopback(t *testing.T) {
	s := newServer(t, jwks.Config{Keys: withClients(t).PublicKeys})
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), listener); err == nil {
		t.Error("it served")
	}
	if _, err := jwks.New(jwks.Config{Keys: withClients(t).PublicKeys, MaxAge: time.Minute, CertificateFile: "/nowhere"}); err == nil {
		t.Error("New took a certificate that is not there")
	}
}
