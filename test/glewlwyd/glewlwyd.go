// Package glewlwyd runs a real authorization server, glewlwyd from Debian's packages, for tests: client credentials, and dynamic
// registration with its management (RFC 7591, RFC 7592), at which it differs from oidc-provider in about every optional point.
//
// It listens on loopback, with TLS by a self-made authority. `make test-servers` must have run; without it tests skip on a developer's
// machine and fail in CI; see package harness.
package glewlwyd

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/registration"
)

// Scope is the scope that registered clients get.
const Scope = "read"

// Server is a running authorization server.
type Server struct {
	t      testing.TB
	issuer string
	client *http.Client
	caFile string
}

// TokenEndpoint returns the URL of the token endpoint.
func (s *Server) TokenEndpoint() string { return s.issuer + "/api/oidc/token" }

// HTTPClient returns a client that trusts the server and keeps no connection.
func (s *Server) HTTPClient() *http.Client { return s.client }

// CAFile returns the PEM file that a client must trust.
func (s *Server) CAFile() string { return s.caFile }

// readyWithin bounds the wait for the server. It takes a second; a loaded machine needs more.
const readyWithin = time.Minute

// Start starts a server and kills it when the test ends. A failed test logs the end of its output.
func Start(t testing.TB) *Server {
	t.Helper()
	harness.SkipIfOff(t)
	folder, err := debian().Folder()
	if err != nil {
		harness.Missing(t, err)
	}
	dir := t.TempDir()
	authority, err := harness.NewAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := authority.Loopback("authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	database, err := os.ReadFile(filepath.Join(folder, template))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "glewlwyd.db"), database, 0o600); err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, caFile: authority.CAFile, client: &http.Client{
		// No connection is kept: leak detectors would count its goroutines.
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}},
		Timeout:   30 * time.Second, Jar: jar,
	}}
	s.start(folder, dir, certFile, keyFile)
	s.setUp()
	return s
}

// start starts the program. It cannot choose a port by itself, and a free one may be gone a moment later, so it is tried again.
func (s *Server) start(folder, dir, certFile, keyFile string) {
	s.t.Helper()
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			s.t.Fatal(err)
		}
		s.issuer = fmt.Sprintf("https://127.0.0.1:%d", port)
		settings := filepath.Join(dir, "glewlwyd.conf")
		if err := os.WriteFile(settings, []byte(config(folder, dir, s.issuer, port, certFile, keyFile)), 0o600); err != nil {
			s.t.Fatal(err)
		}
		command := exec.Command(filepath.Join(folder, "usr/bin/glewlwyd"), "--config-file="+settings)
		command.Env = append(os.Environ(), harness.LibraryPath(folder))
		ready := harness.NewLineWith("Glewlwyd started on port")
		process, err := harness.StartProcess(command, ready)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() {
			if s.t.Failed() {
				s.t.Logf("the end of glewlwyd's output:\n%s", process.Output())
			}
			process.Kill()
		})
		select {
		case <-ready.C():
			s.awaitPort(process, port)
			return
		case <-process.Done():
			if try == 3 {
				s.t.Fatalf("starting glewlwyd: it ended: %v\n%s", process.Err(), process.Output())
			}
		case <-time.After(readyWithin):
			s.t.Fatalf("starting glewlwyd: not ready after %s", readyWithin)
		}
	}
}

// awaitPort waits until somebody listens: the program says that it has started a moment before that.
func (s *Server) awaitPort(process *harness.Process, port int) {
	s.t.Helper()
	end := time.Now().Add(readyWithin)
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-process.Done():
			s.t.Fatalf("starting glewlwyd: it ended: %v", process.Err())
		case <-time.After(20 * time.Millisecond):
			if time.Now().After(end) {
				s.t.Fatalf("starting glewlwyd: it does not listen: %v", err)
			}
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// config returns the text of the configuration file.
func config(folder, dir, issuer string, port int, certFile, keyFile string) string {
	modules := filepath.Join(folder, "usr/lib/glewlwyd")
	settings := []string{
		fmt.Sprintf("port=%d", port),
		`bind_address="127.0.0.1"`,
		fmt.Sprintf("external_url=%q", issuer),
		`api_prefix="api"`,
		`login_url="login.html"`,
		`log_mode="console"`,
		`log_level="INFO"`,
		`cookie_domain="127.0.0.1"`,
		`cookie_secure=1`,
		`session_expiration=3600`,
		`session_key="GLEWLWYD2_SESSION_ID"`,
		`admin_scope="g_admin"`,
		`profile_scope="g_profile"`,
		`hash_algorithm="SHA512"`,
		fmt.Sprintf("static_files_path=%q", dir),
		fmt.Sprintf("user_module_path=%q", filepath.Join(modules, "user")),
		fmt.Sprintf("user_middleware_module_path=%q", dir), // Debian has none
		fmt.Sprintf("client_module_path=%q", filepath.Join(modules, "client")),
		fmt.Sprintf("user_auth_scheme_module_path=%q", filepath.Join(modules, "scheme")),
		fmt.Sprintf("plugin_module_path=%q", filepath.Join(modules, "plugin")),
		`use_secure_connection=true`,
		fmt.Sprintf("secure_connection_key_file=%q", keyFile),
		fmt.Sprintf("secure_connection_pem_file=%q", certFile),
		fmt.Sprintf("database={ type=%q; path=%q; };", "sqlite3", filepath.Join(dir, "glewlwyd.db")),
	}
	return strings.Join(settings, "\n") + "\n"
}

// setUp adds what the server has not from the start: a scope, and the OpenID Connect plugin with client registration.
func (s *Server) setUp() {
	s.t.Helper()
	s.post("/api/auth/", map[string]any{"username": "admin", "password": "password"}) // of the packaged database
	s.post("/api/scope/", map[string]any{"name": Scope, "display_name": Scope, "description": Scope, "password_required": false, "scheme": map[string]any{}})
	s.post("/api/mod/plugin/", map[string]any{
		"module": "oidc", "name": "oidc", "display_name": "OpenID Connect", "order_rank": 0,
		"parameters": map[string]any{
			"iss": s.issuer, "jwt-type": "sha", "jwt-key-size": "256", "key": strings.Repeat("k", 32),
			"access-token-duration": 600, "refresh-token-duration": 3600, "code-duration": 60, "refresh-token-rolling": true,
			"allow-non-oidc": true, "auth-type-client-enabled": true, "auth-type-code-enabled": false, "auth-type-token-enabled": false,
			"auth-type-id-token-enabled": false, "auth-type-none-enabled": false, "auth-type-password-enabled": false,
			"auth-type-device-enabled": false, "auth-type-refresh-enabled": false, "subject-type": "public",
			"scope": []string{}, "additional-parameters": []string{}, "claims": []string{},
			"register-client-allowed": true, "register-client-management-allowed": true,
			"register-client-auth-scope": []string{}, "register-client-credentials-scope": []string{Scope},
		},
	})
}

// post sends a request to the administration API.
func (s *Server) post(path string, body any) {
	s.t.Helper()
	response, err := s.client.Do(s.request(path, body))
	if err != nil {
		s.t.Fatalf("setting glewlwyd up: %v", err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		s.t.Fatalf("setting glewlwyd up: %s: status %d: %s", path, response.StatusCode, text)
	}
}

func (s *Server) request(path string, body any) *http.Request {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, s.issuer+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return request
}

// Register registers a client for client credentials with client_secret_basic. The server insists on a redirect URI all the same.
func (s *Server) Register(name string) registration.Client {
	s.t.Helper()
	return registration.Register(s.t, s.client, s.request("/api/oidc/register", map[string]any{
		"client_name": name, "redirect_uris": []string{"https://reports.example/callback"}, "response_types": []string{"token"},
		"grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "client_secret_basic",
	}), s.TokenEndpoint())
}
