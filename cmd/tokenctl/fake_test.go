package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const operatorIdentity = "spiffe://example.org/operator"

// fake is a broker with one client, acme-crm, that answers as the real one does. What a
// test wants otherwise it says with refuse and rotation. test/e2e runs the same
// commands against the real one.
type fake struct {
	pb.UnimplementedRotationServiceServer
	pb.UnimplementedTokenServiceServer
	pb.UnimplementedClientServiceServer
	pb.UnimplementedAccessServiceServer
	pb.UnimplementedDiagnosticsServiceServer
	diagnosed

	t       *testing.T
	ca      *devpki.Authority
	address string
	changed chan struct{} // closed and made anew when the rotation changes

	mu       sync.Mutex // guards the rest
	requests []proto.Message
	bearer   []string // authorization header of each call
	refusal  error    // of every call
	versions []*pb.SecretVersion
	rotation *pb.Rotation
	watches  int // streams that were begun
	broken   int // streams that end at once, UNAVAILABLE
}

var (
	_ pb.RotationServiceServer = (*fake)(nil)
	_ pb.AccessServiceServer   = (*fake)(nil)
)

// newFake starts a broker with mutual TLS, on loopback.
func newFake(t *testing.T) *fake {
	t.Helper()
	ca, err := devpki.New("tokenctl tests")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ca: ca, changed: make(chan struct{}), versions: []*pb.SecretVersion{
		{Number: 3, Stage: pb.SecretStage_SECRET_STAGE_CURRENT, Fingerprint: "f00d", CreateTime: timestamppb.New(time.Now().Add(-50 * time.Hour))},
	}}
	certificate, key, err := ca.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	callers := x509.NewCertPool()
	callers.AddCert(ca.Certificate())
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: callers, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS13}
	f.serve("tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(config)))
	return f
}

// serve serves f on one more address.
func (f *fake) serve(network, address string, options ...grpc.ServerOption) {
	f.t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.address = listener.Addr().String()
	server := grpc.NewServer(append(options, grpc.UnaryInterceptor(f.unary), grpc.StreamInterceptor(f.stream))...)
	pb.RegisterRotationServiceServer(server, f)
	pb.RegisterTokenServiceServer(server, f)
	pb.RegisterClientServiceServer(server, f)
	pb.RegisterAccessServiceServer(server, f)
	pb.RegisterDiagnosticsServiceServer(server, f)
	well := health.NewServer()
	well.SetServingStatus(tokenServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, well)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	f.t.Cleanup(func() { server.Stop(); <-served })
}

// operator is one with a context for f, by certificate.
func (f *fake) operator() *operator {
	f.t.Helper()
	o := newOperator(f.t)
	certificate, key, err := f.ca.Caller(operatorIdentity)
	if err != nil {
		f.t.Fatal(err)
	}
	o.write(".config/tokenctl/ca.pem", string(f.ca.PEM()))
	o.write(".config/tokenctl/me.pem", string(certificate))
	o.write(".config/tokenctl/me-key.pem", string(key))
	o.write(".config/tokenctl/config.yaml", `current: test
contexts:
  test: {address: "`+f.address+`", ca_file: ca.pem, certificate_file: me.pem, key_file: me-key.pem}
`)
	return o
}

func (f *fake) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := f.note(ctx, request.(proto.Message)); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (f *fake) stream(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := f.note(stream.Context(), nil); err != nil {
		return err
	}
	return handler(service, stream)
}

func (f *fake) note(ctx context.Context, request proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if request != nil {
		f.requests = append(f.requests, proto.Clone(request))
	}
	header, _ := metadata.FromIncomingContext(ctx)
	f.bearer = append(f.bearer, strings.Join(header.Get("authorization"), ","))
	return f.refusal
}

// refuse makes every call fail with err; nil ends that.
func (f *fake) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = err
}

// asked returns the last request of its type.
func asked[T proto.Message](f *fake) T {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, each := range slices.Backward(f.requests) {
		if request, ok := each.(T); ok {
			return request
		}
	}
	var none T
	f.t.Errorf("there was no %T", none)
	return none
}

// count returns how many requests there were.
func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

// refusal builds an error as the broker does.
func refusal(code codes.Code, reason, recovery, text string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "tokenbroker", Metadata: map[string]string{
		"recovery": recovery, "request_id": "P2SDVNBOQ7GZ2LEMALDABCHLKM", "client": "clients/acme-crm", "detail": "seen at path kv/data/x",
	}}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if code == codes.Unavailable || code == codes.ResourceExhausted {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}))
	}
	if code == codes.InvalidArgument {
		details = append(details, protoadapt.MessageV1Of(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "client", Description: "must match the pattern"}}}))
	}
	s, err := status.New(code, reason+": clients/acme-crm: "+text).WithDetails(details...)
	if err != nil {
		return err
	}
	return s.Err()
}

// staged returns the version with a label.
func (f *fake) staged(stage pb.SecretStage) *pb.SecretVersion {
	for _, v := range f.versions {
		if v.GetStage() == stage {
			return v
		}
	}
	return nil
}

// samplePlan is what every dry run would do.
func samplePlan() *pb.RotationPlan {
	return &pb.RotationPlan{
		Steps:    []string{"store version 4 as pending", "get 3 tokens with it"},
		Callers:  []*pb.CallerUse{{Caller: "crm", SecretVersion: 3, LastUseTime: timestamppb.New(time.Now().Add(-20 * time.Minute))}},
		Warnings: []*pb.Warning{{Reason: "ROTATION_GAP_NOT_ACCEPTED", Message: "Callers would be without a token for a moment."}},
	}
}

// StageSecret implements RotationService.
func (f *fake) StageSecret(_ context.Context, r *pb.StageSecretRequest) (*pb.StageSecretResponse, error) {
	if r.GetValidateOnly() {
		return &pb.StageSecretResponse{Plan: samplePlan()}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &pb.SecretVersion{Number: 4, Stage: pb.SecretStage_SECRET_STAGE_PENDING, Fingerprint: "beef", CreateTime: timestamppb.Now()}
	f.versions = append(f.versions, v)
	return &pb.StageSecretResponse{SecretVersion: v, Rotation: &pb.Rotation{Name: "clients/acme-crm/rotations/r1", State: pb.RotationState_ROTATION_STATE_STAGED, RequestId: r.GetRequestId()}}, nil
}

// VerifySecret implements RotationService.
func (f *fake) VerifySecret(context.Context, *pb.VerifySecretRequest) (*pb.VerifySecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.staged(pb.SecretStage_SECRET_STAGE_PENDING)
	if v == nil {
		return nil, refusal(codes.FailedPrecondition, "SECRET_WRONG_STAGE", "FIX_CALLER", "There is no pending version.")
	}
	v.VerifyTime = timestamppb.Now()
	return &pb.VerifySecretResponse{SecretVersion: v, Warnings: []*pb.Warning{{Reason: "SCOPES_NARROWED", Message: "Fewer scopes."}}}, nil
}

// PromoteSecret implements RotationService.
func (f *fake) PromoteSecret(_ context.Context, r *pb.PromoteSecretRequest) (*pb.PromoteSecretResponse, error) {
	if r.GetValidateOnly() {
		return &pb.PromoteSecretResponse{Plan: samplePlan()}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	current, pending := f.staged(pb.SecretStage_SECRET_STAGE_CURRENT), f.staged(pb.SecretStage_SECRET_STAGE_PENDING)
	if pending == nil {
		return nil, refusal(codes.FailedPrecondition, "SECRET_WRONG_STAGE", "FIX_CALLER", "There is no pending version.")
	}
	current.Stage, pending.Stage = pb.SecretStage_SECRET_STAGE_PREVIOUS, pb.SecretStage_SECRET_STAGE_CURRENT
	return &pb.PromoteSecretResponse{Current: pending, Previous: current}, nil
}

// RollbackSecret implements RotationService.
func (f *fake) RollbackSecret(_ context.Context, r *pb.RollbackSecretRequest) (*pb.RollbackSecretResponse, error) {
	if r.GetValidateOnly() {
		return &pb.RollbackSecretResponse{Plan: samplePlan()}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	current, previous := f.staged(pb.SecretStage_SECRET_STAGE_CURRENT), f.staged(pb.SecretStage_SECRET_STAGE_PREVIOUS)
	current.Stage, previous.Stage = pb.SecretStage_SECRET_STAGE_UNSPECIFIED, pb.SecretStage_SECRET_STAGE_CURRENT
	return &pb.RollbackSecretResponse{Current: previous}, nil
}

// RetireSecret implements RotationService. It is of a broker that knows no dry run.
func (f *fake) RetireSecret(_ context.Context, r *pb.RetireSecretRequest) (*pb.RetireSecretResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions = slices.DeleteFunc(f.versions, func(v *pb.SecretVersion) bool { return v.GetNumber() == r.GetSecretVersion() })
	return &pb.RetireSecretResponse{SecretVersion: r.GetSecretVersion()}, nil
}

// ListSecretVersions implements RotationService.
func (f *fake) ListSecretVersions(context.Context, *pb.ListSecretVersionsRequest) (*pb.ListSecretVersionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := &pb.ListSecretVersionsResponse{}
	for _, v := range f.versions {
		list.SecretVersions = append(list.SecretVersions, proto.CloneOf(v))
	}
	return list, nil
}

// GetToken implements TokenService.
func (f *fake) GetToken(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	now := time.Now()
	return &pb.GetTokenResponse{
		AccessToken: "access-token-of-acme", TokenType: "Bearer", TokenId: "0123456789abcdef", Scopes: []string{"read", "write"}, SecretVersion: 3,
		IssueTime: timestamppb.New(now.Add(-90 * time.Second)), ExpireTime: timestamppb.New(now.Add(58*time.Minute + 30*time.Second)), ExpirySource: pb.ExpirySource_EXPIRY_SOURCE_RESPONSE,
		Warnings: []*pb.Warning{{Reason: "USING_PREVIOUS_SECRET", Message: "The token was got with the previous secret."}},
	}, nil
}

// WhoAmI implements AccessService.
func (f *fake) WhoAmI(context.Context, *pb.WhoAmIRequest) (*pb.WhoAmIResponse, error) {
	return &pb.WhoAmIResponse{
		Identities: []string{operatorIdentity, "dns:ops.example.org"}, Caller: "oncall", ServerTime: timestamppb.New(time.Now().Add(f.skew)), ServerVersion: "devel", ExpireTime: timestamppb.New(time.Now().Add(72*time.Hour + time.Minute)),
		Grants: []*pb.Grant{{
			Rule: 2, Permissions: []string{"token.get", "secret.stage"}, Clients: []string{"prefix:acme-"}, ExceptClients: []string{"acme-billing"},
			Scopes: &pb.Restriction{DefaultValues: []string{"read"}, AllowedValues: []string{"write"}}, Limits: &pb.UseLimits{RequestsPerSecond: 50, ScopeSets: 3},
		}},
	}, nil
}

// ListClients implements ClientService, a name a page.
func (f *fake) ListClients(_ context.Context, r *pb.ListClientsRequest) (*pb.ListClientsResponse, error) {
	names := []string{"acme-billing", "acme-crm", "zeta"}
	prefix := strings.TrimPrefix(r.GetFilter(), "prefix=")
	at := slices.Index(names, r.GetPageToken()) + 1
	page := &pb.ListClientsResponse{}
	if strings.HasPrefix(names[at], prefix) {
		page.Clients = []*pb.Client{{Name: "clients/" + names[at], UpdateTime: timestamppb.New(checkedAt), SecretVersions: []*pb.SecretVersion{
			{Number: 1, Stage: pb.SecretStage_SECRET_STAGE_PREVIOUS}, {Number: 2, Stage: pb.SecretStage_SECRET_STAGE_CURRENT},
		}}}
	}
	if at+1 < len(names) {
		page.NextPageToken = names[at]
	}
	return page, nil
}

// folder is where the operator's configuration is.
func (o *operator) folder() string { return filepath.Join(o.home, ".config", "tokenctl") }
