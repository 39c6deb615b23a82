package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// setup writes a configuration over an embedded store, with TLS or without, for an
// address, and returns its path.
func setup(t *testing.T, address string, secure bool) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	listen := "  insecure_plaintext: true\n"
	if secure {
		ca, err := devpki.New("test")
		if err != nil {
			t.Fatal(err)
		}
		certificate, key, err := ca.Server("localhost")
		if err != nil {
			t.Fatal(err)
		}
		listen = "  certificate_file: " + put("cert.pem", certificate) + "\n  key_file: " + put("key.pem", key) + "\n  client_ca_file: " + put("ca.pem", ca.PEM()) + "\n"
	}
	return put("config.yaml", []byte("listen:\n  address: "+address+"\n"+listen+
		"store: {embedded: {file: "+filepath.Join(dir, "store.db")+", key_file: "+filepath.Join(dir, "store.key")+"}}\n"+
		"audit: {key_file: "+filepath.Join(dir, "audit.key")+", file: {path: "+filepath.Join(dir, "audit.log")+"}}\nlimits: {shutdown_grace: 2s}\nadmin: {\"address\": off}\nprocess: {lock_memory: off}\n"))
}

// serve runs the server in this process; stop ends it and returns its outcome.
func serve(t *testing.T, path string) (stop func() outcome) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan outcome, 1)
	go func() { ended <- commandIn(ctx, nil, "serve", "--config", path) }()
	var o *outcome
	stop = func() outcome {
		cancel()
		if o == nil {
			got := <-ended
			o = &got
		}
		return *o
	}
	t.Cleanup(func() { stop() })
	return stop
}

// TestHealth asks servers over TLS and plaintext, as a container's health check does.
func TestHealth(t *testing.T) {
	for name, secure := range map[string]bool{"TLS": true, "plaintext": false} {
		t.Run(name, func(t *testing.T) {
			path := setup(t, harness.UnusedAddress(t), secure)
			health := func(args ...string) outcome {
				return command(t, append([]string{"health", "--config", path}, args...)...)
			}
			health().want(t, 1, "connection refused")

			stop := serve(t, path)
			healthy := func() error {
				got := health("--service", "tokenbroker.v1.TokenService")
				if got.err == nil && got.stdout != "SERVING\n" {
					return errors.New("it printed " + got.stdout)
				}
				return got.err
			}
			var err error
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if err = healthy(); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			health().want(t, 0)
			health("--service", "no.such.Service").want(t, 1, "unknown service")
			if secure {
				// Another server on that address is not the one that was asked about.
				other := setup(t, harness.UnusedAddress(t), true)
				content, err := os.ReadFile(other)
				if err != nil {
					t.Fatal(err)
				}
				mine, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				address := regexp.MustCompile(`address: \S+`)
				impostor := write(t, "config.yaml", address.ReplaceAllString(string(content), address.FindString(string(mine))))
				command(t, "health", "--config", impostor).want(t, 1, "another certificate")
			}
			got := stop()
			got.want(t, 0)
			for _, text := range []string{`"msg":"serving"`, `"msg":"store read, serving"`, `"msg":"stopping"`} {
				if !strings.Contains(got.stderr, text) {
					t.Errorf("the log has no %s: %s", text, got.stderr)
				}
			}
			health().want(t, 1)
		})
	}
}

func TestHealthGivesUpInTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	began := time.Now()
	command(t, "health", "--config", setup(t, listener.Addr().String(), true), "--timeout", "200ms").want(t, 1, "health check")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestReachable(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:7443": "127.0.0.1:7443", ":7443": "localhost:7443", "0.0.0.0:7443": "localhost:7443", "[::]:7443": "localhost:7443",
		"broker.example.org:7443": "broker.example.org:7443", "[2001:db8::1]:7443": "[2001:db8::1]:7443",
	} {
		if got := reachable(address); got != want {
			t.Errorf("reachable(%q) = %q, want %q", address, got, want)
		}
	}
}

// TestServeThatCannot names what is in the way.
func TestServeThatCannot(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := setup(t, listener.Addr().String(), true)
	command(t, "serve", "--config", taken).want(t, 1, "listen", listener.Addr().String(), "address already in use")

	locked := setup(t, harness.UnusedAddress(t), false)
	serve(t, locked)
	healthy(t, locked)
	content, err := os.ReadFile(locked)
	if err != nil {
		t.Fatal(err)
	}
	second := write(t, "second.yaml", regexp.MustCompile(`address: \S+`).ReplaceAllString(string(content), "address: "+harness.UnusedAddress(t)))
	command(t, "serve", "--config", second).want(t, 1, "STORE_LOCKED")

	garbled := setup(t, harness.UnusedAddress(t), true)
	if err := os.WriteFile(filepath.Join(filepath.Dir(garbled), "cert.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "serve", "--config", garbled).want(t, 1, "server certificate")
	command(t, "health", "--config", garbled).want(t, 1, "holds no certificate")
}

// TestDev runs the whole demonstration within this process.
func TestDev(t *testing.T) {
	got := command(t, "dev", "--once", "--dir", t.TempDir())
	got.want(t, 0)
	for _, want := range []string{`"accessToken"`, "SECRET_DESTROYED", "PermissionDenied"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("it does not show %s", want)
		}
	}
	if strings.Contains(got.stdout+got.stderr, "s3cr3t") {
		t.Error("it shows a secret")
	}
}
