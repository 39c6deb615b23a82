// Package oidcprovider runs a real authorization server, the certified oidc-provider from npm, for tests: client credentials with
// each method of authentication, resource indicators with JWT access tokens, DPoP, certificate-bound tokens, authorization code with
// PKCE, devices, refresh tokens, introspection, revocation and dynamic registration. Users are played by [Server.Consent],
// [Server.Deny] and [Server.ApproveDevice], which go through its pages as a browser would. What it refuses and how is its authors' reading of the RFCs and not ours.
//
// It listens on loopback, with TLS by a self-made authority unless told otherwise. Node and `make test-servers` must have run;
// without them tests skip on a developer's machine and fail in CI; see package harness.
package oidcprovider

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// The ways in which a client authenticates at the token endpoint (RFC 7591, section 2).
const (
	Basic         = "client_secret_basic"
	Post          = "client_secret_post"
	SecretJWT     = "client_secret_jwt"
	PrivateKeyJWT = "private_key_jwt"
	// TLS is for a client whose certificate has Client.CertificateSubject, SelfSigned for one that is in Client.JWKS (RFC 8705).
	TLS        = "tls_client_auth"
	SelfSigned = "self_signed_tls_client_auth"
	None       = "none"
)

// The grants that a client may use, by the names that grant_type has.
const (
	ClientCredentials = "client_credentials"
	AuthorizationCode = "authorization_code"
	RefreshToken      = "refresh_token"
	DeviceCode        = "urn:ietf:params:oauth:grant-type:device_code"
)

// Config says what the server knows. The zero value is a server with TLS and without clients.
type Config struct {
	// Clients that are registered from the start; PutClient adds and changes.
	Clients []Client
	// Resources are the APIs that tokens can be for (RFC 8707). A request for another one is refused with invalid_target.
	Resources []Resource
	// DefaultResource is the URI of the resource that a request without `resource` means; "" for none, which yields opaque tokens.
	DefaultResource string
	// Lifetime of access tokens; 10 minutes if zero. Whole seconds.
	Lifetime time.Duration
	// InsecurePlaintext serves http instead of https.
	InsecurePlaintext bool
	// Registration lets clients register and manage themselves (RFC 7591, RFC 7592); nil if they cannot.
	Registration *Registration
	// TrustedCAFile holds the authorities of servers that clients' JWKSURI are on, PEM; "" for none besides Node's own.
	TrustedCAFile string
	// ClockTolerance is how far assertions' times may be off; the server's own default if zero. Whole seconds.
	ClockTolerance time.Duration
	// DPoPNonce makes the server want a nonce of its own in each DPoP proof.
	DPoPNonce bool
	// DeviceLifetime is how long a device's user has to consent; 10 minutes if zero. Whole seconds.
	DeviceLifetime time.Duration
	// RotateRefreshTokens makes each use of a refresh token bring a successor; whoever uses the old one again ends the whole grant.
	RotateRefreshTokens bool
}

// Client is one registration.
type Client struct {
	ID     string
	Secret string // for every method but PrivateKeyJWT
	// AuthMethod is one of the constants of this package; Basic if "".
	AuthMethod string
	// Scopes that the client may ask for; others are refused. Of a resource's scopes the client gets those that are here too.
	Scopes []string
	// JWKS is the JSON Web Key Set with the public keys for PrivateKeyJWT.
	JWKS json.RawMessage
	// JWKSURI is where the server gets them instead. It keeps them for a minute at least, and fetches again when an assertion does not
	// verify and they are older.
	JWKSURI string
	// SigningAlgorithm is the only one that its assertions may have; the server's own choice if "".
	SigningAlgorithm string
	// Grants are what the client may use; client credentials alone if nil. One with AuthorizationCode or DeviceCode makes the server show
	// pages, and scopes openid and offline_access known.
	Grants []string
	// RedirectURIs are where browsers may be sent back to.
	RedirectURIs []string
	// CertificateSubject is the distinguished name for TLS: "CN=reports".
	CertificateSubject string
	// BoundToCertificate and BoundByDPoP are what the client's tokens are bound to.
	BoundToCertificate, BoundByDPoP bool
}

// Resource is one API.
type Resource struct {
	URI    string
	Scopes []string
	// Lifetime of its tokens; Config.Lifetime if zero.
	Lifetime time.Duration
	// Opaque makes its tokens opaque instead of JWTs.
	Opaque bool
}

// Server is a running authorization server. It is safe for concurrent use.
type Server struct {
	t       testing.TB
	issuer  string
	mtls    string
	control string
	caFile  string
	client  *http.Client
	// authority issued the server's certificate and is the one that clients' are checked against; nil in plaintext.
	authority *harness.Authority
}

// Issuer returns the issuer identifier; its discovery document is below it at /.well-known/openid-configuration.
func (s *Server) Issuer() string { return s.issuer }

// TokenEndpoint returns the URL of the token endpoint.
func (s *Server) TokenEndpoint() string { return s.issuer + "/token" }

// RevocationEndpoint returns the URL of the revocation endpoint (RFC 7009).
func (s *Server) RevocationEndpoint() string { return s.issuer + "/token/revocation" }

// IntrospectionEndpoint returns the URL of the introspection endpoint (RFC 7662).
func (s *Server) IntrospectionEndpoint() string { return s.issuer + "/token/introspection" }

// AuthorizationEndpoint returns the URL that browsers open.
func (s *Server) AuthorizationEndpoint() string { return s.issuer + "/auth" }

// DeviceAuthorizationEndpoint returns the URL of the device authorization endpoint (RFC 8628).
func (s *Server) DeviceAuthorizationEndpoint() string { return s.issuer + "/device/auth" }

// MTLSTokenEndpoint returns the URL of the token endpoint that asks for a client certificate; it is on a port of its own (RFC 8705,
// section 5). "" in plaintext.
func (s *Server) MTLSTokenEndpoint() string {
	if s.mtls == "" {
		return ""
	}
	return s.mtls + "/token"
}

// CAFile returns the PEM file that a client must trust, and "" in plaintext.
func (s *Server) CAFile() string { return s.caFile }

// HTTPClient returns a client that trusts the server and keeps no connection.
func (s *Server) HTTPClient() *http.Client { return s.client }

// Start starts a server and kills it when the test ends. A failed test logs the end of its output, where the reasons of refusals are.
func Start(t testing.TB, config Config) *Server {
	t.Helper()
	harness.SkipIfOff(t)
	script, tools, err := installed()
	if err != nil {
		harness.Missing(t, err)
	}
	s := &Server{t: t}
	wire := config.wire()
	if err := s.trust(t.TempDir(), config, &wire); err != nil {
		t.Fatal(err)
	}
	first, err := json.Marshal(wire)
	if err != nil {
		t.Fatalf("starting oidc-provider: %v", err)
	}

	command := exec.Command("node", script, tools)
	if config.TrustedCAFile != "" {
		command.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+config.TrustedCAFile)
	}
	// The pipe stays open as long as this process lives: the script ends with it, also where no parent-death signal exists.
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatalf("starting oidc-provider: %v", err)
	}
	ready := harness.NewFirstLine(`{"issuer"`)
	process, err := harness.StartProcess(command, ready)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of oidc-provider's output:\n%s", process.Output())
		}
		process.Kill()
	})
	if _, err := stdin.Write(append(first, '\n')); err != nil {
		t.Fatalf("starting oidc-provider: %v", err)
	}
	select {
	case line := <-ready.C():
		var told struct{ Issuer, MTLS, Control string }
		if err := json.Unmarshal([]byte(line), &told); err != nil {
			t.Fatalf("starting oidc-provider: its first line is %q: %v", line, err)
		}
		s.issuer, s.mtls, s.control = told.Issuer, told.MTLS, told.Control
	case <-process.Done():
		t.Fatalf("starting oidc-provider: it ended: %v", process.Err())
	case <-time.After(readyWithin):
		t.Fatalf("starting oidc-provider: not ready after %s", readyWithin)
	}
	return s
}

// readyWithin bounds the wait for the server. It takes half a second; a loaded machine needs more.
const readyWithin = time.Minute

// installed returns the script and the folder whose node_modules it uses, or what is missing.
func installed() (script, tools string, err error) {
	root, err := harness.Root()
	if err != nil {
		return "", "", err
	}
	if _, err := exec.LookPath("node"); err != nil {
		return "", "", errors.New("no oidc-provider: no node on PATH; install Node 20 or later")
	}
	tools = filepath.Join(root, "tools")
	if _, err := os.Stat(filepath.Join(tools, "node_modules", "oidc-provider", "package.json")); err != nil {
		return "", "", errors.New("no oidc-provider in tools/node_modules")
	}
	return filepath.Join(root, "test", "oidcprovider", "server.mjs"), tools, nil
}

// trust makes the certificates, unless the server is to speak plaintext, and the HTTP client.
func (s *Server) trust(dir string, config Config, wire *wireConfig) error {
	// No connection is kept: leak detectors would count its goroutines.
	transport := &http.Transport{DisableKeepAlives: true}
	s.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	if config.InsecurePlaintext {
		return nil
	}
	authority, err := harness.NewAuthority(dir)
	if err != nil {
		return err
	}
	s.authority, s.caFile, wire.ClientCAFile = authority, authority.CAFile, authority.CAFile
	transport.TLSClientConfig = &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}
	wire.CertFile, wire.KeyFile, err = authority.Loopback("authorization-server")
	return err
}

// Requests returns how many token requests have arrived, refused ones included.
func (s *Server) Requests() int {
	s.t.Helper()
	answer, err := s.ask(http.MethodGet, "/requests", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	var told struct{ Requests int }
	if err := json.Unmarshal(answer, &told); err != nil {
		s.t.Fatalf("asking oidc-provider's test port: %v", err)
	}
	return told.Requests
}

// PutClient registers a client or replaces the one with this id, e.g. to change its secret as a provider's console would. Its scopes
// must be known to the server from the start: those of Config's clients and resources.
func (s *Server) PutClient(client Client) {
	s.t.Helper()
	body, err := json.Marshal(client.metadata())
	if err != nil {
		s.t.Fatalf("registering the client %s: %v", client.ID, err)
	}
	if _, err := s.ask(http.MethodPut, "/clients", body); err != nil {
		s.t.Fatalf("registering the client %s: %v", client.ID, err)
	}
}

// Advance sets the server's clock further ahead, to make it forget what it keeps for a time. Assertions stay good only as far as
// Config.ClockTolerance goes.
func (s *Server) Advance(d time.Duration) {
	s.t.Helper()
	body, err := json.Marshal(map[string]int{"seconds": int(d / time.Second)})
	if err != nil {
		s.t.Fatalf("advancing the clock: %v", err)
	}
	if _, err := s.ask(http.MethodPost, "/clock", body); err != nil {
		s.t.Fatalf("advancing the clock: %v", err)
	}
}

// ask sends a request to the test port.
func (s *Server) ask(method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequest(method, s.control+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking oidc-provider's test port: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("asking oidc-provider's test port: %w", err)
	}
	if response.StatusCode > 299 {
		return nil, fmt.Errorf("asking oidc-provider's test port: status %d: %s", response.StatusCode, answer)
	}
	return answer, nil
}
