package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// method is one method as the running server describes it.
type method struct {
	name   string // "/package.Service/Method"
	stream bool
}

// methodsOf asks the server itself what it serves.
func methodsOf(t *testing.T, conn *grpc.ClientConn) []method {
	t.Helper()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var methods []method
	list := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	for _, service := range list.GetListServicesResponse().GetService() {
		files := ask(&grpc_reflection_v1.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service.GetName()},
		})
		for _, raw := range files.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var file descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(raw, &file); err != nil {
				t.Fatal(err)
			}
			for _, s := range file.GetService() {
				if file.GetPackage()+"."+s.GetName() != service.GetName() {
					continue
				}
				for _, m := range s.GetMethod() {
					methods = append(methods, method{"/" + service.GetName() + "/" + m.GetName(), m.GetClientStreaming() || m.GetServerStreaming()})
				}
			}
		}
	}
	return methods
}

// call calls a method with an empty message and returns the error.
func (m method) call(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if !m.stream {
		return conn.Invoke(ctx, m.name, &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, m.name)
	if err != nil {
		return err
	}
	// What ends a stream that is over already is told by the receiving side (EOF says so).
	if err := errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

// TestWhoMayDoWhat calls everything that the server says it has, as each kind of
// peer. What is not for a peer is refused before the request is looked at.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	needServers(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	n := s.start(t, program(t))
	methods := methodsOf(t, n.caller.conn)
	if len(methods) < 18 || !slices.Contains(methods, method{pb.TokenService_GetToken_FullMethodName, false}) {
		t.Fatalf("reflection shows %v", methods)
	}
	health := func(name string) bool { return strings.HasPrefix(name, "/grpc.health.v1.") }
	reflection := func(name string) bool { return strings.HasPrefix(name, "/grpc.reflection.") }
	// Whoever shows an identity may ask for it, listed or not.
	identified := func(name string) bool { return name == pb.AccessService_WhoAmI_FullMethodName || health(name) }
	peers := []struct {
		name   string
		peer   *peer
		may    func(string) bool
		reason string
		code   codes.Code
	}{
		{"a caller", n.caller, func(name string) bool {
			return name == pb.TokenService_GetToken_FullMethodName || name == pb.TokenService_WatchToken_FullMethodName || identified(name) || reflection(name)
		}, "CALLER_NOT_ALLOWED", codes.PermissionDenied},
		{"an operator", n.operator, func(string) bool { return true }, "", codes.OK},
		{"nobody: no certificate", s.dial(t, n.address, nil), health, "CALLER_UNAUTHENTICATED", codes.Unauthenticated},
		{"nobody: not listed", s.dial(t, n.address, s.certificate(t, "spiffe://example.org/other")), identified, "CALLER_UNAUTHENTICATED", codes.Unauthenticated},
		{"nobody: a longer name", s.dial(t, n.address, s.certificate(t, operatorIdentity+"/x")), identified, "CALLER_UNAUTHENTICATED", codes.Unauthenticated},
		{"nobody: a URI that looks like a DNS name", s.dial(t, n.address, s.certificate(t, "dns:operator")), health, "CALLER_UNAUTHENTICATED", codes.Unauthenticated},
	}
	for _, p := range peers {
		for _, m := range methods {
			err := m.call(t.Context(), p.peer.conn)
			refused := status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated || status.Code(err) == codes.Unimplemented
			switch {
			case p.may(m.name) && refused:
				t.Errorf("%s may not call %s: %v", p.name, m.name, err)
			case !p.may(m.name) && (reasonOf(err) != p.reason || status.Code(err) != p.code):
				t.Errorf("%s calls %s: %v, want %v %s", p.name, m.name, err, p.code, p.reason)
			}
		}
		if err := (method{name: "/tokenbroker.v1.ClientService/NoSuchMethod"}).call(t.Context(), p.peer.conn); err == nil {
			t.Errorf("%s calls a method that does not exist", p.name)
		}
	}

	// An unknown client and a known one look alike to those who may not ask.
	_, err := n.caller.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/unknown"})
	wantReason(t, "GetClient of an unknown client as a caller", err, "CALLER_NOT_ALLOWED")
	n.stop(t)
}

// TestConnectionsThatAreRefused do not get as far as a call.
func TestConnectionsThatAreRefused(t *testing.T) {
	t.Parallel()
	needServers(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	n := s.start(t, program(t))
	other, err := devpki.New("another authority")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.ca.PEM())
	of := func(certificate, key []byte, err error) tls.Certificate {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	tests := map[string]credentials.TransportCredentials{
		"plaintext":           insecure.NewCredentials(),
		"TLS 1.2":             credentials.NewTLS(&tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*s.certificate(t, operatorIdentity)}}),
		"another authority":   credentials.NewTLS(&tls.Config{RootCAs: roots, GetClientCertificate: insist(of(other.Caller(operatorIdentity)))}),
		"a server's own":      credentials.NewTLS(&tls.Config{RootCAs: roots, GetClientCertificate: insist(of(s.ca.Server("localhost")))}),
		"another server name": credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "evil.example", Certificates: []tls.Certificate{*s.certificate(t, operatorIdentity)}}),
	}
	for name, creds := range tests {
		p := newPeer(t, n.address, creds, &s.heard, &s.given)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := p.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: "clients/a"})
		cancel()
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Errorf("%s: %v, want no connection", name, err)
		}
	}
	n.stop(t)
}

// insist presents a certificate also to a server that says it does not take those
// of its authority.
func insist(pair tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
}

// TestCertificatesAreReloaded replaces the server's certificate and the authority of
// its callers while it runs.
func TestCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	needServers(t)
	s := newSite(t, embeddedStore(t.TempDir()))
	n := s.start(t, program(t))
	old := s.certificate(t, callerIdentity)
	next, err := devpki.New("next")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := next.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "server-key.pem", key) // half of a renewal: the old pair stays in use
	time.Sleep(1100 * time.Millisecond)
	if _, err := s.dial(t, n.address, old).tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/a"}); reasonOf(err) != "CLIENT_NOT_FOUND" {
		t.Errorf("with half of a new certificate: %v", err)
	}
	s.write(t, "server.pem", certificate)
	s.write(t, "ca.pem", next.PEM())
	s.ca = next
	eventually(t, 10*time.Second, "the new certificate and authority", func() error {
		_, err := s.dial(t, n.address, s.certificate(t, callerIdentity)).tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/a"})
		if reasonOf(err) != "CLIENT_NOT_FOUND" {
			return err
		}
		return nil
	})
	if _, err := s.dial(t, n.address, old).tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/a"}); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of the authority that was removed: %v, want no connection", err)
	}
	n.stop(t)
}
