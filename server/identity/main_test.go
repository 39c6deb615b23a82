package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func authority(t testing.TB, name string) *devpki.Authority {
	t.Helper()
	a, err := devpki.New(name)
	must(t, err)
	return a
}

func intermediate(t testing.TB, a *devpki.Authority, name string) *devpki.Authority {
	t.Helper()
	below, err := a.Intermediate(name)
	must(t, err)
	return below
}

// crm is the identity of most callers here.
const crm = "spiffe://example.org/crm"

// names makes the template of a caller's certificate: URIs, and else DNS names.
func names(t testing.TB, list ...string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "subject"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, name := range list {
		if !strings.Contains(name, ":") {
			template.DNSNames = append(template.DNSNames, name)
			continue
		}
		uri, err := url.Parse(name)
		must(t, err)
		template.URIs = append(template.URIs, uri)
	}
	return template
}

// issue returns a certificate of a, followed by those of authorities below the root.
func issue(t testing.TB, a *devpki.Authority, template *x509.Certificate, above ...*devpki.Authority) *tls.Certificate {
	t.Helper()
	certificate, key, err := a.Issue(template)
	must(t, err)
	for _, authority := range above {
		certificate = append(certificate, authority.PEM()...)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	must(t, err)
	return &pair
}

// revoke returns a's list of certificates, PEM; changes edit what it is made of.
func revoke(t testing.TB, a *devpki.Authority, revoked []*x509.Certificate, changes ...func(*x509.RevocationList)) []byte {
	t.Helper()
	template := x509.RevocationList{}
	for _, certificate := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: certificate.SerialNumber, RevocationTime: time.Now().Add(-time.Minute),
		})
	}
	for _, change := range changes {
		change(&template)
	}
	der, err := a.RevocationList(template)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// files is a folder of what a listener is made of.
type files struct {
	dir     string
	serving *devpki.Authority
}

func newFiles(t testing.TB) *files {
	t.Helper()
	f := &files{dir: t.TempDir(), serving: authority(t, "of servers")}
	certificate, key, err := f.serving.Server("localhost")
	must(t, err)
	f.write(t, "server.pem", certificate)
	f.write(t, "server-key.pem", key)
	return f
}

// write replaces a file at once and returns its path.
func (f *files) write(t testing.TB, name string, content ...[]byte) string {
	t.Helper()
	path := filepath.Join(f.dir, name)
	must(t, os.WriteFile(path+".new", bytes.Join(content, nil), 0o600))
	must(t, os.Rename(path+".new", path))
	return path
}

// simple is a listener that trusts the given authorities, and has their lists if there
// are any.
func (f *files) simple(t testing.TB, authorities []*devpki.Authority, lists ...[]byte) identity.TLS {
	t.Helper()
	var bundle []byte
	for _, a := range authorities {
		bundle = append(bundle, a.PEM()...)
	}
	cfg := f.settings()
	cfg.ClientCAFile = f.write(t, "ca.pem", bundle)
	if lists != nil {
		cfg.CRLFiles = []string{f.write(t, "crl.pem", lists...)}
	}
	return cfg
}

func (f *files) settings() identity.TLS {
	return identity.TLS{CertificateFile: filepath.Join(f.dir, "server.pem"), KeyFile: filepath.Join(f.dir, "server-key.pem")}
}

// logs collects log lines.
type logs struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count returns how many lines have text in them.
func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// served is a gRPC server whose health checks answer with who asks.
type served struct {
	*identity.Credentials
	address string
	serving *devpki.Authority
	logs    *logs
}

// serve serves the configuration on a real socket.
func (f *files) serve(t testing.TB, cfg identity.TLS) *served {
	t.Helper()
	s := &served{serving: f.serving, logs: &logs{}}
	reloader, err := identity.NewReloader(cfg, slog.New(slog.NewTextHandler(s.logs, nil)))
	must(t, err)
	s.Credentials = &identity.Credentials{TLS: reloader}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.start(t, listener)
	return s
}

func (s *served) start(t testing.TB, listeners ...net.Listener) {
	server := grpc.NewServer(grpc.Creds(s.Credentials), grpc.UnaryInterceptor(
		func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			info, ok := identity.FromContext(ctx)
			if !ok {
				return nil, status.Error(codes.Internal, "no info")
			}
			peer, err := info.Peer(time.Now())
			var refusal *identity.Error
			switch {
			case errors.As(err, &refusal):
				return nil, status.Error(codes.Unauthenticated, string(refusal.Cause))
			case err != nil:
				return nil, status.Error(codes.Internal, err.Error())
			}
			return nil, status.Error(codes.Aborted, strings.Join(peer.Identities(), " "))
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	s.address = listeners[0].Addr().String()
	var serving sync.WaitGroup
	for _, listener := range listeners {
		serving.Go(func() { _ = server.Serve(listener) })
	}
	t.Cleanup(func() { server.Stop(); serving.Wait() })
}

// connection asks who it is.
type connection struct{ *grpc.ClientConn }

func (s *served) connect(t testing.TB, certificate *tls.Certificate) connection {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.serving.Certificate())
	return dial(t, s.address, credentials.NewTLS(tlsConfig(roots, certificate)))
}

// tlsConfig presents certificate whatever the server asks for; it may be nil.
func tlsConfig(roots *x509.CertPool, certificate *tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return config
}

func dial(t testing.TB, target string, creds credentials.TransportCredentials) connection {
	t.Helper()
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	if !strings.HasPrefix(target, "unix:") {
		target = "passthrough:///" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return connection{conn}
}

// who returns the identities of a connection, the cause why there are none, or
// "handshake: " and why there is no connection.
func (c connection) who(t testing.TB) string {
	t.Helper()
	_, err := healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
	switch st := status.Convert(err); st.Code() {
	case codes.Aborted, codes.Unauthenticated:
		return st.Message()
	case codes.Unavailable:
		return "handshake: " + st.Message()
	default:
		t.Fatalf("got %v", err)
		return ""
	}
}
