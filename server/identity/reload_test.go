package identity_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

// TestOpenConnections: what changes counts from the next call on.
func TestOpenConnections(t *testing.T) {
	f, first, second := newFiles(t), authority(t, "first"), authority(t, "second")
	both, of := []*devpki.Authority{first, second}, func(l ...*x509.Certificate) []*x509.Certificate { return l }
	certificate, other := issue(t, first, names(t, crm)), issue(t, second, names(t, "spiffe://example.org/erp"))
	cfg := f.simple(t, both[:1], revoke(t, first, nil))
	s := f.serve(t, cfg)
	conn := s.connect(t, certificate)
	steps := []struct {
		name   string
		change func()
		want   string
		fails  string // what Reload complains of
	}{
		{"at first", func() {}, crm, ""},
		{"revoked", func() { f.write(t, "crl.pem", revoke(t, first, of(certificate.Leaf))) }, "revoked", ""},
		{"half-written list", func() { f.write(t, "crl.pem", revoke(t, first, nil)[:200]) }, "revoked", "crl.pem"},
		{"list of another authority", func() { f.write(t, "crl.pem", revoke(t, second, nil)) }, "revoked", "none of the bundle's authorities"},
		{"list gone", func() { must(t, os.Remove(cfg.CRLFiles[0])) }, "revoked", "no such file"},
		{"list lifted", func() { f.write(t, "crl.pem", revoke(t, first, nil)) }, crm, ""},
		{"authorities half-written", func() { f.write(t, "ca.pem", first.PEM(), second.PEM()[:99]) }, crm, "ca.pem"},
		{"authority added", func() { f.write(t, "ca.pem", first.PEM(), second.PEM()) }, crm, ""},
		{"authority replaced", func() { f.write(t, "ca.pem", second.PEM()) }, "unknown_authority", "none of the bundle's authorities"},
		{"list replaced", func() { f.write(t, "crl.pem", revoke(t, second, nil)) }, "unknown_authority", ""},
		{"authority back", func() { f.write(t, "ca.pem", first.PEM()) }, crm, "none of the bundle's authorities"},
	}
	for _, step := range steps {
		step.change()
		for range 2 {
			err := s.TLS.Reload()
			if step.fails == "" && err != nil || step.fails != "" && (err == nil || !strings.Contains(err.Error(), step.fails)) {
				t.Errorf("%s: Reload returned %v, want %q", step.name, err, step.fails)
			}
		}
		if got := conn.who(t); got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
		newcomer := s.connect(t, other).who(t)
		if trusted := strings.HasPrefix(step.name, "authority added") || strings.Contains(step.name, "replaced"); trusted != (newcomer == other.Leaf.URIs[0].String()) {
			t.Errorf("%s: a certificate of the second authority is %q", step.name, newcomer)
		}
	}
	if got := s.logs.count("not taken"); got != 6 {
		t.Errorf("got %d log lines about files that were not taken, want one for each of 6", got)
	}
}

// TestNothingChanges: looking alone makes no generation, and a new certificate of the
// server none of trust.
func TestNothingChanges(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	s := f.serve(t, f.simple(t, []*devpki.Authority{ca}, revoke(t, ca, nil)))
	conn := s.connect(t, issue(t, ca, names(t, crm)))
	conn.who(t)
	certificate, key, err := f.serving.Server("localhost")
	must(t, err)
	f.write(t, "server-key.pem", key)
	if err := s.TLS.Reload(); err == nil || !strings.Contains(err.Error(), "server.pem") {
		t.Errorf("got %v, want that key and certificate do not belong together", err)
	}
	f.write(t, "server.pem", certificate)
	must(t, s.TLS.Reload())
	must(t, s.TLS.Reload())
	if got := s.TLS.Generation(); got != 1 {
		t.Errorf("got generation %d, want 1", got)
	}
	if got := s.logs.count("TLS files in force"); got != 1 {
		t.Errorf("got %d log lines, want 1", got)
	}
	if got := conn.who(t); got != crm {
		t.Errorf("got %q, want %q", got, crm)
	}
}

// info is what is known of a connection in memory.
func info(t testing.TB, reloader *identity.Reloader, serving, ca *devpki.Authority, template *x509.Certificate) *identity.Info {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(serving.Certificate())
	config := tlsConfig(roots, issue(t, ca, template))
	near, far := net.Pipe()
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	var client sync.WaitGroup
	client.Go(func() { _, _, _ = credentials.NewTLS(config).ClientHandshake(context.Background(), "localhost", far) })
	_, auth, err := (&identity.Credentials{TLS: reloader}).ServerHandshake(near)
	must(t, err)
	client.Wait()
	found, ok := identity.FromContext(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: auth}))
	if !ok {
		t.Fatal("the connection has no info")
	}
	return found
}

// TestTime passes without any new file.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ca := newFiles(t), authority(t, "of callers")
		logs := &logs{}
		reloader, err := identity.NewReloader(f.simple(t, []*devpki.Authority{ca}, revoke(t, ca, nil)), slog.New(slog.NewTextHandler(logs, nil)))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- reloader.Run(ctx) }()
		short := names(t, crm)
		short.NotAfter = time.Now().Add(10 * time.Minute)
		expires, lives := info(t, reloader, f.serving, ca, short), info(t, reloader, f.serving, ca, names(t, crm))
		want := func(when string, i *identity.Info, want string) {
			t.Helper()
			got := "nobody"
			if peer, err := i.Peer(time.Now()); err == nil {
				got = peer.Identities()[0]
			} else if refusal, ok := err.(*identity.Error); ok {
				got = string(refusal.Cause)
			}
			if got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		want("at first", expires, crm)
		want("at first", lives, crm)
		time.Sleep(10*time.Minute + time.Second)
		want("after 10 minutes", expires, "expired")
		want("after 10 minutes", lives, crm)
		time.Sleep(50 * time.Minute)
		want("after an hour", lives, "revocation_list_expired")
		want("after an hour", expires, "expired")
		if got := logs.count("revocation list expired"); got != 1 {
			t.Errorf("got %d log lines, want 1", got)
		}
		// Run finds the next list by itself, within a second.
		f.write(t, "crl.pem", revoke(t, ca, nil))
		time.Sleep(time.Second + 1)
		want("with a new list", lives, crm)
		want("with a new list", expires, "expired")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// TestManyCallsAtOnce while generations change.
func TestManyCallsAtOnce(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	reloader, err := identity.NewReloader(f.simple(t, []*devpki.Authority{ca}, revoke(t, ca, nil)), slog.New(slog.DiscardHandler))
	must(t, err)
	i := info(t, reloader, f.serving, ca, names(t, crm))
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if peer, err := i.Peer(time.Now()); err != nil || peer.Identities()[0] != crm {
					t.Errorf("got %v, %v", peer, err)
					return
				}
			}
		})
	}
	other := issue(t, ca, names(t, crm))
	for n := range 20 {
		var revoked []*x509.Certificate
		if n%2 == 0 {
			revoked = append(revoked, other.Leaf)
		}
		f.write(t, "crl.pem", revoke(t, ca, revoked))
		must(t, reloader.Reload())
	}
	close(stop)
	running.Wait()
	if got := reloader.Generation(); got != 21 {
		t.Errorf("got generation %d, want 21", got)
	}
}

// TestSettings: everything that is wrong is told, by key.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name string
		cfg  identity.TLS
		want []string
	}{
		{"nothing", identity.TLS{}, []string{"certificate_file", "key_file", "client_ca_file"}},
		{"both forms", identity.TLS{CertificateFile: "a", KeyFile: "b", ClientCAFile: "c", TrustBundles: []identity.TrustBundle{{Name: "x", CAFile: "c"}}}, []string{"trust_bundles cannot"}},
		{"lists of no bundle", identity.TLS{CertificateFile: "a", KeyFile: "b", CRLFiles: []string{"c"}, TrustBundles: []identity.TrustBundle{{Name: "x", CAFile: "c"}}}, []string{"crl_files cannot"}},
		{"bundles", identity.TLS{CertificateFile: "a", KeyFile: "b", CRLExpired: "ignore", TrustBundles: []identity.TrustBundle{
			{}, {Name: "x", CAFile: "c", TrustDomain: "example.org"}, {Name: "x", CAFile: "d", TrustDomain: "example.org"}, {Name: "y", CAFile: "d", TrustDomain: "spiffe://example.org"},
		}}, []string{
			"crl_expired", "trust_bundles[0].name", "trust_bundles[0].ca_file", "trust_bundles[2].name", "trust_bundles[2].trust_domain", "trust_bundles[3].trust_domain",
		}},
		{"files", identity.TLS{CertificateFile: filepath.Join(dir, "a"), KeyFile: dir, ClientCAFile: filepath.Join(dir, "c"), CRLFiles: []string{filepath.Join(dir, "d")}}, []string{
			filepath.Join(dir, "a"), dir + " is not a regular file", filepath.Join(dir, "c"), filepath.Join(dir, "d"),
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := identity.NewReloader(test.cfg, slog.New(slog.DiscardHandler))
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error that names %s", err, want)
				}
			}
		})
	}
}

// BenchmarkPeer is what each call pays on an open connection.
func BenchmarkPeer(b *testing.B) {
	f, ca := newFiles(b), authority(b, "of callers")
	reloader, err := identity.NewReloader(f.simple(b, []*devpki.Authority{ca}, revoke(b, ca, nil)), slog.New(slog.DiscardHandler))
	must(b, err)
	i := info(b, reloader, f.serving, ca, names(b, crm))
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Peer(now); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPeerAllocatesNothing on an open connection.
func TestPeerAllocatesNothing(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	reloader, err := identity.NewReloader(f.simple(t, []*devpki.Authority{ca}), slog.New(slog.DiscardHandler))
	must(t, err)
	i := info(t, reloader, f.serving, ca, names(t, crm))
	now := time.Now()
	if got := testing.AllocsPerRun(100, func() { _, _ = i.Peer(now) }); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
