package plugin_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/plugin"
	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

func TestCheck(t *testing.T) {
	secured := func(change func(*plugin.Config)) plugin.Config {
		c := plugin.Config{Name: "hr", Address: "rotator.example:7443", CAFile: "ca", CertificateFile: "c", KeyFile: "k", Shape: broker.ShapeOverlapping}
		change(&c)
		return c
	}
	tests := []struct {
		name   string
		config plugin.Config
		want   []string
	}{
		{"sound", secured(func(*plugin.Config) {}), nil},
		{"sound socket", plugin.Config{Name: "hr", Address: "unix:/run/hr.sock", Shape: broker.ShapeReplaced}, nil},
		{"sound loopback", plugin.Config{Name: "hr", Address: "[::1]:1", InsecureLoopback: true, Shape: broker.ShapeActivated, WorksBeforeActivation: true}, nil},
		{"nothing", plugin.Config{}, []string{"name", "address", "shape"}},
		{"no files", plugin.Config{Name: "hr", Address: "a:1", Shape: broker.ShapeOverlapping}, []string{"ca_file", "certificate_file", "key_file"}},
		{"plaintext elsewhere", plugin.Config{Name: "hr", Address: "10.0.0.1:1", InsecureLoopback: true, Shape: broker.ShapeOverlapping}, []string{"insecure_loopback"}},
		{"plaintext and files", secured(func(c *plugin.Config) { c.Address, c.InsecureLoopback = "127.0.0.1:1", true }), []string{"insecure_loopback"}},
		{"socket and files", secured(func(c *plugin.Config) { c.Address = "unix:/a" }), []string{"address"}},
		{"relative socket", plugin.Config{Name: "hr", Address: "unix:a", Shape: broker.ShapeOverlapping}, []string{"address"}},
		{"name", secured(func(c *plugin.Config) { c.Name = "HR" }), []string{"name"}},
		{"by hand", secured(func(c *plugin.Config) { c.Shape = broker.ShapeByHand }), []string{"shape"}},
		{"works before without activation", secured(func(c *plugin.Config) { c.WorksBeforeActivation = true }), []string{"works_before_activation"}},
		{"times", secured(func(c *plugin.Config) { c.Timeout, c.Propagation = time.Millisecond, -1 }), []string{"timeout", "propagation"}},
		{"parameters", secured(func(c *plugin.Config) { c.Parameters, c.OptionalParameters = []string{"A"}, []string{"b", "b"} }), []string{"parameters[0]", "optional_parameters[1]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			test.config.Check(func(key, _ string, _ ...any) { got = append(got, key) })
			if !slices.Equal(got, test.want) {
				t.Errorf("complaints about %v, want %v", got, test.want)
			}
			if test.want == nil {
				return
			}
			if _, err := plugin.New(test.config); err == nil {
				t.Error("New took it")
			}
		})
	}
}

// TestFilesAreReadAgain replaces the broker's certificate and the authorities while a
// Rotator lives: the next connection uses them.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func() *tls.Config { // writes the broker's files too
		t.Helper()
		authority, err := devpki.New("rotators")
		if err != nil {
			t.Fatal(err)
		}
		certificate, key, err := authority.Caller("spiffe://example.org/tokenbroker")
		if err != nil {
			t.Fatal(err)
		}
		write("ca.pem", authority.PEM())
		write("c.pem", certificate)
		write("k.pem", key)
		certificate, key, err = authority.Server("rotator.test")
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(authority.Certificate())
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	}
	f := &fake{config: plugin.Config{Shape: broker.ShapeOverlapping}}
	serve := func(address string, config *tls.Config) (string, func()) {
		t.Helper()
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
		rotatorv1.RegisterRotatorServiceServer(server, f)
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(listener) }()
		return listener.Addr().String(), func() { server.Stop(); <-done }
	}
	address, stop := serve("127.0.0.1:0", issue())
	r := dial(t, plugin.Config{
		Name: "fake", Address: address, ServerName: "rotator.test", Shape: broker.ShapeOverlapping,
		CAFile: filepath.Join(dir, "ca.pem"), CertificateFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem"),
	})
	if err := r.Revoke(t.Context(), exampleCall()); err != nil {
		t.Fatal(err)
	}
	stop()
	_, stop = serve(address, issue())
	defer stop()
	if err := eventually(func() error { return r.Revoke(t.Context(), exampleCall()) }); err != nil {
		t.Errorf("after all certificates were replaced: %v", err)
	}
	write("c.pem", []byte("half written"))
	if _, err := plugin.New(plugin.Config{
		Name: "fake", Address: address, Shape: broker.ShapeOverlapping,
		CAFile: filepath.Join(dir, "ca.pem"), CertificateFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem"),
	}); err == nil {
		t.Error("New took a certificate that is none")
	}
}

// eventually repeats do until it succeeds, for at most 20 s.
func eventually(do func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		if err := do(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// TestWrongServerName does not talk to another server of the same authority.
func TestWrongServerName(t *testing.T) {
	authority, err := devpki.New("rotators")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.Server("other.test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	paths := map[string]string{}
	for name, content := range map[string][]byte{"ca": authority.PEM(), "c": certificate, "k": key} {
		paths[name] = filepath.Join(dir, name)
		if err := os.WriteFile(paths[name], content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})))
	rotatorv1.RegisterRotatorServiceServer(server, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	r := dial(t, plugin.Config{
		Name: "fake", Address: listener.Addr().String(), ServerName: "rotator.test", Shape: broker.ShapeOverlapping,
		CAFile: paths["ca"], CertificateFile: paths["c"], KeyFile: paths["k"],
	})
	err = r.Revoke(t.Context(), exampleCall())
	var unsent *broker.UnsentError
	if broker.ReasonOf(err) != broker.ReasonUpstreamConnect || !errors.As(err, &unsent) || len(f.seen) > 0 {
		t.Errorf("got %v, %d requests, want %s of what was not sent", err, len(f.seen), broker.ReasonUpstreamConnect)
	}
}
