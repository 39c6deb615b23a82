package e2e_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// upstream is an HTTPS server on loopback: the strict authorization server of this
// repository at /token, and whatever a test adds. It remembers every credential and
// every token that passed.
type upstream struct {
	*authserver.Server
	mux    *http.ServeMux
	origin string
	ca     []byte // PEM

	mu          sync.Mutex // guards the rest
	tokens      []string
	credentials []string
}

// appID is the client_id of the client that every upstream knows.
const appID = "reports-app"

// newUpstream starts one that knows appID with these secrets.
func newUpstream(t testing.TB, secrets ...string) *upstream {
	t.Helper()
	ca, err := devpki.New("upstream")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := ca.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{mux: http.NewServeMux(), origin: "https://" + listener.Addr().String(), ca: ca.PEM()}
	client := authserver.Client{ID: appID, Scopes: []string{"read", "write"}}
	for _, value := range secrets {
		client.Secrets = append(client.Secrets, secret.NewString(value))
	}
	if u.Server, err = authserver.New(authserver.Config{Issuer: u.origin, Clients: []authserver.Client{client}}); err != nil {
		t.Fatal(err)
	}
	u.mux.HandleFunc(authserver.TokenPath, u.serveToken)
	server := &http.Server{Handler: http.HandlerFunc(u.serve), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return u
}

// serve remembers the credentials that come, wherever they come to.
func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	u.mu.Lock()
	for _, credential := range []string{r.Header.Get("Authorization"), form.Get("client_assertion"), form.Get("assertion")} {
		if credential != "" {
			u.credentials = append(u.credentials, credential)
		}
	}
	u.mu.Unlock()
	u.mux.ServeHTTP(w, r)
}

// serveToken remembers the tokens that it gives.
func (u *upstream) serveToken(w http.ResponseWriter, r *http.Request) {
	answer := &answerRecorder{ResponseWriter: w}
	u.Server.ServeHTTP(answer, r)
	var granted struct {
		Token string `json:"access_token"`
	}
	_ = json.Unmarshal(answer.body.Bytes(), &granted)
	u.mu.Lock()
	defer u.mu.Unlock()
	if granted.Token != "" {
		u.tokens = append(u.tokens, granted.Token)
	}
}

// seen returns the tokens and credentials that passed.
func (u *upstream) seen() (tokens, credentials []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.tokens...), append([]string(nil), u.credentials...)
}

// answerRecorder keeps what a handler writes.
type answerRecorder struct {
	http.ResponseWriter
	body bytes.Buffer
}

// Write implements http.ResponseWriter.
func (r *answerRecorder) Write(p []byte) (int, error) {
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}
