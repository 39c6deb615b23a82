package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// files are a caller's, and what its server needs.
type files struct {
	client.TLSFiles
	authority *devpki.Authority
	server    credentials.TransportCredentials
}

func newFiles(t *testing.T) *files {
	t.Helper()
	folder := t.TempDir()
	f := &files{authority: must[*devpki.Authority](t)(devpki.New("test"))}
	f.Certificate, f.Key, f.CA = filepath.Join(folder, "c.pem"), filepath.Join(folder, "k.pem"), filepath.Join(folder, "ca.pem")
	f.ServerName = "broker.example.org"
	certificate, key, err := f.authority.Server(f.ServerName)
	pair := must[tls.Certificate](t)(tls.X509KeyPair(certificate, must[[]byte](t)(key, err)))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.authority.PEM())
	f.server = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool})
	write(t, f.CA, f.authority.PEM())
	f.issue(t, "spiffe://example.org/one")
	return f
}

// issue replaces the caller's certificate.
func (f *files) issue(t *testing.T, identity string) {
	t.Helper()
	certificate, key, err := f.authority.Caller(identity)
	write(t, f.Key, must[[]byte](t)(key, err))
	write(t, f.Certificate, certificate)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// seen notes as whom a server sees its callers.
func seen(identities chan<- string) grpc.ServerOption {
	return grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		identity := "nobody"
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			if info.State.Version != tls.VersionTLS13 {
				return nil, status.Error(codes.Internal, "this is not TLS 1.3")
			}
			if len(info.State.PeerCertificates) > 0 {
				identity = info.State.PeerCertificates[0].URIs[0].String()
			}
		}
		identities <- identity
		return handle(ctx, r)
	})
}

// TestRenewedFiles: a new connection shows the certificate that is there by then,
// and the last good one while the files do not fit.
func TestRenewedFiles(t *testing.T) {
	f := newFiles(t)
	identities := make(chan string, 10)
	broker := newFake(t, grpc.Creds(f.server), seen(identities))
	conns := make(chan net.Conn, 10)
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := broker.dial(ctx, address)
		if err == nil {
			conns <- conn
		}
		return conn, err
	}
	c := must[*client.Client](t)(client.New("passthrough:///broker", client.WithTLS(f.TLSFiles),
		client.WithUserAgent("crm/1.7"), client.WithDialOptions(grpc.WithContextDialer(dial))))
	defer func() { _ = c.Close() }()
	for i, step := range []struct {
		prepare func()
		want    string
	}{
		{func() {}, "spiffe://example.org/one"},
		{func() { f.issue(t, "spiffe://example.org/two") }, "spiffe://example.org/two"},
		{func() { write(t, f.Key, []byte("half a k")) }, "spiffe://example.org/two"},
		{func() { f.issue(t, "spiffe://example.org/three") }, "spiffe://example.org/three"},
	} {
		step.prepare()
		if i > 0 { // only now: the next connection is made at once
			_ = (<-conns).Close()
		}
		must[*client.Token](t)(c.Token(t.Context(), acme))
		if got := <-identities; got != step.want {
			t.Errorf("seen as %s, want %s", got, step.want)
		}
	}
	if agent := strings.Join(broker.headers[0].Get("user-agent"), ""); !strings.HasPrefix(agent, "crm/1.7 tokenbroker-client ") {
		t.Errorf("user agent %q", agent)
	}
}

func TestBearerTokenFile(t *testing.T) {
	f := newFiles(t)
	broker := newFake(t, grpc.Creds(f.server))
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, []byte("first\n"))
	c := must[*client.Client](t)(client.New("passthrough:///broker", client.WithTLS(client.TLSFiles{CA: f.CA, ServerName: f.ServerName}),
		client.WithBearerTokenFile(path), client.WithDialOptions(grpc.WithContextDialer(broker.dial))))
	defer func() { _ = c.Close() }()
	for i, step := range []struct{ content, want string }{{"first\n", "Bearer first"}, {"second", "Bearer second"}, {"", "Bearer second"}} {
		next := path + ".next" // as Kubernetes does: the file is replaced, not changed
		write(t, next, []byte(step.content))
		if err := os.Rename(next, path); err != nil {
			t.Fatalf("rename: %v", err)
		}
		must[*client.Token](t)(c.Token(t.Context(), acme))
		if got := broker.headers[i].Get("authorization"); len(got) != 1 || got[0] != step.want {
			t.Errorf("authorization %q, want %q", got, step.want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	f := newFiles(t)
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, empty, nil)
	for name, options := range map[string][]client.Option{
		"TLS and plaintext":        {client.WithTLS(f.TLSFiles), client.WithInsecureLoopback()},
		"a token over plaintext":   {client.WithInsecureLoopback(), client.WithBearerTokenFile(f.Key)},
		"a certificate, no key":    {client.WithTLS(client.TLSFiles{Certificate: f.Certificate})},
		"a file that is not there": {client.WithTLS(client.TLSFiles{CA: f.CA + ".absent"})},
		"no authority":             {client.WithTLS(client.TLSFiles{CA: empty})},
		"no token":                 {client.WithBearerTokenFile(empty)},
		"no time":                  {client.WithTimeout(0)},
	} {
		if _, err := client.New("broker:7443", options...); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// elsewhere is a connection to another machine.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7443} }

func TestPlaintextStaysOnThisMachine(t *testing.T) {
	f := newFake(t)
	c := connect(t, func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := f.dial(ctx, address)
		return elsewhere{conn}, err
	}, client.WithTimeout(time.Second))
	if _, err := c.Token(t.Context(), acme); err == nil || !strings.Contains(err.Error(), "TLS is required") || f.asked() != 0 {
		t.Errorf("got %v, want a refusal", err)
	}
}

// TestPerRPCCredentials calls an API, here another fake, with the token.
func TestPerRPCCredentials(t *testing.T) {
	f := newFiles(t)
	broker, api := newFake(t), newFake(t, grpc.Creds(f.server))
	c := broker.connect(t)
	call := func(source *client.Source, transport credentials.TransportCredentials) error {
		conn, err := grpc.NewClient("passthrough:///api", grpc.WithContextDialer(api.dial),
			grpc.WithTransportCredentials(transport), grpc.WithPerRPCCredentials(source.PerRPCCredentials()))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_, err = pb.NewTokenServiceClient(conn).GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
		return err
	}
	secure := credentials.NewTLS(&tls.Config{RootCAs: pool(f), ServerName: f.ServerName})
	if err := call(c.Source(acme), secure); err != nil {
		t.Fatalf("call: %v", err)
	}
	if got := api.headers[0].Get("authorization"); len(got) != 1 || got[0] != "Bearer "+canary+"-1" {
		t.Errorf("authorization %q", got)
	}
	if err := call(c.Source(acme), insecure.NewCredentials()); err == nil || api.asked() != 1 {
		t.Errorf("a call without TLS: %v", err)
	}
	bare := c.Source(acme).PerRPCCredentials()
	if m, err := bare.GetRequestMetadata(t.Context(), "https://api.example.com"); status.Code(err) != codes.Unauthenticated || m != nil {
		t.Errorf("metadata without a connection: %v", err)
	}
	for name, want := range map[string]codes.Code{"clients/nobody": codes.Unauthenticated, "acme": codes.Unauthenticated} {
		if err := call(c.Source(client.Request{Client: name}), secure); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	broker.set(func() {
		broker.fail = fault(codes.ResourceExhausted, client.ReasonTooManyRequests, client.RecoveryWait, time.Second)
	})
	if err := call(c.Source(acme), secure); status.Code(err) != codes.Unavailable {
		t.Errorf("busy broker: %v, want Unavailable", err)
	}
}

func pool(f *files) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(f.authority.PEM())
	return p
}

// TestNewFromConn leaves the connection to whom it belongs.
func TestNewFromConn(t *testing.T) {
	f := newFake(t)
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///broker", grpc.WithContextDialer(f.dial), grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer func() { _ = conn.Close() }()
	for range 2 {
		c := client.NewFromConn(conn)
		must[*client.Token](t)(c.Token(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "mine"), acme))
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if got := f.headers[1].Get("x-request-id"); len(got) != 1 || got[0] != "mine" {
		t.Errorf("request id %q", got)
	}
}

// TestDial connects as New does, for calls that the package has no words for.
func TestDial(t *testing.T) {
	f := newFiles(t)
	identities := make(chan string, 1)
	broker := newFake(t, grpc.Creds(f.server), seen(identities))
	conn := must[*grpc.ClientConn](t)(client.Dial("passthrough:///broker", client.WithTLS(f.TLSFiles), client.WithDialOptions(grpc.WithContextDialer(broker.dial))))
	defer func() { _ = conn.Close() }()
	must[*pb.GetTokenResponse](t)(pb.NewTokenServiceClient(conn).GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"}))
	if got := <-identities; got != "spiffe://example.org/one" {
		t.Errorf("seen as %s, want the files' identity", got)
	}
	if _, err := client.Dial("broker:7443", client.WithTLS(client.TLSFiles{CA: f.CA + ".absent"})); err == nil {
		t.Error("a file that is not there was accepted")
	}
}
