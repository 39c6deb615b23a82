package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// secretMethods are those whose requests carry a secret, with such a request.
func secretMethods(input *pb.SecretInput) map[string]proto.Message {
	fresh := clientMessage("fresh-" + random(12))
	return map[string]proto.Message{
		pb.ClientService_CreateClient_FullMethodName:   &pb.CreateClientRequest{Client: fresh, Secret: input},
		pb.ClientService_UpdateClient_FullMethodName:   &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: input},
		pb.RotationService_StageSecret_FullMethodName:  &pb.StageSecretRequest{Client: "clients/acme", Secret: input},
		pb.RotationService_RotateSecret_FullMethodName: &pb.RotateSecretRequest{Client: "clients/acme", Secret: input},
	}
}

// requestsFail sends secrets that are refused, and broken messages around them.
func (c *canary) requestsFail(t *testing.T) {
	spoiled := map[string]func(string) string{
		"newline": func(s string) string { return s + "\n" },
		"control": func(s string) string { return s + "\x01" + s },
		"large":   func(s string) string { return strings.Repeat(s, broker.MaxSecretBytes/len(s)+1) },
	}
	for _, spoil := range spoiled {
		for full, request := range secretMethods(clientSecret(spoil(c.secret("acme").GetClientSecret()))) {
			c.do(t, c.peer, full, request, codes.InvalidArgument)
		}
	}
	for _, jwk := range []bool{true, false} { // a key for a method that takes none
		for full, request := range secretMethods(c.key(t, "acme", jwk)) {
			c.do(t, c.peer, full, request, codes.FailedPrecondition)
		}
	}
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: clientMessage("acme"), Secret: c.secret("acme")}, codes.AlreadyExists)
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Secret: c.secret("acme")}, codes.InvalidArgument)
	c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), Secret: c.secret("acme")}, codes.InvalidArgument)
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/nobody", Secret: c.secret("nobody")}, codes.NotFound)
	c.do(t, c.peer, pb.RotationService_PromoteSecret_FullMethodName, &pb.PromoteSecretRequest{Client: "clients/acme"}, codes.FailedPrecondition)
	c.do(t, c.peer, pb.RotationService_RetireSecret_FullMethodName, &pb.RetireSecretRequest{Client: "clients/nobody"}, codes.NotFound)
	c.do(t, c.peer, pb.DiagnosticsService_CheckLookup_FullMethodName, &pb.CheckLookupRequest{Client: "acme"}, codes.InvalidArgument)
	for full, request := range secretMethods(c.secret("acme")) {
		sound, err := proto.Marshal(request)
		must(t, err)
		c.do(t, c.peer, full, rawMessage(sound[:len(sound)-3]), codes.Internal, grpc.ForceCodec(rawCodec{}))
		broken := []byte(strings.ReplaceAll(string(sound), "é", "\xff\xfe")) // not UTF-8
		c.do(t, c.peer, full, rawMessage(broken), codes.Internal, grpc.ForceCodec(rawCodec{}))
	}
}

// rawCodec sends bytes as they are: messages that a client cannot make.
type rawCodec struct{}

// Name implements encoding.Codec.
func (rawCodec) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) {
	return v.(*healthpb.HealthCheckRequest).ProtoReflect().GetUnknown(), nil
}

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal([]byte, any) error { return errors.New("an answer to a broken message") }

// rawMessage carries bytes to rawCodec.
func rawMessage(b []byte) proto.Message {
	m := &healthpb.HealthCheckRequest{}
	m.ProtoReflect().SetUnknown(b)
	return m
}

// storeFails runs every method against a store that fails in each of its ways.
func (c *canary) storeFails(t *testing.T) {
	faults := []brokertest.Fault{
		brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.LoseAfter(),
		{Before: func(context.Context, brokertest.Call) error { return errors.New("no reason at all") }},
	}
	for _, fault := range faults {
		for full, m := range c.methods {
			if !m.reads() || full == pb.DiagnosticsService_CheckLookup_FullMethodName || full == pb.DiagnosticsService_StreamCheck_FullMethodName { // which report
				continue
			}
			request := sample(t, m)
			if carries, ok := secretMethods(c.secret("acme"))[full]; ok {
				request = carries
			}
			switch r := request.(type) { // whose tokens are not in memory
			case *pb.GetTokenRequest:
				r.Client = "clients/not-in-memory"
			case *pb.WatchTokenRequest:
				r.Client = "clients/not-in-memory"
			}
			c.store.Always(fault, brokertest.Any)
			c.do(t, c.peer, full, request, wantOf(fault))
			c.store.Heal()
		}
	}
	c.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
	c.do(t, c.peer, pb.ClientService_ImportClients_FullMethodName, &pb.ImportClientsRequest{Client: clientMessage("acme"), Secret: c.secret("acme")}, codes.OK)
	c.store.Heal()
	c.spill.armed.Store(true)
	for full, request := range secretMethods(c.secret("acme")) {
		c.do(t, c.peer, full, request, codes.Internal)
	}
	c.spill.armed.Store(false)
}

func wantOf(fault brokertest.Fault) codes.Code {
	if fault.Name == "" {
		return codes.Internal
	}
	return codes.Unavailable
}

// damagedRecords puts the secret's record into states that a parser may quote.
func (c *canary) damagedRecords(t *testing.T) {
	for _, damage := range []func(string) string{
		func(s string) string { return strings.Replace(s, `"value":`, `"value":5,"x":`, 1) },
		func(s string) string { return strings.Replace(s, `"number":`, `"number":"x","y":`, 1) },
		func(s string) string { return strings.Replace(s, `cs-`, `CS-`, 1) },
		func(s string) string { return s[:len(s)-2] },
		func(s string) string { return `["` + s + `"]` },
		func(s string) string { return strings.Replace(s, `"schema":1`, `"schema":99`, 1) },
	} {
		input := c.secret("acme")
		c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/acme", Secret: input}, codes.OK)
		c.do(t, c.peer, pb.RotationService_PromoteSecret_FullMethodName, &pb.PromoteSecretRequest{Client: "clients/acme", AllowUnverified: true, DropTokens: true}, codes.OK)
		for _, key := range c.memory.Contains(input.GetClientSecret()[:20]) {
			record, err := c.memory.Read(t.Context(), key)
			must(t, err)
			c.memory.Put(key, damage(record.Data.RevealString()))
		}
		c.do(t, c.peer, pb.DiagnosticsService_CheckLookup_FullMethodName, &pb.CheckLookupRequest{Client: "clients/acme"}, codes.OK)
		c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{Client: "clients/acme"}, c.codeOfLookup(t))
		c.checksOf(t, "acme")
		good := c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: c.secret("acme")}, codes.OK)
		for _, v := range good.(*pb.UpdateClientResponse).GetClient().GetSecretVersions() {
			if v.GetStage() != pb.SecretStage_SECRET_STAGE_CURRENT {
				c.do(t, c.peer, pb.RotationService_RetireSecret_FullMethodName, &pb.RetireSecretRequest{Client: "clients/acme", SecretVersion: v.GetNumber()}, codes.OK)
			}
		}

	}
}

// codeOfLookup returns the code that a lookup of acme's root cause has.
func (c *canary) codeOfLookup(t *testing.T) codes.Code {
	t.Helper()
	report, err := c.diagnostics.CheckLookup(t.Context(), &pb.CheckLookupRequest{Client: "clients/acme"})
	must(t, err)
	if report.GetRootCause() == nil {
		t.Fatal("the damaged record breaks nothing")
	}
	return codeOf(t, broker.Reason(report.GetRootCause().GetReason()))
}

// providerFails makes the authorization server and its tokens fail.
func (c *canary) providerFails(t *testing.T) {
	for reason := range map[broker.Reason]bool{
		broker.ReasonClientRejected: true, broker.ReasonUpstreamTLS: true, broker.ReasonUpstreamRefused: true, broker.ReasonUpstreamMalformed: true,
	} {
		c.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: reason, Detail: "401", RetryAfter: 3 * second}})
		c.tokenFails(t, codeOf(t, reason))
	}
	c.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.ExpiresIn = new(time.Duration) }})
	c.tokenFails(t, codes.FailedPrecondition) // a marked token that is expired already
	c.upstream.Always(brokertest.Step{})
}

// tokenFails asks for a token, and verifies a secret, of a client that was never
// asked for before.
func (c *canary) tokenFails(t *testing.T, code codes.Code) {
	t.Helper()
	id := "client-" + random(8)
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: clientMessage(id), Secret: c.secret(id)}, codes.OK)
	c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{Client: "clients/" + id}, code)
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/" + id, Secret: c.secret(id)}, codes.OK)
	c.do(t, c.peer, pb.RotationService_VerifySecret_FullMethodName, &pb.VerifySecretRequest{Client: "clients/" + id}, code)
}

// grpcServices reads all that health and reflection tell.
func (c *canary) grpcServices(t *testing.T) {
	for full, m := range c.methods {
		if !m.ours() {
			c.do(t, c.peer, full, sample(t, m), codes.OK)
		}
	}
	for service := range c.server.ServiceInfo() {
		c.do(t, c.peer, healthpb.Health_Watch_FullMethodName, &healthpb.HealthCheckRequest{Service: service}, codes.OK)
		for _, full := range []string{reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName, reflectionAlpha} {
			c.do(t, c.peer, full, &reflectionpb.ServerReflectionRequest{
				MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
			}, codes.OK)
		}
	}
	c.do(t, c.peer, healthpb.Health_Check_FullMethodName, &healthpb.HealthCheckRequest{Service: "nobody"}, codes.NotFound)
}
