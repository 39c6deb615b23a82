package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// whoami returns the name that the server logs for p, or "" for nobody.
func (w *world) whoami(t *testing.T, p *peer) string {
	t.Helper()
	_, err := p.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/nobody"})
	line := w.logs.last(t)
	name, _ := line["caller"].(string)
	if got := problemOf(err).code; (name == "") != (got == codes.Unauthenticated) {
		t.Errorf("the log names the caller %q and the answer is %v", name, err)
	}
	return name
}

func TestIdentityOfACertificate(t *testing.T) {
	const operator, crm = "spiffe://example.org/operator", "spiffe://example.org/crm"
	callers := []server.Caller{
		{Name: "operator", Identity: operator, Role: server.RoleOperator},
		{Name: "crm", Identity: crm, Role: server.RoleCaller},
		{Name: "crm", Identity: "dns:crm.example.org", Role: server.RoleCaller},
		{Name: "crm-operator", Identity: "dns:crm-operator.example.org", Role: server.RoleOperator},
		{Name: "erp", Identity: "dns:ERP.example.org", Role: server.RoleCaller},
		{Name: "web", Identity: "https://web.example.org/id", Role: server.RoleCaller},
	}
	tests := []struct {
		name  string
		names names
		want  string
	}{
		{"SPIFFE id", names{uris: []string{operator}}, "operator"},
		{"URI SAN", names{uris: []string{"https://web.example.org/id"}}, "web"},
		{"DNS SAN", names{dns: []string{"crm.example.org"}}, "crm"},
		{"DNS SAN in capitals", names{dns: []string{"CRM.Example.ORG"}}, "crm"},
		{"configured in capitals", names{dns: []string{"erp.example.org"}}, "erp"},
		{"one of several names", names{dns: []string{"a.example.org", "crm.example.org"}}, "crm"},
		{"two names of one caller", names{uris: []string{crm}, dns: []string{"crm.example.org"}}, "crm"},
		{"no name", names{}, ""},
		{"unknown URI", names{uris: []string{"spiffe://example.org/stranger"}}, ""},
		{"unknown DNS name", names{dns: []string{"stranger.example.org"}}, ""},
		{"prefix of an id", names{uris: []string{"spiffe://example.org/crm/x"}}, ""},
		{"other trust domain", names{uris: []string{"spiffe://example.com/crm"}}, ""},
		{"wildcard", names{dns: []string{"*.example.org"}}, ""},
		{"two SPIFFE ids", names{uris: []string{crm, "spiffe://example.org/x"}}, ""},
		{"two SPIFFE ids of one caller", names{uris: []string{crm, crm}}, ""},
		{"SPIFFE id and another URI", names{uris: []string{crm, "https://example.org/x"}}, ""},
		{"names of two callers", names{uris: []string{crm}, dns: []string{"crm-operator.example.org"}}, ""},
		{"DNS names of two callers", names{dns: []string{"crm.example.org", "erp.example.org"}}, ""},
		{"DNS name as a URI", names{uris: []string{"dns:crm.example.org"}}, ""},
		{"DNS name as an identity", names{dns: []string{"dns:crm.example.org"}}, ""},
		{"insecure identity as a URI", names{uris: []string{server.InsecureIdentity}}, ""},
		{"insecure identity as a DNS name", names{dns: []string{server.InsecureIdentity}}, ""},
	}
	a := newAuthority(t)
	files := a.serverFiles(t)
	w := newWorld(t, setup{tls: &files, callers: callers})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := w.whoami(t, w.connectTLS(t, a, a.issue(t, test.names))); got != test.want {
				t.Errorf("got caller %q, want %q", got, test.want)
			}
		})
	}
	t.Run("common name", func(t *testing.T) { // "subject" in all of these
		if got := w.whoami(t, w.connectTLS(t, a, a.issue(t, names{}))); got != "" {
			t.Errorf("got caller %q, want nobody", got)
		}
	})
}

func TestHandshakesRefused(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	files := a.serverFiles(t)
	w := newWorld(t, setup{tls: &files, socket: true, callers: []server.Caller{{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator}}})
	tests := []struct {
		name        string
		certificate *tls.Certificate
		want        string
	}{
		{"of another authority of that name", other.caller(t, operatorIdentity), "unknown certificate authority"},
		{"expired", a.issue(t, names{uris: []string{operatorIdentity}, lifetime: -time.Hour}), "expired certificate"},
		{"for servers", a.issue(t, names{uris: []string{operatorIdentity}, usage: x509.ExtKeyUsageServerAuth}), "bad certificate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := w.connectTLS(t, a, test.certificate)
			for _, err := range []error{lookup(t, p), healthy(t, p)} {
				if got := problemOf(err); got.code != codes.Unavailable || got.details != 0 {
					t.Errorf("got %v, want a connection that fails", err)
				}
			}
			// In TLS 1.3 the client learns of it with its first read.
			conn := w.dialTLS(t, &tls.Config{
				RootCAs: a.pool(), ServerName: serverName, NextProtos: []string{"h2"},
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.certificate, nil },
			})
			must(t, conn.HandshakeContext(t.Context()))
			if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	if lines := w.logs.lines(t, "rpc"); len(lines) != 0 {
		t.Errorf("a call got through: %v", lines)
	}
	t.Run("before TLS 1.3", func(t *testing.T) {
		conn := w.dialTLS(t, &tls.Config{RootCAs: a.pool(), ServerName: serverName, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12})
		if err := conn.HandshakeContext(t.Context()); err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("got %v, want TLS 1.2 refused", err)
		}
	})
}

func (w *world) dialTLS(t *testing.T, config *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := w.dial(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	return tls.Client(raw, config)
}

func lookup(t *testing.T, p *peer) error {
	_, err := p.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/acme"})
	return err
}

func healthy(t *testing.T, p *peer) error {
	_, err := p.health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	return err
}

// TestCertificateThatExpiresOnAConnection: the connection lives on, its calls are
// refused from the moment on, and health still answers.
func TestCertificateThatExpiresOnAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		files := a.serverFiles(t)
		w := newWorld(t, setup{tls: &files, callers: []server.Caller{{Name: "operator", Identity: operatorIdentity, Role: server.RoleOperator}}})
		p := w.connectTLS(t, a, a.issue(t, names{uris: []string{operatorIdentity}, lifetime: time.Minute}))
		w.register(t, p, "acme")
		time.Sleep(59 * time.Second)
		if err := lookup(t, p); err != nil {
			t.Errorf("a second before: got %v, want no error", err)
		}
		time.Sleep(2 * time.Second)
		requireProblem(t, lookup(t, p), codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
		if err := healthy(t, p); err != nil {
			t.Errorf("health: got %v, want no error", err)
		}
	})
}

// newBroker returns a broker that nobody asks anything.
func newBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.New(broker.Config{Store: brokertest.NewMemory(), RequestToken: brokertest.NewUpstream().RequestToken, CheckSecret: checkSecret})
	must(t, err)
	t.Cleanup(b.Close)
	return b
}

func TestNewRefuses(t *testing.T) {
	a := newAuthority(t)
	files := a.serverFiles(t)
	b := newBroker(t)
	caller := func(name, identity string, role server.Role) server.Config {
		return server.Config{Broker: b, Plaintext: true, Callers: []server.Caller{{Name: name, Identity: identity, Role: role}}}
	}
	missing := files
	missing.KeyFile = files.KeyFile + ".gone"
	swapped := files
	swapped.ClientCAFile = files.KeyFile
	tests := []struct {
		name, want string
		cfg        server.Config
	}{
		{"no broker", "Broker", server.Config{Plaintext: true}},
		{"neither TLS nor plaintext", "TLS", server.Config{Broker: b}},
		{"TLS and plaintext", "TLS", server.Config{Broker: b, Plaintext: true, TLS: &files}},
		{"missing key", "server.key.gone", server.Config{Broker: b, TLS: &missing}},
		{"key as client CA", "holds a PRIVATE KEY", server.Config{Broker: b, TLS: &swapped}},
		{"insecure identity with TLS", server.InsecureIdentity, server.Config{
			Broker: b, TLS: &files, Callers: []server.Caller{{Name: "x", Identity: server.InsecureIdentity, Role: server.RoleCaller}},
		}},
		{"user without a UNIX socket", "unix:uid=1", server.Config{
			Broker: b, TLS: &files, Callers: []server.Caller{{Name: "x", Identity: "unix:uid=1", Role: server.RoleCaller}},
		}},
		{"common name that does not count", "cn:crm", server.Config{
			Broker: b, TLS: &files, Callers: []server.Caller{{Name: "x", Identity: "cn:crm", Role: server.RoleCaller}},
		}},
		{"no name", "name", caller("", operatorIdentity, server.RoleCaller)},
		{"long name", "name", caller(strings.Repeat("x", 129), operatorIdentity, server.RoleCaller)},
		{"no role", "role", caller("x", operatorIdentity, "")},
		{"unknown role", `"admin"`, caller("x", operatorIdentity, "admin")},
		{"no identity", "identity", caller("x", "", server.RoleCaller)},
		{"bare name", "identity", caller("x", "crm.example.org", server.RoleCaller)},
		{"wildcard", "identity", caller("x", "dns:*.example.org", server.RoleCaller)},
		{"empty DNS name", "identity", caller("x", "dns:", server.RoleCaller)},
		{"same identity twice", "already", server.Config{Broker: b, Plaintext: true, Callers: []server.Caller{
			{Name: "x", Identity: "dns:crm.example.org", Role: server.RoleCaller}, {Name: "y", Identity: "dns:CRM.example.org", Role: server.RoleOperator},
		}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := server.New(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that names %s", err, test.want)
			}
		})
	}
}

// addressed is a listener in memory that claims to be at an address.
type addressed struct {
	*bufconn.Listener
	at net.Addr
}

// Addr implements net.Listener.
func (a addressed) Addr() net.Addr { return a.at }

func TestPlaintextIsServedOnLoopbackOnly(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	tests := []struct {
		name   string
		at     net.Addr
		served bool
	}{
		{"127.0.0.1", tcp("127.0.0.1"), true},
		{"127.9.9.9", tcp("127.9.9.9"), true},
		{"::1", tcp("::1"), true},
		{"mapped loopback", tcp("::ffff:127.0.0.1"), true},
		{"unix socket", &net.UnixAddr{Name: "broker.sock", Net: "unix"}, true},
		{"0.0.0.0", tcp("0.0.0.0"), false},
		{"::", tcp("::"), false},
		{"no address", &net.TCPAddr{Port: 1}, false},
		{"private", tcp("10.0.0.1"), false},
		{"link-local", tcp("fe80::1"), false},
		{"another kind", &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := server.New(server.Config{Broker: newBroker(t), Plaintext: true})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a listener that is served ends at once, without an error
			listener := addressed{bufconn.Listen(1024), test.at}
			if err := s.Serve(ctx, listener); (err == nil) != test.served {
				t.Errorf("got %v, want served: %t", err, test.served)
			}
			if _, err := listener.Accept(); err == nil {
				t.Error("the listener is still open")
			}
		})
	}
}

func TestOnlyUNIXSocketsWithoutTLS(t *testing.T) {
	for name, listeners := range map[string][]net.Listener{
		"TCP":  {addressed{bufconn.Listen(1024), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}},
		"both": {addressed{bufconn.Listen(1024), &net.UnixAddr{Name: "s", Net: "unix"}}, addressed{bufconn.Listen(1024), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}},
		"none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := server.New(server.Config{Broker: newBroker(t), UNIX: true})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // if it is served after all, it ends
			if err := s.Serve(ctx, listeners...); err == nil || !strings.Contains(err.Error(), "refusing") {
				t.Errorf("got %v, want a refusal", err)
			}
			for _, listener := range listeners {
				if _, err := listener.Accept(); err == nil {
					t.Error("a listener is still open")
				}
			}
		})
	}
}

func TestPlaintextOnAllInterfaces(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	s, err := server.New(server.Config{Broker: newBroker(t), Plaintext: true})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // if it is served after all, it ends
	if err := s.Serve(ctx, listener); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := net.DialTimeout("tcp", listener.Addr().String(), time.Second); err == nil {
		t.Error("the listener is still open")
	}
}
