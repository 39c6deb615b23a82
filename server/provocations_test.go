package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// contract is how to provoke each code :: RPC → provocations. Codes that every
// method has (docs/errors.md) have tests of their own.
var contract = joined(clientContract, rotationContract, savingContract, consentContract, checkContract)

// clientContract is the part of TokenService and ClientService.
var clientContract = map[string][]provocation{
	"GetToken": {
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", getToken("acme", nil)},
		{"bad id", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", getToken("clients/../acme", nil)},
		{"bad scope", codes.InvalidArgument, broker.ReasonInvalidRequest, "scopes[1]", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Scopes = []string{"a", "b c"} })},
		{"duplicate scope", codes.InvalidArgument, broker.ReasonInvalidRequest, "scopes[1]", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Scopes = []string{"a", "a"} })},
		{"101 scopes", codes.InvalidArgument, broker.ReasonInvalidRequest, "scopes", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Scopes = make([]string, 101) })},
		{"relative resource", codes.InvalidArgument, broker.ReasonInvalidRequest, "resources[0]", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Resources = []string{"api"} })},
		{"negative validity", codes.InvalidArgument, broker.ReasonInvalidRequest, "min_validity", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.MinValidity = durationpb.New(-second) })},
		{"more than a day of validity", codes.InvalidArgument, broker.ReasonInvalidRequest, "min_validity", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.MinValidity = durationpb.New(25 * time.Hour) })},
		{"no duration", codes.InvalidArgument, broker.ReasonInvalidRequest, "min_validity", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.MinValidity = &durationpb.Duration{Seconds: 1, Nanos: -1} })},
		{"scope", codes.PermissionDenied, broker.ReasonScopeNotAllowed, "", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Scopes = []string{"admin"} })},
		{"audience", codes.PermissionDenied, broker.ReasonTargetNotAllowed, "", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Audience = "https://other.example.com" })},
		{"resource", codes.PermissionDenied, broker.ReasonTargetNotAllowed, "", getToken("clients/acme", func(r *pb.GetTokenRequest) { r.Resources = []string{"https://other.example.com"} })},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", getToken("clients/nobody", nil)},
		{"disabled", codes.FailedPrecondition, broker.ReasonClientDisabled, "", after(disable, getToken("clients/acme", nil))},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, getToken("clients/acme", nil))},
		{"no secret", codes.FailedPrecondition, broker.ReasonSecretNotSet, "", getToken("clients/bare", nil)},
		{"secret destroyed", codes.FailedPrecondition, broker.ReasonSecretDestroyed, "", after(takeSecret(broker.AbsentDestroyed), getToken("clients/acme", nil))},
		{"secret deleted", codes.FailedPrecondition, broker.ReasonSecretDeleted, "", after(takeSecret(broker.AbsentDeleted), getToken("clients/acme", nil))},
		{"secret changed", codes.FailedPrecondition, broker.ReasonSecretChangedOutside, "", after(changeSecret, getToken("clients/acme", nil))},
		{"rejected", codes.FailedPrecondition, broker.ReasonClientRejected, "", after(withdraw, getToken("clients/acme", nil))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), getToken("clients/acme", nil))},
		{"store sealed", codes.Unavailable, broker.ReasonStoreSealed, "", after(storeFails(broker.ReasonStoreSealed), getToken("clients/acme", nil))},
		{"upstream down", codes.Unavailable, broker.ReasonUpstreamConnect, "", after(upstreamFails(broker.ReasonUpstreamConnect, 0), getToken("clients/acme", nil))},
		{"upstream slow", codes.Unavailable, broker.ReasonUpstreamTimeout, "", after(upstreamHangs, getToken("clients/acme", nil))},
		{"store limits", codes.ResourceExhausted, broker.ReasonStoreRateLimited, "", after(storeFails(broker.ReasonStoreRateLimited), getToken("clients/acme", nil))},
		{"upstream limits", codes.ResourceExhausted, broker.ReasonUpstreamRateLimited, "", after(upstreamFails(broker.ReasonUpstreamRateLimited, time.Minute), getToken("clients/acme", nil))},
	},
	"CreateClient": slices.Concat(sourceProvocations(createWith), []provocation{
		{"no client", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.name", create(func(r *pb.CreateClientRequest) { r.Client = nil })},
		{"bad endpoint", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.token_endpoint", create(func(r *pb.CreateClientRequest) { r.Client.TokenEndpoint = "https://user:pass@auth.example.com/" })},
		{"no method", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.authentication_method", create(func(r *pb.CreateClientRequest) { r.Client.AuthenticationMethod = 0 })},
		{"unknown method", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.authentication_method", create(func(r *pb.CreateClientRequest) { r.Client.AuthenticationMethod = 99 })},
		{"bad policy", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.token_policy.min_validity", create(func(r *pb.CreateClientRequest) {
			r.Client.TokenPolicy = &pb.TokenPolicy{MinValidity: &durationpb.Duration{Seconds: 1 << 60}}
		})},
		{"empty secret", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", create(func(r *pb.CreateClientRequest) { r.Secret = &pb.SecretInput{} })},
		{"secret with a newline", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", create(func(r *pb.CreateClientRequest) { r.Secret = clientSecret("a\n") })},
		{"bad request id", codes.InvalidArgument, broker.ReasonInvalidRequest, "request_id", create(func(r *pb.CreateClientRequest) { r.RequestId = "a b" })},
		{"taken", codes.AlreadyExists, broker.ReasonClientAlreadyExists, "", create(func(r *pb.CreateClientRequest) { r.Client.Name = "clients/acme" })},
		{"metadata that lacks the token endpoint", codes.FailedPrecondition, broker.ReasonDiscoveryFailed, "", create(func(r *pb.CreateClientRequest) {
			r.Client.TokenEndpoint, r.Client.Issuer = "", "https://empty.example.com"
		})},
		{"an issuer that is down", codes.Unavailable, broker.ReasonUpstreamConnect, "", create(func(r *pb.CreateClientRequest) {
			r.Client.TokenEndpoint, r.Client.Issuer = "", "https://down.example.com"
		})},
		{"unknown grant", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.grant_type", create(func(r *pb.CreateClientRequest) { r.Client.GrantType = 99 })},
		{"unknown binding", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.token_binding", create(func(r *pb.CreateClientRequest) { r.Client.TokenBinding = 99 })},
		{"unknown profile", codes.InvalidArgument, broker.ReasonInvalidRequest, "client.provider", create(func(r *pb.CreateClientRequest) { r.Client.Provider = "nobody" })},
		{"taken by a deleted one", codes.AlreadyExists, broker.ReasonClientAlreadyExists, "", after(remove, create(func(r *pb.CreateClientRequest) { r.Client.Name = "clients/acme" }))},
	}),
	"GetClient": {{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", call(func(t *testing.T, w *world) error {
		_, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/nobody"})
		return err
	})}},
	"ListClients": {
		{"bad filter", codes.InvalidArgument, broker.ReasonInvalidRequest, "filter", list(&pb.ListClientsRequest{Filter: "name=~x"})},
		{"bad page token", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_token", list(&pb.ListClientsRequest{PageToken: "2"})},
		{"negative page", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_size", list(&pb.ListClientsRequest{PageSize: -1})},
	},
	"UpdateClient": slices.Concat(sourceProvocations(updateWith), []provocation{
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", update("labels", func(c *pb.Client) { c.Name = "clients/nobody" })},
		{"etag", codes.Aborted, broker.ReasonEtagMismatch, "", update("labels", func(c *pb.Client) { c.Etag = "old" })},
		{"race", codes.Aborted, broker.ReasonConcurrentChange, "", after(race, update("labels", func(c *pb.Client) { c.Labels = map[string]string{"a": "b"} }))},
		{"origin", codes.FailedPrecondition, broker.ReasonDestinationNotBound, "", update("token_endpoint", func(c *pb.Client) { c.TokenEndpoint = "https://thief.example.com/token" })},
		{"another provider", codes.FailedPrecondition, broker.ReasonDestinationNotBound, "", update("provider", func(c *pb.Client) { c.Provider = "example" })},
		{"an issuer that is down", codes.Unavailable, broker.ReasonUpstreamConnect, "", update("*", func(c *pb.Client) { c.TokenEndpoint, c.Issuer = "", "https://down.example.com" })},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, update("labels", nil))},
	}),
	"DeleteClient": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", call(func(t *testing.T, w *world) error {
			_, err := w.clients.DeleteClient(t.Context(), &pb.DeleteClientRequest{Name: "clients/nobody"})
			return err
		})},
		{"etag", codes.Aborted, broker.ReasonEtagMismatch, "", call(func(t *testing.T, w *world) error {
			_, err := w.clients.DeleteClient(t.Context(), &pb.DeleteClientRequest{Name: "clients/acme", Etag: "old"})
			return err
		})},
	},
	"UndeleteClient": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", undelete("nobody")},
		{"active", codes.FailedPrecondition, broker.ReasonClientNotDeleted, "", undelete("acme")},
	},
	"PurgeClient": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", purge(&pb.PurgeClientRequest{Name: "clients/nobody", Confirm: "x"})},
		{"not confirmed", codes.InvalidArgument, broker.ReasonInvalidRequest, "confirm", after(remove, purge(&pb.PurgeClientRequest{Name: "clients/acme"}))},
		{"another uid", codes.InvalidArgument, broker.ReasonInvalidRequest, "confirm", after(remove, purge(&pb.PurgeClientRequest{Name: "clients/acme", Confirm: "x"}))},
		{"etag", codes.Aborted, broker.ReasonEtagMismatch, "", after(remove, purge(&pb.PurgeClientRequest{Name: "clients/acme", Etag: "old"}))},
		{"active", codes.FailedPrecondition, broker.ReasonClientNotDeleted, "", call(func(t *testing.T, w *world) error {
			_, err := w.clients.PurgeClient(t.Context(), &pb.PurgeClientRequest{Name: "clients/acme", Confirm: uidOf(t, w)})
			return err
		})},
	},
	"WatchToken": {
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", watchToken("acme", nil)},
		{"bad scope", codes.InvalidArgument, broker.ReasonInvalidRequest, "scopes[0]", watchToken("clients/acme", func(r *pb.WatchTokenRequest) { r.Scopes = []string{"b c"} })},
		{"scope", codes.PermissionDenied, broker.ReasonScopeNotAllowed, "", watchToken("clients/acme", func(r *pb.WatchTokenRequest) { r.Scopes = []string{"admin"} })},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", watchToken("clients/nobody", nil)},
		{"disabled", codes.FailedPrecondition, broker.ReasonClientDisabled, "", after(disable, watchToken("clients/acme", nil))},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, watchToken("clients/acme", nil))},
		{"disabled meanwhile", codes.FailedPrecondition, broker.ReasonClientDisabled, "", meanwhile(disable)},
		{"deleted meanwhile", codes.FailedPrecondition, broker.ReasonClientDeleted, "", meanwhile(remove)},
		{"other scopes by default", codes.Aborted, broker.ReasonConcurrentChange, "", otherDefault},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), watchToken("clients/acme", nil))},
		{"shutting down", codes.Unavailable, broker.ReasonShuttingDown, "", meanwhile(func(t *testing.T, w *world) { go func() { _ = w.stop() }() })},
		{"upstream limits", codes.ResourceExhausted, broker.ReasonUpstreamRateLimited, "", after(upstreamFails(broker.ReasonUpstreamRateLimited, time.Minute), watchToken("clients/acme", nil))},
	},
	"RevokeTokens": {
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", revokeTokens("acme")},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", revokeTokens("clients/nobody")},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, revokeTokens("clients/acme"))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), revokeTokens("clients/acme"))},
	},
	"ResetUpstream": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", resetUpstream("nobody")},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, resetUpstream("acme"))},
	},
	"DisableClient": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", setDisabled("nobody", true)},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, setDisabled("acme", true))},
	},
	"EnableClient": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", setDisabled("nobody", false)},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, setDisabled("acme", false))},
	},
}

// act is one thing that happens in a world where the client acme has a secret and
// the client bare has none.
type act = func(t *testing.T, w *world) error

// call makes the two clients, then calls.
func call(do act) act {
	return func(t *testing.T, w *world) error {
		if !slices.ContainsFunc(w.memory.Keys(), func(key string) bool { return strings.HasPrefix(key, "clients/") }) {
			w.register(t, w.peer, "acme")
			if _, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: clientMessage("bare")}); err != nil {
				t.Fatal(err)
			}
		}
		return do(t, w)
	}
}

// after prepares a world in which the two clients exist, then does.
func after(prepare func(t *testing.T, w *world), do act) act {
	return func(t *testing.T, w *world) error {
		_ = call(func(t *testing.T, w *world) error {
			prepare(t, w)
			return nil
		})(t, w)
		return do(t, w)
	}
}

func getToken(name string, edit func(*pb.GetTokenRequest)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.GetTokenRequest{Client: name}
		if edit != nil {
			edit(request)
		}
		_, err := w.tokens.GetToken(t.Context(), request)
		return err
	})
}

// watchToken returns how a watch ends, or that it does not.
func watchToken(name string, edit func(*pb.WatchTokenRequest)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.WatchTokenRequest{Client: name}
		if edit != nil {
			edit(request)
		}
		stream, err := w.tokens.WatchToken(t.Context(), request)
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	})
}

// meanwhile changes something once a watch has its first token, and returns how it ends.
func meanwhile(change func(t *testing.T, w *world)) act {
	return call(func(t *testing.T, w *world) error {
		stream, err := w.tokens.WatchToken(t.Context(), &pb.WatchTokenRequest{Client: "clients/acme"})
		if err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("the first token: %v", err)
		}
		change(t, w)
		_, err = stream.Recv()
		return err
	})
}

func revokeTokens(name string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.tokens.RevokeTokens(t.Context(), &pb.RevokeTokensRequest{Client: name})
		return err
	})
}

func resetUpstream(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.ResetUpstream(t.Context(), &pb.ResetUpstreamRequest{Name: "clients/" + id})
		return err
	})
}

func create(edit func(*pb.CreateClientRequest)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.CreateClientRequest{Client: clientMessage("new"), Secret: clientSecret("a secret")}
		edit(request)
		_, err := w.clients.CreateClient(t.Context(), request)
		return err
	})
}

func list(request *pb.ListClientsRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.ListClients(t.Context(), request)
		return err
	})
}

func update(path string, edit func(*pb.Client)) act {
	return call(func(t *testing.T, w *world) error {
		request := &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}}
		if edit != nil {
			edit(request.Client)
		}
		_, err := w.clients.UpdateClient(t.Context(), request)
		return err
	})
}

func purge(request *pb.PurgeClientRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.PurgeClient(t.Context(), request)
		return err
	})
}

func undelete(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.UndeleteClient(t.Context(), &pb.UndeleteClientRequest{Name: "clients/" + id})
		return err
	})
}

func setDisabled(id string, disabled bool) act {
	return call(func(t *testing.T, w *world) error {
		if disabled {
			_, err := w.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: "clients/" + id})
			return err
		}
		_, err := w.clients.EnableClient(t.Context(), &pb.EnableClientRequest{Name: "clients/" + id})
		return err
	})
}

func stage(id, value string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/" + id, Secret: clientSecret(value)})
		return err
	})
}

func verify(id string, number int64) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: "clients/" + id, SecretVersion: number})
		return err
	})
}

func promote(id string, unverified bool) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: "clients/" + id, AllowUnverified: unverified})
		return err
	})
}

func retire(id string, number int64) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: "clients/" + id, SecretVersion: number})
		return err
	})
}

func disable(t *testing.T, w *world) { must(t, setDisabled("acme", true)(t, w)) }

func remove(t *testing.T, w *world) {
	_, err := w.clients.DeleteClient(t.Context(), &pb.DeleteClientRequest{Name: "clients/acme"})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func secretKey(t *testing.T, w *world) string {
	t.Helper()
	for _, key := range w.memory.Keys() {
		if strings.HasPrefix(key, "secrets/acme/") {
			return key
		}
	}
	t.Fatal("acme has no secret")
	return ""
}

func takeSecret(how broker.Absence) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { w.memory.Remove(secretKey(t, w), how) }
}

func changeSecret(t *testing.T, w *world) {
	key := secretKey(t, w)
	record, err := w.memory.Read(t.Context(), key)
	must(t, err)
	w.memory.Put(key, strings.Replace(record.Data.RevealString(), "secret-1", "secret-X", 1))
}

func withdraw(_ *testing.T, w *world) { w.upstream.Withdraw("acme-at-provider", "secret-1 of acme") }

func storeFails(reason broker.Reason) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.store.Always(brokertest.Fail(reason), brokertest.Any) }
}

func upstreamFails(reason broker.Reason, retry time.Duration) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) {
		w.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: reason, RetryAfter: retry}})
	}
}

func upstreamHangs(_ *testing.T, w *world) { w.upstream.Always(brokertest.Step{Delay: time.Hour}) }

// race lets another writer change acme just before the broker does.
func race(t *testing.T, w *world) {
	key := w.recordKey(t, "acme")
	w.store.Once(brokertest.Before(func(brokertest.Call) { w.rewrite(t, key) }), brokertest.On(brokertest.OpWrite, key))
}

func stageAnother(t *testing.T, w *world) { w.stage(t, w.peer, "acme", "secret-2 of acme") }

func stageUnknown(t *testing.T, w *world) { must(t, stage("acme", "a secret that nobody knows")(t, w)) }

// eightVersions makes a current, a previous, a pending and five unlabelled ones.
func eightVersions(t *testing.T, w *world) {
	stageAnother(t, w)
	must(t, promote("acme", true)(t, w))
	for i := range 6 {
		must(t, stage("acme", "secret "+strings.Repeat("x", i+1))(t, w))
	}
}
