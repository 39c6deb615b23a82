package server_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// canary drives a world with marked secrets and tokens, and keeps all that comes out.
type canary struct {
	*world
	*finder
	methods map[string]method // full name → method
	// surfaces is what came out :: where → text.
	surfaces map[string]string
	// succeeded and failed are the methods that were seen to do so.
	succeeded, failed map[string]bool
	// spill makes the store panic with what it is to write.
	spill *spiller
}

// spiller is a store that can panic with the data that it is given.
type spiller struct {
	broker.Store
	armed atomic.Bool
}

// Write implements broker.Store.
func (s *spiller) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if s.armed.Load() {
		panic("cannot write " + data.RevealString())
	}
	return s.Store.Write(ctx, key, data, version)
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{
		finder: newFinder(), methods: map[string]method{}, surfaces: map[string]string{},
		succeeded: map[string]bool{}, failed: map[string]bool{}, spill: &spiller{},
	}
	c.world = newWorld(t, setup{
		store: func(s broker.Store) broker.Store {
			c.spill.Store = s
			return c.spill
		},
		request: func(request broker.RequestToken) broker.RequestToken {
			return func(ctx context.Context, r broker.TokenRequest) (broker.TokenResponse, error) {
				response, err := request(ctx, r)
				if err == nil {
					token := "at-" + random(40)
					c.add("access token", []byte(token))
					response.AccessToken = secret.NewString(token)
				}
				return response, err
			}
		},
	})
	for _, m := range registered(t, c.server) {
		c.methods[m.full] = m
	}
	return c
}

// secret returns a marked client secret that the authorization server takes for id.
func (c *canary) secret(id string) *pb.SecretInput {
	value := markedSecret()
	c.add("client secret of "+id, []byte(value))
	c.upstream.Register(id+"-at-provider", value)
	return clientSecret(value)
}

// key returns a marked private key, as PEM or as a JWK.
func (c *canary) key(t *testing.T, id string, jwk bool) *pb.SecretInput {
	t.Helper()
	key := newKey(t)
	c.add("private key of "+id, privateBytes(t, key))
	text := string(keyPEM(t, key))
	if jwk {
		encoded, err := json.Marshal(map[string]string{
			"kty": "EC", "crv": "P-256", "kid": "key-1", "d": base64.RawURLEncoding.EncodeToString(privateBytes(t, key)),
		})
		must(t, err)
		text = string(encoded)
	}
	c.add("private key of "+id, []byte(text))
	c.upstream.Register(id+"-at-provider", text)
	return &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: text}}
}

func privateBytes(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.Bytes()
	must(t, err)
	return b
}

// do calls a method as p, keeps what comes out and fails unless it ends with code.
func (c *canary) do(t *testing.T, p *peer, full string, request proto.Message, code codes.Code, options ...grpc.CallOption) proto.Message {
	t.Helper()
	m, ok := c.methods[full]
	if !ok {
		t.Fatalf("%s is not registered", full)
	}
	var header, trailer metadata.MD
	response, err := p.invoke(t.Context(), m, request, append(options, grpc.Header(&header), grpc.Trailer(&trailer))...)
	if got := status.Code(err); got != code {
		t.Errorf("%s: got %v, want %v", full, err, code)
	}
	where := fmt.Sprintf("%d %s %v", len(c.surfaces), full, code)
	c.surfaces[where+" metadata"] = fmt.Sprint(header, trailer) // none of streams
	if err != nil {
		c.failed[full] = true
		c.keep(t, where, status.Convert(err).Proto())
		c.surfaces[where+" text"] = err.Error()
		return nil
	}
	c.succeeded[full] = true
	shown := response
	if token, ok := response.(*pb.GetTokenResponse); ok {
		if len(c.find(token.GetAccessToken())) == 0 {
			t.Errorf("got the token %q, want a marked one", token.GetAccessToken())
		}
		token = proto.CloneOf(token)
		token.AccessToken = "" // the one place where a token may be
		shown = token
	}
	if pushed, ok := response.(*pb.WatchTokenResponse); ok {
		pushed = proto.CloneOf(pushed)
		pushed.Token.AccessToken = "" // the other one
		shown = pushed
	}
	c.keep(t, where, shown)
	return response
}

func (c *canary) keep(t *testing.T, where string, m proto.Message) {
	t.Helper()
	wire, err := proto.Marshal(m)
	must(t, err)
	asJSON, err := protojson.Marshal(m)
	must(t, err)
	c.surfaces[where+" wire"], c.surfaces[where+" JSON"], c.surfaces[where+" text form"] = string(wire), string(asJSON), prototext.Format(m)
}

// verdict searches all that came out, and the log.
func (c *canary) verdict(t *testing.T) {
	t.Helper()
	record, err := c.memory.Read(t.Context(), "meta")
	must(t, err)
	var meta struct {
		Keys []struct{ Key []byte } `json:"fingerprint_keys"`
	}
	must(t, json.Unmarshal(record.Data.Reveal(), &meta))
	c.add("fingerprint key", meta.Keys[0].Key)

	c.surfaces["log"], c.surfaces["audit"] = c.logs.String(), c.audit.String()
	size := 0
	for _, where := range slices.Sorted(maps.Keys(c.surfaces)) {
		size += len(c.surfaces[where])
		if found := c.find(c.surfaces[where]); len(found) != 0 {
			t.Errorf("%s: found %q in\n%s", where, found, c.surfaces[where])
		}
	}
	windows := 0
	for _, w := range c.windows {
		windows += len(w)
	}
	t.Logf("searched %d surfaces of %d bytes for %d marks", len(c.surfaces), size, windows)
	// The marks are real: the store has them.
	if len(c.memory.Contains("cs-")) == 0 {
		t.Error("no marked secret reached the store")
	}
}

// TestCanary sends marked secrets through every method, in success and in failure,
// and searches everything that came out.
func TestCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCanary(t)
		c.clientsSucceed(t)
		c.rotationSucceeds(t)
		c.tokensSucceed(t)
		c.consentsSucceed(t)
		c.checksSucceed(t)
		c.requestsFail(t)
		c.storeFails(t)
		c.damagedRecords(t)
		c.providerFails(t)
		c.grpcServices(t)
		for full, m := range c.methods {
			if !c.succeeded[full] || !c.failed[full] && m.reads() {
				t.Errorf("%s: seen to succeed: %t, to fail: %t; add it to the canary", full, c.succeeded[full], c.failed[full])
			}
		}
		synctest.Wait()
		c.verdict(t)
	})
}

// TestCanaryRefused sends marked secrets as peers who may not call the methods.
func TestCanaryRefused(t *testing.T) {
	w, a, _ := overSockets(t)
	c := &canary{world: w, finder: newFinder(), methods: map[string]method{}, surfaces: map[string]string{}, succeeded: map[string]bool{}, failed: map[string]bool{}}
	for _, m := range registered(t, w.server) {
		c.methods[m.full] = m
	}
	for code, p := range map[codes.Code]*peer{
		codes.PermissionDenied: w.connectTLS(t, a, a.caller(t, callerIdentity)),
		codes.Unauthenticated:  w.connectTLS(t, a, nil),
	} {
		c.do(t, p, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: clientMessage("acme"), Secret: c.secret("acme")}, code)
		c.do(t, p, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), Secret: c.key(t, "acme", true)}, code)
		c.do(t, p, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/acme", Secret: c.key(t, "acme", false)}, code)
	}
	c.surfaces["log"], c.surfaces["audit"] = w.logs.String(), w.audit.String()
	for where, text := range c.surfaces {
		if found := c.find(text); len(found) != 0 {
			t.Errorf("%s: found %q in\n%s", where, found, text)
		}
	}
}

func (c *canary) clientsSucceed(t *testing.T) {
	basic := &pb.CreateClientRequest{Client: clientMessage("acme"), Secret: c.secret("acme"), RequestId: "create-1"}
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, basic, codes.OK)
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, basic, codes.OK) // repeated
	for id, jwk := range map[string]bool{"pem": false, "jwk": true} {
		client := clientMessage(id)
		client.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT
		c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, &pb.CreateClientRequest{Client: client, Secret: c.key(t, id, jwk)}, codes.OK)
	}
	c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask()}, codes.OK)
	c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: c.secret("acme")}, codes.OK)
	for _, full := range []string{
		pb.ClientService_GetClient_FullMethodName, pb.ClientService_ListClients_FullMethodName, pb.ClientService_DisableClient_FullMethodName, pb.ClientService_EnableClient_FullMethodName,
		pb.ClientService_DeleteClient_FullMethodName, pb.ClientService_UndeleteClient_FullMethodName, pb.DiagnosticsService_CheckLookup_FullMethodName, pb.AccessService_WhoAmI_FullMethodName,
		pb.TokenService_WatchToken_FullMethodName, pb.TokenService_RevokeTokens_FullMethodName, pb.ClientService_ResetUpstream_FullMethodName,
		pb.ClientService_ListProviders_FullMethodName, pb.ClientService_GetProvider_FullMethodName,
	} {
		c.do(t, c.peer, full, sample(t, c.methods[full]), codes.OK)
	}
	imported := &pb.ImportClientsRequest{Client: clientMessage("imported"), Secret: c.secret("imported"), Update: true}
	c.do(t, c.peer, pb.ClientService_ImportClients_FullMethodName, imported, codes.OK)
	c.do(t, c.peer, pb.ClientService_ImportClients_FullMethodName, imported, codes.OK) // repeated
	imported.Secret = c.key(t, "imported", true)
	c.do(t, c.peer, pb.ClientService_ImportClients_FullMethodName, imported, codes.OK) // which its answer refuses
	validated := &pb.CreateClientRequest{Client: clientMessage("validated"), Secret: c.secret("validated"), ValidateOnly: true}
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, validated, codes.OK)
	changed := &pb.UpdateClientRequest{Client: clientMessage("acme"), UpdateMask: labelsMask(), Secret: c.secret("acme"), ValidateOnly: true}
	c.do(t, c.peer, pb.ClientService_UpdateClient_FullMethodName, changed, codes.OK)
	gone := &pb.CreateClientRequest{Client: clientMessage("gone"), Secret: c.secret("gone")}
	c.do(t, c.peer, pb.ClientService_CreateClient_FullMethodName, gone, codes.OK)
	c.do(t, c.peer, pb.ClientService_DeleteClient_FullMethodName, &pb.DeleteClientRequest{Name: "clients/gone"}, codes.OK)
	deleted, err := c.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/gone"})
	must(t, err)
	c.do(t, c.peer, pb.ClientService_PurgeClient_FullMethodName, &pb.PurgeClientRequest{Name: "clients/gone", Etag: deleted.GetClient().GetEtag()}, codes.OK)
}

func (c *canary) rotationSucceeds(t *testing.T) {
	stage := &pb.StageSecretRequest{Client: "clients/acme", Secret: c.secret("acme"), RequestId: "stage-1"}
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, stage, codes.OK)
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, stage, codes.OK) // repeated
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/pem", Secret: c.key(t, "pem", false)}, codes.OK)
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/jwk", Secret: c.key(t, "jwk", true)}, codes.OK)
	for _, id := range []string{"acme", "pem", "jwk"} {
		c.do(t, c.peer, pb.RotationService_VerifySecret_FullMethodName, &pb.VerifySecretRequest{Client: "clients/" + id}, codes.OK)
		c.do(t, c.peer, pb.RotationService_PromoteSecret_FullMethodName, &pb.PromoteSecretRequest{Client: "clients/" + id}, codes.OK)
	}
	c.do(t, c.peer, pb.RotationService_ListSecretVersions_FullMethodName, &pb.ListSecretVersionsRequest{Client: "clients/acme"}, codes.OK)
	c.do(t, c.peer, pb.RotationService_RollbackSecret_FullMethodName, &pb.RollbackSecretRequest{Client: "clients/acme"}, codes.OK)
	c.do(t, c.peer, pb.RotationService_RetireSecret_FullMethodName, &pb.RetireSecretRequest{Client: "clients/acme", SecretVersion: 1}, codes.OK)
	c.overwriteSecret(t)
	c.do(t, c.peer, pb.RotationService_AdoptSecret_FullMethodName, &pb.AdoptSecretRequest{Client: "clients/acme"}, codes.OK)
	c.do(t, c.peer, pb.RotationService_PromoteSecret_FullMethodName, &pb.PromoteSecretRequest{Client: "clients/acme", AllowUnverified: true}, codes.OK)
	c.do(t, c.peer, pb.RotationService_StageSecret_FullMethodName, &pb.StageSecretRequest{Client: "clients/jwk", Secret: c.key(t, "jwk", true)}, codes.OK)
	c.do(t, c.peer, pb.RotationService_AbortRotation_FullMethodName, &pb.AbortRotationRequest{Client: "clients/jwk"}, codes.OK)
	for _, validateOnly := range []bool{true, false} {
		rotate := &pb.RotateSecretRequest{Client: "clients/pem", Secret: c.key(t, "pem", false), ValidateOnly: validateOnly}
		c.do(t, c.peer, pb.RotationService_RotateSecret_FullMethodName, rotate, codes.OK)
	}
	c.do(t, c.peer, pb.RotationService_WatchRotation_FullMethodName, &pb.WatchRotationRequest{Client: "clients/pem"}, codes.OK)
	c.do(t, c.peer, pb.RotationService_GetRotation_FullMethodName, &pb.GetRotationRequest{Client: "clients/pem"}, codes.OK)
	c.do(t, c.peer, pb.RotationService_ListRotations_FullMethodName, &pb.ListRotationsRequest{}, codes.OK)
}

// overwriteSecret puts another secret over acme's current one by hand.
func (c *canary) overwriteSecret(t *testing.T) {
	t.Helper()
	for _, key := range c.memory.Keys() {
		if strings.HasPrefix(key, "secrets/acme/") && strings.HasSuffix(key, "-2") {
			text, err := json.Marshal(map[string]any{"schema": 1, "uid": "u", "write_id": "w", "number": 2, "value": c.secret("acme").GetClientSecret()})
			must(t, err)
			c.memory.Put(key, string(text))
		}
	}
}

func (c *canary) tokensSucceed(t *testing.T) {
	narrowed := brokertest.Step{Edit: func(r *broker.TokenResponse) { r.ExpiresIn, r.Scopes = nil, []string{} }}
	c.upstream.Script(brokertest.Step{}, narrowed)
	for _, id := range []string{"acme", "pem", "pem", "jwk"} {
		c.do(t, c.peer, pb.TokenService_GetToken_FullMethodName, &pb.GetTokenRequest{Client: "clients/" + id}, codes.OK)
	}
}
