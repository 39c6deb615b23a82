package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/plugin"
	"github.com/tokenbroker/tokenbroker/plugin/plugintest"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/rotatorexample/provider"
)

// asProgram makes the test binary the program itself, so that a test can kill it.
const asProgram = "ROTATOREXAMPLE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const (
	brokerURI       = "spiffe://example.org/tokenbroker"
	managementToken = "canary-management-token"
)

// site is a provider, an authority, and what the program is started with.
type site struct {
	provider *provider.Provider
	url      string
	oauth    *oauth.Client
	config   plugin.Config
	args     []string
	clients  atomic.Int32
	output   *output
}

// output is what the program prints.
type output struct{ name string }

func newSite(t *testing.T) *site {
	t.Helper()
	server, err := authserver.New(authserver.Config{Issuer: "http://provider.test"})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{provider: provider.New(server, secret.NewString(managementToken)), oauth: oauth.New(oauth.Config{AllowHTTPLoopback: true})}
	web := httptest.NewServer(s.provider)
	t.Cleanup(web.Close)
	t.Cleanup(s.oauth.Close)
	s.url = web.URL

	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority, err := devpki.New("example")
	if err != nil {
		t.Fatal(err)
	}
	ca := write("ca.pem", authority.PEM())
	pair := func(name string, certificate, key []byte, err error) (string, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".pem", certificate), write(name+"-key.pem", key)
	}
	c, k, err := authority.Server("rotator.example")
	certificate, key := pair("rotator", c, k, err)
	address := harness.UnusedAddress(t)
	s.args = []string{
		"-listen", address, "-certificate", certificate, "-key", key, "-client-ca", ca, "-broker", brokerURI, "-provider", s.url,
		"-provider-token", write("token", []byte(managementToken+"\n")), "-derivation-key", write("derivation-key", []byte(strings.Repeat("k", 32))),
	}
	c, k, err = authority.Caller(brokerURI)
	certificate, key = pair("broker", c, k, err)
	s.config = plugin.Config{
		Name: "example", Address: address, CAFile: ca, CertificateFile: certificate, KeyFile: key, ServerName: "rotator.example", Shape: broker.ShapeOverlapping,
	}
	c, k, err = authority.Caller("spiffe://example.org/somebody")
	pair("somebody", c, k, err)
	s.output = &output{filepath.Join(dir, "output")}
	return s
}

// start runs the program and waits until it serves; stop kills it.
func (s *site) start(t *testing.T) (stop func()) {
	t.Helper()
	command := exec.Command(os.Args[0], s.args...)
	command.Env = append(os.Environ(), asProgram+"=1")
	file, err := os.OpenFile(s.output.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command.Stderr = file
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { _ = command.Process.Kill(); _ = command.Wait() }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "serving on ") {
		stop()
		printed, _ := os.ReadFile(s.output.name)
		t.Fatalf("the program said %q, %v: %s", line, err, printed)
	}
	return stop
}

// accepts gets a token.
func (s *site) accepts(ctx context.Context, client, value string) (bool, error) {
	origin, err := broker.Origin(s.url)
	if err != nil {
		return false, err
	}
	_, err = s.oauth.RequestToken(ctx, broker.TokenRequest{
		Endpoint: s.url + authserver.TokenPath, Destinations: []string{origin}, ClientID: client,
		Authentication: broker.Authentication{Method: broker.ClientSecretBasic}, Secret: secret.NewString(value),
	})
	if broker.ReasonOf(err) == broker.ReasonClientRejected {
		return false, nil
	}
	return err == nil, err
}

// TestSuite runs the whole suite against the program, over mutual TLS, killing it in
// between.
func TestSuite(t *testing.T) {
	s := newSite(t)
	stop := s.start(t)
	t.Cleanup(func() { stop() })
	plugintest.TestRotator(t, func(t *testing.T) plugintest.Subject {
		client := fmt.Sprintf("client-%d", s.clients.Add(1))
		const first = "canary-the-first-secret"
		if err := s.provider.Register(client, "first", secret.NewString(first)); err != nil {
			t.Fatal(err)
		}
		return plugintest.Subject{
			Config:  s.config,
			Client:  plugintest.Client{ID: client, ClientID: client, TokenEndpoint: s.url + authserver.TokenPath, Method: "client_secret_basic", Secret: first},
			Accepts: func(ctx context.Context, value string) (bool, error) { return s.accepts(ctx, client, value) },
			Count:   func(context.Context) (int, error) { return s.provider.Count(client), nil },
			Restart: func(t *testing.T) { stop(); stop = s.start(t) },
		}
	})
	printed, err := os.ReadFile(s.output.name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if strings.Contains(string(printed), "canary") {
		t.Error("the program printed a secret")
	}
}

// TestAnotherOfTheAuthority is not the broker.
func TestAnotherOfTheAuthority(t *testing.T) {
	s := newSite(t)
	defer s.start(t)()
	other := s.config
	other.CertificateFile = filepath.Join(filepath.Dir(other.CAFile), "somebody.pem")
	other.KeyFile = filepath.Join(filepath.Dir(other.CAFile), "somebody-key.pem")
	r, err := plugin.New(other)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Revoke(t.Context(), broker.RotatorCall{Token: "t", UID: "u", ClientID: "c"}); broker.ReasonOf(err) != broker.ReasonRotatorUnauthorized {
		t.Errorf("somebody else was answered %v", err)
	}
}

// TestFlags that are missing end the program with what is missing.
func TestFlags(t *testing.T) {
	s := newSite(t)
	for _, flag := range []string{"-certificate", "-client-ca", "-provider-token", "-derivation-key", "-broker"} {
		args := append([]string(nil), s.args...)
		for i, arg := range args {
			if arg == flag {
				args = append(args[:i:i], args[i+2:]...)
				break
			}
		}
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("without %s: %v", flag, err)
		}
	}
}
