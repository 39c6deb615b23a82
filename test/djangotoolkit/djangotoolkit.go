// Package djangotoolkit runs a real authorization server, django-oauth-toolkit from Debian's packages, for tests: client credentials
// with scopes, and authorization codes with PKCE and refresh tokens that rotate.
//
// It listens on loopback, with TLS by a self-made authority. `make test-servers` must have run; without it tests skip on a developer's
// machine and fail in CI; see package harness.
package djangotoolkit

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// The grants, in the toolkit's spelling.
const (
	ClientCredentials = "client-credentials"
	AuthorizationCode = "authorization-code"
	Password          = "password"
)

// Config says what a server knows.
type Config struct {
	// Scopes are all that may be asked for; the first is given where none is asked for. At least one.
	Scopes []string
	// Clients are confidential.
	Clients []Client
	// Grace is how long a refresh token that was used is taken again, and then the same successor is given.
	Grace time.Duration
	// Lifetime of access tokens; ten minutes if 0.
	Lifetime time.Duration
	// Password is that of the one user, "ada"; "" for none.
	Password string
}

// Client is a registered client.
type Client struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
	// Grant is ClientCredentials, AuthorizationCode or Password.
	Grant        string   `json:"grant"`
	RedirectURIs []string `json:"redirect_uris"`
}

// Server is a running authorization server. It is safe for concurrent use.
type Server struct {
	t      testing.TB
	issuer string
	caFile string
	client *http.Client
}

// TokenEndpoint returns the URL of the token endpoint.
func (s *Server) TokenEndpoint() string { return s.issuer + "/o/token/" }

// AuthorizationEndpoint returns the URL that a browser opens. The user is logged in and consents at once.
func (s *Server) AuthorizationEndpoint() string { return s.issuer + "/o/authorize/" }

// RevocationEndpoint returns the URL of the revocation endpoint (RFC 7009).
func (s *Server) RevocationEndpoint() string { return s.issuer + "/o/revoke_token/" }

// API returns the URL of an API that takes tokens with the first scope.
func (s *Server) API() string { return s.issuer + "/api" }

// HTTPClient returns a client that trusts the server, keeps no connection and follows no redirect.
func (s *Server) HTTPClient() *http.Client { return s.client }

// CAFile returns the PEM file that a client must trust.
func (s *Server) CAFile() string { return s.caFile }

// readyWithin bounds the wait for the server. It takes two seconds; a loaded machine needs more.
const readyWithin = time.Minute

// interpreter is Debian's, whatever else is on PATH.
const interpreter = "/usr/bin/python3"

// Start starts a server and kills it when the test ends. A failed test logs the end of its output.
func Start(t testing.TB, config Config) *Server {
	t.Helper()
	harness.SkipIfOff(t)
	folder, err := debian().Folder()
	if err != nil {
		harness.Missing(t, err)
	}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	authority, err := harness.NewAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, caFile: authority.CAFile, client: &http.Client{
		// No connection is kept: leak detectors would count its goroutines.
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}}
	line, err := config.line(dir, authority)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(interpreter, filepath.Join(root, "test", "djangotoolkit", "server.py"))
	command.Env = append(os.Environ(), harness.LibraryPath(folder), "PYTHONPATH="+filepath.Join(folder, "usr/lib/python3/dist-packages"), "PYTHONDONTWRITEBYTECODE=1")
	// The pipe stays open as long as this process lives: the script ends with it, also where no parent-death signal exists.
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatalf("starting django-oauth-toolkit: %v", err)
	}
	ready := harness.NewFirstLine(`{"issuer"`)
	process, err := harness.StartProcess(command, ready)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of django-oauth-toolkit's output:\n%s", process.Output())
		}
		process.Kill()
	})
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("starting django-oauth-toolkit: %v", err)
	}
	select {
	case told := <-ready.C():
		var answer struct{ Issuer string }
		if err := json.Unmarshal([]byte(told), &answer); err != nil {
			t.Fatalf("starting django-oauth-toolkit: its first line is %q: %v", told, err)
		}
		s.issuer = answer.Issuer
	case <-process.Done():
		t.Fatalf("starting django-oauth-toolkit: it ended: %v", process.Err())
	case <-time.After(readyWithin):
		t.Fatalf("starting django-oauth-toolkit: not ready after %s", readyWithin)
	}
	return s
}

// line is what the script reads.
func (c Config) line(dir string, authority *harness.Authority) ([]byte, error) {
	certFile, keyFile, err := authority.Loopback("authorization-server")
	if err != nil {
		return nil, err
	}
	lifetime := c.Lifetime
	if lifetime == 0 {
		lifetime = 10 * time.Minute
	}
	return json.Marshal(map[string]any{
		"dir": dir, "cert_file": certFile, "key_file": keyFile, "scopes": c.Scopes, "clients": c.Clients,
		"password": c.Password, "grace_seconds": int(c.Grace.Seconds()), "lifetime_seconds": int(lifetime.Seconds()),
	})
}

// Consent opens an authorization URL as the user's browser does and returns the query that it is sent back with.
func (s *Server) Consent(authorizationURL string) url.Values {
	s.t.Helper()
	response, err := s.client.Get(authorizationURL)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	target, err := response.Location()
	if err != nil {
		s.t.Fatalf("consent at django-oauth-toolkit: status %d, %v", response.StatusCode, err)
	}
	return target.Query()
}
