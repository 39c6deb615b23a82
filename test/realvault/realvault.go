// Package realvault runs a real HashiCorp Vault (or OpenBao) for tests: Raft storage, a file audit device, a KV v2 mount, everything
// over its HTTP API on loopback, so that what is tested is what Vault does and not what we believe that it does.
//
// The program is, in this order: the server at TOKENBROKER_TEST_VAULT_ADDR, `vault` or `bao` on PATH, the one that `make
// test-servers` built. Without any of them tests skip on a developer's machine and fail in CI; see package harness.
//
// Start gives a test a server of its own, which it may seal and kill. Shared gives all tests of a package one server; each makes
// mounts of its own with NewKV. The package speaks to Vault with net/http alone, never through the client that is under test.
package realvault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// DefaultKV is the name of the KV v2 mount that a server has unless WithKV names another.
const DefaultKV = "tokenbroker"

// Option changes how a server is started.
type Option func(*options)

// options are what Option changes.
type options struct {
	kv    string
	inMem bool
	tls   bool
	host  string // host:port to listen on; "" leaves it to the server
}

// WithKV names the KV v2 mount that is made at the start, instead of DefaultKV.
func WithKV(name string) Option { return func(o *options) { o.kv = name } }

// WithTLS serves HTTPS with a certificate of a self-made authority; Server.CAFile has the authority.
func WithTLS() Option { return func(o *options) { o.tls = true } }

// InMemory keeps the data in memory instead of Raft: it starts a second sooner, has no cluster, and Stop loses everything.
func InMemory() Option { return func(o *options) { o.inMem = true } }

// reporter is told what went wrong; a testing.TB is one.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Server is one Vault as one test sees it. Its methods end the test when Vault refuses, so that a test reads as a list of steps.
//
// It is safe for concurrent use, apart from Seal, Unseal, Stop and Restart, which belong to one goroutine, and apart from the rule
// that only the test's own goroutine may end it.
type Server struct {
	*instance
	t      reporter
	shared bool
}

// Start starts a server for this test alone, initialised, unsealed and with its KV mount, and kills it when the test ends. A failed
// test logs the end of the server's output.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	harness.SkipIfOff(t)
	// A server that is started again needs its address, which is nobody else's meanwhile.
	address := harness.UnusedAddress(t)
	in, err := open(t.TempDir(), append(slices.Clone(opts), func(o *options) { o.host = address }))
	switch {
	case errors.Is(err, ErrMissing):
		harness.Missing(t, err)
	case errors.Is(err, errUnfit):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Vault's output:\n%s", in.output())
		}
		in.close()
	})
	return &Server{instance: in, t: t}
}

// Open starts a server outside of a test, e.g. for a benchmark program. Its methods panic where they would end a test. Close it.
func Open(opts ...Option) (*Server, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-vault-")
	if err != nil {
		return nil, fmt.Errorf("starting Vault: %w", err)
	}
	in, err := open(dir, opts)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	in.remove = dir
	return &Server{instance: in, t: panicker{}}, nil
}

// Close kills a server of Open and removes its data. Those of Start and Shared are closed without it.
func (s *Server) Close() { s.close() }

// one is the server of Shared.
var one struct {
	mu     sync.Mutex // guards the rest
	server *Server
	err    error
}

// Shared returns the one server of this test binary, started with the default options by whoever asks first. It cannot be sealed or
// stopped. Wrap the M of TestMain in Closing, so that it ends before the binary does.
func Shared(t testing.TB) *Server {
	t.Helper()
	harness.SkipIfOff(t)
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.server == nil && one.err == nil {
		one.server, one.err = Open()
	}
	if errors.Is(one.err, ErrMissing) {
		harness.Missing(t, one.err)
	}
	if one.err != nil {
		t.Fatal(one.err)
	}
	return &Server{instance: one.server.instance, t: t, shared: true}
}

// Closing wraps a *testing.M so that Run closes the server of Shared once the tests are over:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(realvault.Closing(m)) }
//
// The order matters: goleak looks for goroutines after Run, and a running server has some.
func Closing(m interface{ Run() int }) interface{ Run() int } { return closing{m} }

// closing is what Closing returns.
type closing struct{ m interface{ Run() int } }

// Run runs the tests and closes the shared server.
func (c closing) Run() int {
	code := c.m.Run()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.server != nil {
		one.server.Close()
		one.server, one.err = nil, errors.New("the shared Vault is closed: the tests are over")
	}
	return code
}

// open starts a server in the folder and brings it to where it can be used.
func open(dir string, opts []Option) (*instance, error) {
	o := options{kv: DefaultKV}
	for _, opt := range opts {
		opt(&o)
	}
	in := &instance{options: o, dir: dir}
	if address := os.Getenv("TOKENBROKER_TEST_VAULT_ADDR"); address != "" {
		if err := in.useExternal(address); err != nil {
			return nil, err
		}
	} else if err := in.startOwn(); err != nil {
		in.close()
		return nil, err
	}
	if err := in.mountKV(in.kv, 2); err != nil {
		in.close()
		return nil, err
	}
	if in.external {
		in.unmount = in.kv
	}
	return in, nil
}

// errUnfit tells that the server of the environment is not what the test needs.
var errUnfit = errors.New("the Vault at TOKENBROKER_TEST_VAULT_ADDR does not fit")

// useExternal takes the server of the environment. The variable is our own and not VAULT_ADDR, so that nobody tests against the Vault
// that their shell happens to point at. Nothing that is there already is touched: the mount has a name of its own unless the test named
// one, and goes when the test ends.
func (in *instance) useExternal(address string) error {
	if in.tls && !strings.HasPrefix(address, "https://") {
		return fmt.Errorf("%w: this test needs https", errUnfit)
	}
	if in.kv == DefaultKV {
		in.kv = uniqueMount()
	}
	in.address, in.token, in.external = address, os.Getenv("VAULT_TOKEN"), true
	if in.token == "" {
		return errors.New("TOKENBROKER_TEST_VAULT_ADDR is set: set VAULT_TOKEN too, to a token with root's rights")
	}
	in.caFile = os.Getenv("VAULT_CACERT")
	return in.trust()
}

// startOwn starts, initialises, unseals and audits a server of our own.
func (in *instance) startOwn() error {
	if in.tls {
		authority, err := harness.NewAuthority(in.dir)
		if err != nil {
			return err
		}
		if in.certFile, in.keyFile, err = authority.Loopback("vault"); err != nil {
			return err
		}
		in.caFile = authority.CAFile
	}
	if err := in.trust(); err != nil {
		return err
	}
	if err := in.launch(); err != nil {
		return err
	}
	var made struct {
		Keys  []string `json:"keys_base64"`
		Token string   `json:"root_token"`
	}
	if err := in.call("PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &made); err != nil {
		return fmt.Errorf("initialising Vault: %w", err)
	}
	if len(made.Keys) != 1 || made.Token == "" {
		return errors.New("initialising Vault: its answer has no key or no token")
	}
	in.key, in.token = made.Keys[0], made.Token
	if err := in.unseal(); err != nil {
		return err
	}
	in.auditLog = filepath.Join(in.dir, "audit.log")
	device := map[string]any{"type": "file", "options": map[string]string{"file_path": in.auditLog}}
	if err := in.call("PUT", "sys/audit/file", device, nil); err != nil {
		return fmt.Errorf("turning Vault's audit device on: %w", err)
	}
	return nil
}

// trust makes the HTTP client.
func (in *instance) trust() error {
	// No connection is kept: Stop breaks it, and leak detectors would count its goroutines.
	transport := &http.Transport{DisableKeepAlives: true}
	if in.caFile != "" {
		pem, err := os.ReadFile(in.caFile)
		if err != nil {
			return fmt.Errorf("reading the certificate authority of Vault: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("reading the certificate authority of Vault: no certificate in %s", in.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	in.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return nil
}

// panicker reports outside of a test.
type panicker struct{}

// Helper does nothing.
func (panicker) Helper() {}

// Fatalf panics.
func (panicker) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
