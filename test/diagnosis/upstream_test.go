package diagnosis_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// authority is the self-made authority that all brokers here trust; stranger is one that
// none does.
var authority, stranger = mustAuthority("Catalogue CA"), mustAuthority("Stranger CA")

func mustAuthority(name string) *devpki.Authority {
	a, err := devpki.New(name)
	if err != nil {
		panic(err)
	}
	return a
}

// roots is what brokers trust.
func roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(authority.Certificate())
	return pool
}

// listening says how a server listens; the zero value has a good certificate on
// 127.0.0.1.
type listening struct {
	// address is where; host is what its URL calls it, if it is not the address.
	address, host string
	// plain speaks no TLS.
	plain bool
	// signer and leaf make another certificate.
	signer *devpki.Authority
	leaf   *x509.Certificate
	// tls changes the rest of TLS.
	tls func(*tls.Config)
}

func goodLeaf() *x509.Certificate {
	return &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.IPv6loopback}, DNSNames: []string{"*.test", "*.example", "localhost"},
	}
}

// serve serves handler over real sockets until the test ends and returns its https
// origin, also where it speaks no TLS.
func serve(t testing.TB, handler http.Handler, l listening) (origin string) {
	t.Helper()
	listener := listenAt(t, l.address)
	if !l.plain {
		listener = tls.NewListener(listener, l.config(t))
	}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return l.origin(listener.Addr())
}

func (l listening) origin(address net.Addr) string {
	host, port, _ := net.SplitHostPort(address.String())
	if l.host != "" {
		host = l.host
	}
	return "https://" + net.JoinHostPort(host, port)
}

func (l listening) config(t testing.TB) *tls.Config {
	t.Helper()
	signer, leaf := l.signer, l.leaf
	if signer == nil {
		signer = authority
	}
	if leaf == nil {
		leaf = goodLeaf()
	}
	certificate, key, err := signer.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, signer.Certificate().Raw)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if l.tls != nil {
		l.tls(config)
	}
	return config
}

func listenAt(t testing.TB, address string) net.Listener {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// portOf returns the port of an origin.
func portOf(t testing.TB, origin string) string {
	t.Helper()
	u, err := url.Parse(origin)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// silent takes connections at an address and never says a word.
func silent(t testing.TB, address string) (origin string) {
	t.Helper()
	return speaking(t, address, "")
}

// speaking takes connections and says the same to all, before it is asked.
func speaking(t testing.TB, address, greeting string) (origin string) {
	t.Helper()
	listener := listenAt(t, address)
	var conns []net.Conn
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			_, _ = io.WriteString(conn, greeting)
			conns = append(conns, conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return "https://" + listener.Addr().String()
}

// unused returns an https origin at which nobody listens.
func unused(t testing.TB) string {
	t.Helper()
	return "https://" + harness.UnusedAddress(t)
}

// upstream is the strict authorization server of this repository and its API, whose
// handlers a test may replace. Safe for concurrent use.
type upstream struct {
	*authserver.Server
	origin string

	mu    sync.Mutex
	token http.Handler // guarded by mu
	api   http.Handler // guarded by mu
	about http.Handler // guarded by mu; the metadata
}

// newUpstream starts one that knows a client.
func newUpstream(t testing.TB, l listening, client authserver.Client) *upstream {
	t.Helper()
	u := &upstream{}
	u.origin = serve(t, http.HandlerFunc(u.serveHTTP), l)
	var err error
	u.Server, err = authserver.New(authserver.Config{Issuer: u.origin, ResourceScope: "read", Clients: []authserver.Client{client}})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upstream) serveHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	handler := u.token
	switch {
	case r.URL.Path == authserver.ResourcePath:
		handler = u.api
	case strings.HasPrefix(r.URL.Path, "/.well-known/"):
		handler = u.about
	}
	u.mu.Unlock()
	if handler == nil {
		handler = u.Server
	}
	handler.ServeHTTP(w, r)
}

// answer has the token endpoint answer by handler.
func (u *upstream) answer(handler http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.token = handler
}

// answerAPI is answer for the API.
func (u *upstream) answerAPI(handler http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.api = handler
}

// describe has the server's metadata be said; nothing if it is empty.
func (u *upstream) describe(said map[string]any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.about = nil
	if body, err := json.Marshal(said); err == nil && len(said) > 0 {
		u.about = fixed(200, "application/json", string(body))
	}
}

// fixed answers everything alike.
func fixed(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// toCredentials answers requests that bring a credential by one handler and all others,
// such as the one that looks at the way, as a token endpoint does.
func toCredentials(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		if r.Header.Get("Authorization") == "" && !form.Has("client_secret") && !form.Has("client_assertion") {
			fixed(401, "application/json", `{"error":"invalid_client"}`)(w, r)
			return
		}
		handler(w, r)
	}
}

// text is a secret of a client.
func text(value string) secret.Value { return secret.NewString(value) }
