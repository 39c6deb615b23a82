package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// site is a deployment: a folder with certificates and a configuration, from which
// the server can be started again and again.
type site struct {
	dir    string
	ca     *devpki.Authority
	config map[string]any
	// heard is all that peers were answered, GetToken apart; given is what GetToken
	// answered.
	heard, given logBuffer
}

// newSite makes a deployment with a store, as the configuration spells it, that
// may ask authorization servers on loopback over TLS, verified with trusted (PEM).
func newSite(t testing.TB, store map[string]any, trusted ...[]byte) *site {
	t.Helper()
	ca, err := devpki.New("e2e")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{dir: t.TempDir(), ca: ca}
	certificate, key, err := ca.Server("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	// The authority itself is among the trusted, so that the file is never empty.
	bundle := ca.PEM()
	for _, pem := range trusted {
		bundle = append(bundle, pem...)
	}
	s.config = map[string]any{
		"listen": map[string]any{
			"address": "127.0.0.1:0", "certificate_file": s.write(t, "server.pem", certificate),
			"key_file": s.write(t, "server-key.pem", key), "client_ca_file": s.write(t, "ca.pem", ca.PEM()),
		},
		"callers": []map[string]any{
			{"name": "crm", "identity": callerIdentity, "role": "caller"},
			{"name": "oncall", "identity": operatorIdentity, "role": "operator"},
		},
		"store":    store,
		"audit":    map[string]any{"key_file": filepath.Join(s.dir, "audit.key"), "file": map[string]any{"path": filepath.Join(s.dir, "audit.log")}},
		"upstream": map[string]any{"ca_file": s.write(t, "upstream.pem", bundle), "allowed_addresses": []string{"127.0.0.0/8"}},
		"log":      map[string]any{"level": "debug"},
		"admin":    map[string]any{"address": "127.0.0.1:0"},
	}
	return s
}

// embeddedStore is the configuration of a store in one file of dir.
func embeddedStore(dir string) map[string]any {
	return map[string]any{"embedded": map[string]any{"file": filepath.Join(dir, "store.db"), "key_file": filepath.Join(dir, "store.key")}}
}

// write writes a file of the deployment and returns its path.
func (s *site) write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// node is a running server and its two usual peers.
type node struct {
	*process
	address          string
	caller, operator *peer
}

// launch starts the server and waits until it listens, be its store usable or not.
func (s *site) launch(t testing.TB, path string) *node {
	t.Helper()
	n, err := s.tryLaunch(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *site) tryLaunch(t testing.TB, path string) (*node, error) {
	t.Helper()
	encoded, err := yaml.Marshal(s.config)
	if err != nil {
		return nil, err
	}
	n := &node{process: start(t, path, s.dir, nil, "serve", "--config", s.write(t, "config.yaml", encoded))}
	if n.address, err = n.serving(); err != nil {
		return nil, err
	}
	n.caller = s.dial(t, n.address, s.certificate(t, callerIdentity))
	n.operator = s.dial(t, n.address, s.certificate(t, operatorIdentity))
	return n, nil
}

// start is launch and the wait for a store that was read.
func (s *site) start(t testing.TB, path string) *node {
	t.Helper()
	n := s.launch(t, path)
	if err := n.ready(t); err != nil {
		t.Fatal(err)
	}
	return n
}

// ready waits until health checks say that the store was read.
func (n *node) ready(t testing.TB) error {
	return within(startsWithin, func() error {
		select {
		case <-n.Done():
			return nil // the next call finds out
		default:
		}
		answer, err := n.caller.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: pb.TokenService_ServiceDesc.ServiceName})
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("health: %v, %v", answer.GetStatus(), err)
		}
		return nil
	})
}

// healthOf asks as a load balancer does.
func (n *node) healthOf(t testing.TB, service string) string {
	t.Helper()
	answer, err := n.caller.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetStatus().String()
}

// certificate issues a caller's certificate.
func (s *site) certificate(t testing.TB, identity string) *tls.Certificate {
	t.Helper()
	certificate, key, err := s.ca.Caller(identity)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// trusting is a TLS configuration that believes the site's authority alone.
func (s *site) trusting() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.PEM())
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
}

// dial connects over TLS, with a certificate unless it is nil.
func (s *site) dial(t testing.TB, address string, certificate *tls.Certificate) *peer {
	t.Helper()
	config := s.trusting()
	if certificate != nil {
		config.GetClientCertificate = insist(*certificate)
	}
	return newPeer(t, address, credentials.NewTLS(config), &s.heard, &s.given)
}

// callsWithin is the default deadline of a call: longer than the broker's own
// timeouts, so that it is the broker that says what went wrong.
const callsWithin = 40 * time.Second
