package server_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// profiles is a directory of 120 profiles that declare nothing.
type profiles struct{}

// Provider implements broker.Providers.
func (p profiles) Provider(name string) (broker.Provider, bool) {
	if !slices.Contains(p.Names(), name) {
		return broker.Provider{}, false
	}
	return broker.Provider{
		Name: name, Title: "Example", BuiltIn: true, Sources: []string{"https://docs.example.com"}, Unverified: []string{"all of it"},
		Variables:  []broker.ProviderVariable{{Name: "tenant", Description: "Whose it is.", Example: "acme", Default: "common"}},
		GrantTypes: broker.GrantTypes(), AuthenticationMethods: broker.AuthenticationMethods(), StatusPage: "https://status.example.com",
		Definition: "name: " + name + "\n",
	}, true
}

// Names implements broker.Providers.
func (profiles) Names() []string {
	names := []string{"example"}
	for i := range 119 {
		names = append(names, fmt.Sprintf("example-%03d", i))
	}
	return names
}

// Complete implements broker.Providers.
func (p profiles) Complete(u *broker.Upstream, _ *broker.TokenPolicy, _ *broker.RotationSettings) []broker.FieldViolation {
	if _, ok := p.Provider(u.Provider); !ok {
		return []broker.FieldViolation{{Field: "client.provider", Problem: "is none of this server's profiles"}}
	}
	return nil
}

// savingContract is the part of imports and profiles.
var savingContract = map[string][]provocation{
	"ImportClients": {{"shutting down", codes.Unavailable, broker.ReasonShuttingDown, "", call(importUntilStopped)}},
	"ListProviders": {
		{"bad page token", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_token", listProviders(&pb.ListProvidersRequest{PageToken: "2"})},
		{"no name", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_token", listProviders(&pb.ListProvidersRequest{PageToken: "Li4"})},
		{"negative page", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_size", listProviders(&pb.ListProvidersRequest{PageSize: -1})},
	},
	"GetProvider": {
		{"unknown", codes.NotFound, broker.ReasonProviderNotFound, "", getProvider("providers/nobody")},
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "name", getProvider("example")},
		{"bad id", codes.InvalidArgument, broker.ReasonInvalidRequest, "name", getProvider("providers/../example")},
	},
}

func listProviders(req *pb.ListProvidersRequest) func(*testing.T, *world) error {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.ListProviders(t.Context(), req)
		return err
	})
}

func getProvider(name string) func(*testing.T, *world) error {
	return call(func(t *testing.T, w *world) error {
		_, err := w.clients.GetProvider(t.Context(), &pb.GetProviderRequest{Name: name})
		return err
	})
}

func TestProviders(t *testing.T) {
	w := newWorld(t, setup{})
	got, err := w.clients.GetProvider(t.Context(), &pb.GetProviderRequest{Name: "providers/example"})
	must(t, err)
	one := got.GetProvider()
	if one.GetName() != "providers/example" || one.GetDefinition() != "name: example\n" || !one.GetBuiltIn() || one.GetVariables()[0].GetDefaultValue() != "common" {
		t.Errorf("got %v", one)
	}
	for _, g := range one.GetGrantTypes() {
		if g == pb.GrantType_GRANT_TYPE_UNSPECIFIED {
			t.Errorf("a grant has no form: %v", one.GetGrantTypes())
		}
	}
	if slices.Contains(one.GetAuthenticationMethods(), pb.AuthenticationMethod_AUTHENTICATION_METHOD_UNSPECIFIED) {
		t.Errorf("a method has no form: %v", one.GetAuthenticationMethods())
	}
	for size, pages := range map[int32]int{0: 3, 1: 120, 7: 18, 120: 1, 5000: 1} {
		var names []string
		request, asked := &pb.ListProvidersRequest{PageSize: size}, 0
		for ; asked == 0 || request.GetPageToken() != ""; asked++ {
			page, err := w.clients.ListProviders(t.Context(), request)
			must(t, err)
			for _, p := range page.GetProviders() {
				if p.GetDefinition() != "" {
					t.Errorf("%s is listed with its definition", p.GetName())
				}
				names = append(names, p.GetName())
			}
			request.PageToken = page.GetNextPageToken()
		}
		if len(names) != 120 || !slices.IsSorted(names) || len(slices.Compact(names)) != 120 || asked != pages {
			t.Errorf("pages of %d: %d names on %d pages, want 120 on %d, each once and sorted", size, len(names), asked, pages)
		}
	}
	listed, err := w.clients.ListProviders(t.Context(), &pb.ListProvidersRequest{PageSize: 1})
	must(t, err)
	one.Definition = ""
	if got := listed.GetProviders()[0]; !proto.Equal(got, one) {
		t.Errorf("listed:\n%v, want\n%v", got, one)
	}
}

// issuers answers discovery, and nothing else is asked of it.
type issuers struct{ broker.AuthorizationServer }

// usersAndIssuers is an authorization server of users whose metadata is that of issuers.
type usersAndIssuers struct{ *brokertest.Users }

// Discover implements broker.AuthorizationServer.
func (usersAndIssuers) Discover(ctx context.Context, issuer string, bound ...string) (broker.Metadata, error) {
	return issuers{}.Discover(ctx, issuer, bound...)
}

// Discover implements broker.AuthorizationServer.
func (issuers) Discover(_ context.Context, issuer string, _ ...string) (broker.Metadata, error) {
	switch issuer {
	case "https://down.example.com":
		return broker.Metadata{}, &broker.Error{Reason: broker.ReasonUpstreamConnect, Op: "read the metadata"}
	case "https://empty.example.com":
		return broker.Metadata{Issuer: issuer}, nil
	}
	return broker.Metadata{Issuer: issuer, TokenEndpoint: issuer + "/token"}, nil
}
