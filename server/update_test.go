package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

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
	if got, want := len(paths), 26; got != want {
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
	w.register(t, w.peer, "acme")
	for path, message := range map[string]*pb.Client{
		"single_active_token":   {SingleActiveToken: true},
		"token_policy.unshared": {TokenPolicy: &pb.TokenPolicy{Unshared: true}},
	} {
		sent := proto.CloneOf(message)
		sent.Name = "clients/acme"
		response, err := w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: sent, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
		must(t, err)
		if got := response.GetClient(); !got.GetSingleActiveToken() && !got.GetTokenPolicy().GetUnshared() {
			t.Errorf("%s: got %v, want it set", path, got)
		}
		sent.SingleActiveToken, sent.TokenPolicy = false, nil
		_, err = w.clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{Client: sent, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
		must(t, err)
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
