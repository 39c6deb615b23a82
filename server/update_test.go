package server_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// otherClient differs from fullClient in every field, and its key fits still.
func otherClient(id string) *pb.Client {
	return &pb.Client{
		Name: "clients/" + id, Labels: map[string]string{"team": "erp"},
		TokenEndpoint: "https://auth.example.com/v2/token", ClientId: id + "-2",
		AuthenticationMethod: pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT,
		Assertion:            &pb.AssertionSettings{SigningAlgorithm: "ES384", KeyId: "key-2", Audience: "https://auth2.example.com"},
		DefaultScopes:        []string{"admin"}, AllowedScopes: []string{"delete"},
		Audience: "https://api2.example.com", AllowedAudiences: []string{"https://other2.example.com"},
		Resources: []string{"https://api.example.com/c"}, AllowedResources: []string{"https://api.example.com/d"},
		Parameters:         map[string]string{"tenant": "t2"},
		RevocationEndpoint: "https://auth.example.com/v2/revoke",
		IssueBudget:        &pb.IssueBudget{Tokens: 20, Period: durationpb.New(2 * time.Hour)}, MaxLiveTokens: 7,
		TokenPolicy: &pb.TokenPolicy{MinValidity: durationpb.New(30 * second), AssumedLifetime: durationpb.New(2 * time.Hour)},
		GrantType:   pb.GrantType_GRANT_TYPE_DEVICE_CODE, Issuer: "https://issuer.example.com",
		AuthorizationEndpoint: "https://login.example.com/v2/authorize", DeviceAuthorizationEndpoint: "https://auth.example.com/v2/device",
		IntrospectionEndpoint: "https://auth.example.com/v2/introspect", RefreshEndpoint: "https://auth.example.com/v2/refresh",
	}
}

// TestUpdateClientTakesTheFieldsOfTheMask asks for each settable field alone, for
// each field within a message alone, and for all.
func TestUpdateClientTakesTheFieldsOfTheMask(t *testing.T) {
	w := newWorld(t, setup{})
	key := &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: string(keyPEM(t, newKey(t)))}}
	paths := []string{"*"}
	fullClient("x").ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Name() == "name" {
			return true
		}
		paths = append(paths, string(field.Name()))
		if field.Kind() == protoreflect.MessageKind && !field.IsMap() {
			for i := range field.Message().Fields().Len() {
				paths = append(paths, string(field.Name()+"."+field.Message().Fields().Get(i).Name()))
			}
		}
		return true
	})
	if got, want := len(paths), 32; got != want {
		t.Fatalf("got %d paths %q, want %d: does fullClient set every field?", got, paths, want)
	}
	for i, path := range paths {
		t.Run(path, func(t *testing.T) {
			id := fmt.Sprintf("acme-%d", i)
			if _, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: fullClient(id), Secret: key}); err != nil {
				t.Fatal(err)
			}
			response, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{
				Client: otherClient(id), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}},
			})
			if err != nil {
				t.Fatal(err)
			}
			want := fullClient(id)
			take(want.ProtoReflect(), otherClient(id).ProtoReflect(), strings.Split(path, "."))
			if got := settingsOf(response.GetClient()); !proto.Equal(got, want) {
				t.Errorf("after the update:\ngot  %v\nwant %v", got, want)
			}
		})
	}
}

// TestFieldsThatExcludeOthers are those that TestUpdateClientTakesTheFieldsOfTheMask
// cannot set beside all others.
func TestFieldsThatExcludeOthers(t *testing.T) {
	w := newWorld(t, setup{})
	ofGrant := func(id string, edit func(*pb.Client)) {
		c := clientMessage(id)
		edit(c)
		_, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: c})
		must(t, err)
	}
	ofGrant("acme", func(*pb.Client) {})
	ofGrant("code", func(c *pb.Client) {
		c.GrantType, c.AuthorizationEndpoint = pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE, "https://auth.example.com/authorize"
	})
	ofGrant("assertion", func(c *pb.Client) {
		c.GrantType, c.AuthenticationMethod = pb.GrantType_GRANT_TYPE_JWT_BEARER, pb.AuthenticationMethod_AUTHENTICATION_METHOD_NONE
	})
	ofGrant("profile", func(c *pb.Client) { c.Provider = "example" })
	ofGrant("called", func(c *pb.Client) { c.TokenDestinations = []string{"https://api.example.com"} })
	tried := map[string]bool{}
	for path, sent := range map[string]*pb.Client{
		"single_active_token":   {Name: "clients/acme", SingleActiveToken: true},
		"token_policy.unshared": {Name: "clients/acme", TokenPolicy: &pb.TokenPolicy{Unshared: true}},
		"token_binding":         {Name: "clients/acme", TokenBinding: pb.TokenBinding_TOKEN_BINDING_DPOP},
		"token_destinations":    {Name: "clients/acme", TokenDestinations: []string{"https://api.example.com"}},
		"api_endpoint":          {Name: "clients/called", ApiEndpoint: "https://api.example.com/me?fields=id"},
		"provider":              {Name: "clients/acme", Provider: "example"},
		"rotation":              {Name: "clients/acme", Rotation: &pb.RotationSettings{Account: "acme"}},
		"provider_variables":    {Name: "clients/profile", ProviderVariables: map[string]string{"tenant": "t1"}},
		"redirect_uris":         {Name: "clients/code", RedirectUris: []string{"https://app.example.com/"}},
		"assertion_subject":     {Name: "clients/assertion", AssertionSubject: "user@example.com"},
	} {
		name, _, _ := strings.Cut(path, ".")
		tried[name] = true
		field := sent.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
		for _, set := range []bool{true, false} {
			if !set {
				sent.ProtoReflect().Clear(field)
			}
			response, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: sent, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
			must(t, err)
			if got := response.GetClient(); got.ProtoReflect().Has(field) != set {
				t.Errorf("%s: got %v, want it set: %t", path, got, set)
			}
		}
	}
	whole := fullClient("x").ProtoReflect()
	for i := range whole.Descriptor().Fields().Len() {
		field := whole.Descriptor().Fields().Get(i)
		if output := settingsOf(wholeOutput()).ProtoReflect().Has(field) != wholeOutput().ProtoReflect().Has(field); !output && !whole.Has(field) && !tried[string(field.Name())] {
			t.Errorf("%s: nobody tries to update it", field.Name())
		}
	}
}

// wholeOutput has every output only field that settingsOf takes away.
func wholeOutput() *pb.Client {
	return &pb.Client{
		Uid: "u", Etag: "e", State: pb.ClientState_CLIENT_STATE_ACTIVE, SecretVersions: []*pb.SecretVersion{{}}, MinSecretVersion: 1,
		CreateTime: timestamppb.Now(), UpdateTime: timestamppb.Now(), DeleteTime: timestamppb.Now(),
	}
}

// take copies the field at path from one message to another.
func take(into, from protoreflect.Message, path []string) {
	if path[0] == "*" {
		proto.Reset(into.Interface())
		proto.Merge(into.Interface(), from.Interface())
		return
	}
	field := into.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case len(path) > 1:
		take(into.Mutable(field).Message(), from.Get(field).Message(), path[1:])
	case from.Has(field):
		into.Set(field, from.Get(field))
	default:
		into.Clear(field)
	}
}

// TestEveryValueHasAForm looks for values of the domain that the contract has no
// name for.
func TestEveryValueHasAForm(t *testing.T) {
	w := newWorld(t, setup{})
	for number, name := range pb.AuthenticationMethod_name {
		if number == 0 {
			continue
		}
		c := clientMessage(fmt.Sprintf("method-%d", number))
		c.AuthenticationMethod = pb.AuthenticationMethod(number)
		if c.AuthenticationMethod == pb.AuthenticationMethod_AUTHENTICATION_METHOD_NONE {
			c.GrantType = pb.GrantType_GRANT_TYPE_JWT_BEARER
		}
		response, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: c})
		if got := response.GetClient().GetAuthenticationMethod(); err != nil || got != c.GetAuthenticationMethod() {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, want := len(pb.AuthenticationMethod_name)-1, len(broker.AuthenticationMethods()); got != want {
		t.Errorf("the contract has %d authentication methods, the domain %d", got, want)
	}
	for number, name := range pb.GrantType_name {
		c := clientMessage(fmt.Sprintf("grant-%d", number))
		c.GrantType, c.Provider = pb.GrantType(number), "example" // which takes all of them
		c.AuthenticationMethod = pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT
		c.AuthorizationEndpoint, c.DeviceAuthorizationEndpoint = endpoint, endpoint
		response, err := w.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: c})
		want := c.GetGrantType()
		if number == 0 {
			want = pb.GrantType_GRANT_TYPE_CLIENT_CREDENTIALS
		}
		if got := response.GetClient().GetGrantType(); err != nil || got != want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, want := len(pb.GrantType_name)-1, len(broker.GrantTypes()); got != want {
		t.Errorf("the contract has %d grants, the domain %d", got, want)
	}
	for _, info := range broker.Reasons() {
		if _, ok := pb.Recovery_value["RECOVERY_"+string(info.Recovery)]; !ok {
			t.Errorf("%s: the contract has no RECOVERY_%s", info.Reason, info.Recovery)
		}
	}
	jwt := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(time.Hour).Unix())) + ".x"
	w.upstream.OmitLifetime()
	for id, source := range map[string]pb.ExpirySource{
		"jwt": pb.ExpirySource_EXPIRY_SOURCE_JWT, "client": pb.ExpirySource_EXPIRY_SOURCE_CLIENT, "assumed": pb.ExpirySource_EXPIRY_SOURCE_ASSUMED,
	} {
		w.register(t, w.peer, id, func(c *pb.Client) {
			if id == "client" {
				c.TokenPolicy = &pb.TokenPolicy{AssumedLifetime: durationpb.New(time.Hour)}
			}
		})
		if id == "jwt" {
			w.upstream.Script(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.AccessToken = secret.NewString(jwt) }})
		}
		token, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + id})
		if got := token.GetExpirySource(); err != nil || got != source {
			t.Errorf("%s: got %v, %v, want %v", id, got, err, source)
		}
	}
}
