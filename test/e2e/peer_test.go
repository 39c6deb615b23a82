package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// peer is one connection to a server and the services behind it.
type peer struct {
	conn           *grpc.ClientConn
	tokens         pb.TokenServiceClient
	clients        pb.ClientServiceClient
	rotations      pb.RotationServiceClient
	diagnostics    pb.DiagnosticsServiceClient
	authorizations pb.AuthorizationServiceClient
	health         healthpb.HealthClient
}

// newPeer connects. All that it is answered, headers and errors included, is
// written to given for GetToken and to heard for the rest.
func newPeer(t testing.TB, address string, creds credentials.TransportCredentials, heard, given *logBuffer) *peer {
	t.Helper()
	record := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if _, bounded := ctx.Deadline(); !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, callsWithin)
			defer cancel()
		}
		var header, trailer metadata.MD
		err := invoke(ctx, method, req, reply, conn, append(options, grpc.Header(&header), grpc.Trailer(&trailer))...)
		to := heard
		if method == pb.TokenService_GetToken_FullMethodName && err == nil {
			to = given
		}
		fmt.Fprintf(to, "%s %v %v %s %v\n", method, header, trailer, spell(reply.(proto.Message)), err)
		fmt.Fprintln(heard, spell(status.Convert(err).Proto()))
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithUnaryInterceptor(record),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
			MinConnectTimeout: 20 * time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &peer{
		conn: conn, tokens: pb.NewTokenServiceClient(conn), clients: pb.NewClientServiceClient(conn), rotations: pb.NewRotationServiceClient(conn),
		diagnostics: pb.NewDiagnosticsServiceClient(conn), authorizations: pb.NewAuthorizationServiceClient(conn), health: healthpb.NewHealthClient(conn),
	}
}

// spell returns a message as text and as it was on the wire.
func spell(m proto.Message) string {
	wire, _ := proto.Marshal(m)
	return protojson.Format(m) + " " + string(wire)
}

// infoOf returns the ErrorInfo of an error; empty if it has none.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return &errdetails.ErrorInfo{}
}

// reasonOf returns ErrorInfo.reason, "" for no error, and the error itself where a
// reason is missing.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	if reason := infoOf(err).GetReason(); reason != "" {
		return reason
	}
	return err.Error()
}

// wantReason checks an error's reason, and that each of texts is in its detail.
func wantReason(t testing.TB, what string, err error, reason string, texts ...string) {
	t.Helper()
	if problem := hasReason(what, err, reason, texts...); problem != nil {
		t.Error(problem)
	}
}

// hasReason returns what is wrong with an error's reason.
func hasReason(what string, err error, reason string, texts ...string) error {
	if got := reasonOf(err); got != reason {
		return fmt.Errorf("%s: reason %q, want %q (%w)", what, got, reason, orNothing(err))
	}
	for _, text := range texts {
		if detail := infoOf(err).GetMetadata()["detail"]; !strings.Contains(detail, text) {
			return fmt.Errorf("%s: detail %q, want %q in it", what, detail, text)
		}
	}
	return nil
}

func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// token asks for a client's default token as the caller does.
func (n *node) token(ctx context.Context, client string) (*pb.GetTokenResponse, error) {
	return n.caller.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: client})
}

// rootCause asks why a lookup fails; "" if it does not.
func (n *node) rootCause(ctx context.Context, client string) (string, error) {
	report, err := n.operator.diagnostics.CheckLookup(ctx, &pb.CheckLookupRequest{Client: client})
	if err != nil {
		return "", err
	}
	return report.GetRootCause().GetReason(), nil
}

// secretInput wraps a client secret.
func secretInput(value string) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_ClientSecret{ClientSecret: value}}
}

// keyInput wraps a private key.
func keyInput(value string) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: value}}
}
