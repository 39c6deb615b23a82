package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// method is one RPC that a server has registered.
type method struct {
	full   string // "/tokenbroker.v1.TokenService/GetToken"
	stream bool
	input  protoreflect.MessageType
	output protoreflect.MessageType
}

// ours reports whether the method is of this service's own API.
func (m method) ours() bool { return strings.HasPrefix(m.full, "/tokenbroker.") }

// reads reports whether the method's sample asks the store, so that it can hang and fail.
// An import does too, but says so in its answers: imports_test.go. A state that was not
// made here, and a call that nobody saw, cost no call.
func (m method) reads() bool {
	return m.ours() && !slices.Contains([]string{
		pb.AccessService_WhoAmI_FullMethodName, pb.ClientService_ListProviders_FullMethodName, pb.ClientService_GetProvider_FullMethodName,
		pb.ClientService_ImportClients_FullMethodName, pb.AuthorizationService_CompleteAuthorization_FullMethodName,
		pb.DiagnosticsService_ExplainError_FullMethodName,
	}, m.full)
}

// registered returns all methods that s serves, from its service descriptors.
func registered(t *testing.T, s *server.Server) []method {
	t.Helper()
	var methods []method
	for service, info := range s.ServiceInfo() {
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatalf("service %s: %v", service, err)
		}
		for _, m := range info.Methods {
			declared := descriptor.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(m.Name))
			methods = append(methods, method{
				full: "/" + service + "/" + m.Name, stream: m.IsClientStream || m.IsServerStream,
				input: messageType(t, declared.Input()), output: messageType(t, declared.Output()),
			})
		}
	}
	slices.SortFunc(methods, func(a, b method) int { return strings.Compare(a.full, b.full) })
	if len(methods) < 27 {
		t.Fatalf("found only %d methods: %v", len(methods), methods)
	}
	return methods
}

func messageType(t *testing.T, descriptor protoreflect.MessageDescriptor) protoreflect.MessageType {
	t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		t.Fatalf("message %s: %v", descriptor.FullName(), err)
	}
	return found
}

// reports says that m's stream ends by itself, after any number of messages.
func (m method) reports() bool {
	return m.full == pb.DiagnosticsService_StreamCheck_FullMethodName || m.full == pb.DiagnosticsService_SweepLookups_FullMethodName
}

// invoke calls m, whichever it is. Of a stream it takes the first message, of one that
// reports the last, and no options: those that write are written to after the stream was left.
func (p *peer) invoke(ctx context.Context, m method, request proto.Message, options ...grpc.CallOption) (proto.Message, error) {
	response := m.output.New().Interface()
	if !m.stream {
		return response, p.conn.Invoke(ctx, m.full, request, response, options...)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, m.full)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg knows why
		return nil, fmt.Errorf("send: %w", err)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	if err := stream.RecvMsg(response); err != nil {
		return nil, err
	}
	if m.full == healthpb.Health_Watch_FullMethodName || m.full == pb.TokenService_WatchToken_FullMethodName || m.full == pb.RotationService_WatchRotation_FullMethodName { // have no end
		return response, nil
	}
	for m.reports() {
		next := m.output.New().Interface()
		switch err := stream.RecvMsg(next); err {
		case nil:
			p.see(response)
			response = next
		case io.EOF:
			return response, nil
		default:
			return nil, err
		}
	}
	if err := stream.RecvMsg(m.output.New().Interface()); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("a stream of one request has a second answer or another end: %w", err)
	}
	return response, nil
}

func labelsMask() *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: []string{"labels"}} }

func trailers(into *metadata.MD) grpc.CallOption { return grpc.Trailer(into) }

// reflectionAlpha is reflection under its older name, with the same messages.
const reflectionAlpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

// sample returns a request that succeeds in a world with the client acme, whose
// pending secret is version 2.
func sample(t *testing.T, m method) proto.Message {
	t.Helper()
	const name = "clients/acme"
	samples := map[string]proto.Message{
		pb.AccessService_WhoAmI_FullMethodName:               &pb.WhoAmIRequest{},
		pb.TokenService_GetToken_FullMethodName:              &pb.GetTokenRequest{Client: name},
		pb.TokenService_WatchToken_FullMethodName:            &pb.WatchTokenRequest{Client: name},
		pb.TokenService_RevokeTokens_FullMethodName:          &pb.RevokeTokensRequest{Client: name},
		pb.ClientService_ResetUpstream_FullMethodName:        &pb.ResetUpstreamRequest{Name: name},
		pb.ClientService_CreateClient_FullMethodName:         &pb.CreateClientRequest{Client: clientMessage("sample"), Secret: clientSecret("a sample")},
		pb.ClientService_GetClient_FullMethodName:            &pb.GetClientRequest{Name: name},
		pb.ClientService_ListClients_FullMethodName:          &pb.ListClientsRequest{},
		pb.ClientService_UpdateClient_FullMethodName:         &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask()},
		pb.ClientService_DeleteClient_FullMethodName:         &pb.DeleteClientRequest{Name: name},
		pb.ClientService_UndeleteClient_FullMethodName:       &pb.UndeleteClientRequest{Name: name},
		pb.ClientService_PurgeClient_FullMethodName:          &pb.PurgeClientRequest{Name: name, Confirm: "to be confirmed"},
		pb.ClientService_DisableClient_FullMethodName:        &pb.DisableClientRequest{Name: name},
		pb.ClientService_EnableClient_FullMethodName:         &pb.EnableClientRequest{Name: name},
		pb.ClientService_ImportClients_FullMethodName:        &pb.ImportClientsRequest{Client: clientMessage("imported"), Secret: clientSecret("a sample")},
		pb.ClientService_ListProviders_FullMethodName:        &pb.ListProvidersRequest{},
		pb.ClientService_GetProvider_FullMethodName:          &pb.GetProviderRequest{Name: "providers/example"},
		pb.RotationService_StageSecret_FullMethodName:        &pb.StageSecretRequest{Client: name, Secret: clientSecret("another sample")},
		pb.RotationService_VerifySecret_FullMethodName:       &pb.VerifySecretRequest{Client: name},
		pb.RotationService_PromoteSecret_FullMethodName:      &pb.PromoteSecretRequest{Client: name},
		pb.RotationService_RetireSecret_FullMethodName:       &pb.RetireSecretRequest{Client: name, SecretVersion: 2},
		pb.RotationService_RollbackSecret_FullMethodName:     &pb.RollbackSecretRequest{Client: name, SecretVersion: 1},
		pb.RotationService_RotateSecret_FullMethodName:       &pb.RotateSecretRequest{Client: name, Secret: clientSecret("a rotated sample")},
		pb.RotationService_AbortRotation_FullMethodName:      &pb.AbortRotationRequest{Client: name},
		pb.RotationService_AdoptSecret_FullMethodName:        &pb.AdoptSecretRequest{Client: name},
		pb.RotationService_GetRotation_FullMethodName:        &pb.GetRotationRequest{Client: name},
		pb.RotationService_ListRotations_FullMethodName:      &pb.ListRotationsRequest{},
		pb.RotationService_WatchRotation_FullMethodName:      &pb.WatchRotationRequest{Client: name},
		pb.RotationService_ListSecretVersions_FullMethodName: &pb.ListSecretVersionsRequest{Client: name},
		pb.DiagnosticsService_CheckLookup_FullMethodName:     &pb.CheckLookupRequest{Client: name},
		pb.DiagnosticsService_StreamCheck_FullMethodName:     &pb.StreamCheckRequest{Check: &pb.CheckLookupRequest{Client: name}},
		pb.DiagnosticsService_SweepLookups_FullMethodName:    &pb.SweepLookupsRequest{},
		pb.DiagnosticsService_ExplainError_FullMethodName:    &pb.ExplainErrorRequest{RequestId: "to be confirmed"},

		pb.AuthorizationService_StartAuthorization_FullMethodName:    &pb.StartAuthorizationRequest{Client: name, Subject: sampleSubject},
		pb.AuthorizationService_CompleteAuthorization_FullMethodName: &pb.CompleteAuthorizationRequest{Client: name, State: "to be confirmed", Code: "code"},
		pb.AuthorizationService_ImportAuthorization_FullMethodName: &pb.ImportAuthorizationRequest{
			Client: name, Subject: sampleSubject, Grant: &pb.ImportAuthorizationRequest_RefreshToken{RefreshToken: "a sample"},
		},
		pb.AuthorizationService_GetAuthorization_FullMethodName:    &pb.GetAuthorizationRequest{Client: name, Subject: sampleSubject},
		pb.AuthorizationService_ListAuthorizations_FullMethodName:  &pb.ListAuthorizationsRequest{Client: name},
		pb.AuthorizationService_RevokeAuthorization_FullMethodName: &pb.RevokeAuthorizationRequest{Client: name, Subject: sampleSubject},
		pb.AuthorizationService_DeleteSubject_FullMethodName:       &pb.DeleteSubjectRequest{Subject: sampleSubject},

		healthpb.Health_Check_FullMethodName: &healthpb.HealthCheckRequest{},
		healthpb.Health_List_FullMethodName:  &healthpb.HealthListRequest{},
		healthpb.Health_Watch_FullMethodName: &healthpb.HealthCheckRequest{},

		reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName: &reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
		},
		reflectionAlpha: &reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
		},
	}
	request, ok := samples[m.full]
	if !ok {
		t.Fatalf("there is no sample request for %s: add one", m.full)
	}
	return request
}

// confirmed is a sample that says what only the world knows: the uid of its client, or
// what a browser brings back from consent.
func confirmed(t *testing.T, w *world, request proto.Message) proto.Message {
	t.Helper()
	if purge, ok := request.(*pb.PurgeClientRequest); ok {
		purge.Confirm = uidOf(t, w)
	}
	if explain, ok := request.(*pb.ExplainErrorRequest); ok {
		explain.RequestId = w.failOnce(t, "acme")
	}
	if complete, ok := request.(*pb.CompleteAuthorizationRequest); ok {
		complete.State, complete.Code = w.consent(t, "acme")
	}
	return request
}

// failOnce has a call about a client fail and returns its request id.
func (w *world) failOnce(t *testing.T, id string) string {
	t.Helper()
	_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + id, Scopes: []string{"admin"}})
	failed := problemOf(err).metadata["request_id"]
	if failed == "" {
		t.Fatalf("got %v, want a failure with a request id", err)
	}
	return failed
}

func uidOf(t *testing.T, w *world) string {
	t.Helper()
	found, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/acme"})
	must(t, err)
	return found.GetClient().GetUid()
}
