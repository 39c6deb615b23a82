package server_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

func wrappingToken(token secret.Value) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_WrappingToken{WrappingToken: token.RevealString()}}
}

func reference(mount, path, field string) *pb.SecretInput {
	return &pb.SecretInput{Value: &pb.SecretInput_Reference{Reference: &pb.SecretReference{Mount: mount, Path: path, Field: field}}}
}

func createWith(t *testing.T, w *world, in *pb.SecretInput) error {
	_, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: clientMessage("fresh"), Secret: in})
	return err
}

func updateWith(t *testing.T, w *world, in *pb.SecretInput) error {
	_, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: in})
	return err
}

// sourceProvocations are what can be wrong with a secret that is not in the request
// itself. send sends one in a request that is sound otherwise.
func sourceProvocations(send func(*testing.T, *world, *pb.SecretInput) error) []provocation {
	sending := func(input func(w *world) *pb.SecretInput) func(*testing.T, *world) error {
		return call(func(t *testing.T, w *world) error { return send(t, w, input(w)) })
	}
	fixed := func(in *pb.SecretInput) func(*testing.T, *world) error {
		return sending(func(*world) *pb.SecretInput { return in })
	}
	wrapped := func(fields map[string]any) func(*testing.T, *world) error {
		return sending(func(w *world) *pb.SecretInput { return wrappingToken(w.wrapping.Wrap(fields)) })
	}
	const invalid = broker.ReasonInvalidRequest
	return []provocation{
		{"wrapping token with a newline", codes.InvalidArgument, invalid, "secret.wrapping_token", fixed(wrappingToken(secret.NewString("hvs.token\n")))},
		{"reference with dots", codes.InvalidArgument, invalid, "secret.reference.path", fixed(reference("team", "oauth/../x", "value"))},
		{"reference that is encoded", codes.InvalidArgument, invalid, "secret.reference.path", fixed(reference("team", "oauth/%2e%2e/x", "value"))},
		{"reference with an empty segment", codes.InvalidArgument, invalid, "secret.reference.mount", fixed(reference("team//x", "oauth", "value"))},
		{"reference without a field", codes.InvalidArgument, invalid, "secret.reference.field", fixed(reference("team", "oauth", ""))},
		{"wrapping something else", codes.InvalidArgument, broker.ReasonWrappingContentInvalid, "", wrapped(map[string]any{"password": "x"})},
		{"wrapping a newline", codes.InvalidArgument, broker.ReasonWrappingContentInvalid, "secret", wrapped(map[string]any{"value": "x\n"})},
		{"wrapped elsewhere", codes.PermissionDenied, broker.ReasonWrappingPathRefused, "", sending(func(w *world) *pb.SecretInput {
			return wrappingToken(w.wrapping.WrapElsewhere(map[string]any{"value": "x"}))
		})},
		{"reference elsewhere", codes.PermissionDenied, broker.ReasonReferenceNotAllowed, "", fixed(reference("team", "other", "value"))},
		{"invented wrapping token", codes.FailedPrecondition, broker.ReasonWrappingTokenInvalid, "", fixed(wrappingToken(secret.NewString("hvs.invented")))},
		{"answer to the unwrapping lost", codes.FailedPrecondition, broker.ReasonWrappingAnswerLost, "", sending(func(w *world) *pb.SecretInput {
			w.wrapping.Refuse(&broker.Error{Reason: broker.ReasonWrappingAnswerLost})
			return wrappingToken(w.wrapping.Wrap(map[string]any{"value": "x"}))
		})},
		{"reference to nothing", codes.FailedPrecondition, broker.ReasonReferenceUnreadable, "", fixed(reference("team", "oauth/nothing", "value"))},
	}
}

// TestReferencesNeedAPermissionOfTheirOwn: whoever may bring a secret may not by that
// have any other's sent to an endpoint of their choice.
func TestReferencesNeedAPermissionOfTheirOwn(t *testing.T) {
	in := reference("team", "oauth/acme", "value")
	calls := map[string]func(*testing.T, *world) error{
		"CreateClient": func(t *testing.T, w *world) error { return createWith(t, w, in) },
		"UpdateClient": func(t *testing.T, w *world) error { return updateWith(t, w, in) },
		"StageSecret": func(t *testing.T, w *world) error {
			_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/acme", Secret: in})
			return err
		},
	}
	const others = "client.write, secret.stage, secret.promote"
	for name, call := range calls {
		for permissions, allowed := range map[string]bool{others: false, others + ", secret.reference": true} {
			t.Run(fmt.Sprintf("%s/%t", name, allowed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _ := tabled(t, `{callers: ["*"], permissions: [`+permissions+`], clients: ["*"]}`)
					if got := problemOf(call(t, w)).reason; (got != broker.ReasonCallerNotAllowed) != allowed {
						t.Errorf("with %s: reason %q, want it allowed: %t", permissions, got, allowed)
					}
				})
			})
		}
	}
}

// TestCanaryOfSources has marked secrets come from elsewhere, and marked tokens.
func TestCanaryOfSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCanary(t)
		c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: clientMessage("acme"), Secret: c.secret("acme")}, codes.OK)
		c.sourcesSucceed(t)
		c.sourcesFail(t)
		c.do(t, c.peer, pb.DiagnosticsService_CheckLookup_FullMethodName, &pb.CheckLookupRequest{Client: "clients/referring"}, codes.OK)
		if !strings.Contains(c.logs.String(), "does not follow its owner") {
			t.Error("the log does not say that the provider refused what the owner wrote")
		}
		synctest.Wait()
		c.verdict(t)
	})
}

// sourcesSucceed registers clients whose secrets come from elsewhere.
func (c *canary) sourcesSucceed(t *testing.T) {
	t.Helper()
	token := c.wrappingToken("wrapped", "client_secret")
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: clientMessage("wrapped"), Secret: token}, codes.OK)
	c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName,
		&pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: c.wrappingToken("acme", "value")}, codes.OK)

	c.references.Put("team", "oauth/canary", map[string]any{"value": c.secret("referring").GetClientSecret()})
	client := clientMessage("referring")
	client.AllowedScopes = []string{"write"}
	referring := &pb.CreateClientRequest{Client: client, Secret: reference("team", "oauth/canary", "value")}
	created := c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, referring, codes.OK).(*pb.CreateClientResponse)
	if got := created.GetClient().GetSecretVersions()[0]; got.GetReference().GetPath() != "oauth/canary" || got.GetOwnerVersion() != 1 {
		t.Errorf("the version says that it is %v, version %d; want what was referred to", got.GetReference(), got.GetOwnerVersion())
	}
	c.references.Put("team", "oauth/canary", map[string]any{"value": c.secret("referring").GetClientSecret()}) // is followed
	for _, id := range []string{"wrapped", "referring"} {
		c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{Client: "clients/" + id}, codes.OK)
	}
}

// wrappingToken returns a marked token that wraps a marked secret of id.
func (c *canary) wrappingToken(id, field string) *pb.SecretInput {
	token := c.wrapping.Wrap(map[string]any{field: c.secret(id).GetClientSecret()})
	c.add("wrapping token", token.Reveal())
	return wrappingToken(token)
}

// sourcesFail has wrapping tokens and references that are refused.
func (c *canary) sourcesFail(t *testing.T) {
	t.Helper()
	used := c.wrappingToken("acme", "password")
	send := func(in *pb.SecretInput, code codes.Code) {
		t.Helper()
		c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: in}, code)
	}
	send(used, codes.InvalidArgument)    // wraps no secret
	send(used, codes.FailedPrecondition) // and is used up
	elsewhere := c.wrapping.WrapElsewhere(map[string]any{"value": c.secret("acme").GetClientSecret()})
	c.add("wrapping token", elsewhere.Reveal())
	send(wrappingToken(elsewhere), codes.PermissionDenied)
	send(wrappingToken(secret.NewString(elsewhere.RevealString()+"\n")), codes.InvalidArgument)
	c.references.Put("team", "oauth/spoiled", map[string]any{"value": c.secret("acme").GetClientSecret() + "\n"})
	send(reference("team", "oauth/spoiled", "value"), codes.FailedPrecondition)

	c.references.Put("team", "oauth/canary", map[string]any{"value": markedSecret()}) // nobody takes it
	rejected := &pb.GetTokenRequest{Client: "clients/referring", Scopes: []string{"write"}}
	c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, rejected, codes.OK) // with the one before
}
