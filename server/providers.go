package server

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	defaultProviders = 50
	mostProviders    = 1000
)

// ListProviders implements ClientService. A page's token is the last name before it.
func (s *clientService) ListProviders(_ context.Context, req *pb.ListProvidersRequest) (*pb.ListProvidersResponse, error) {
	if req.GetPageSize() < 0 {
		return nil, broker.Invalid("page_size", "must not be negative")
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil || len(after) > 0 && broker.CheckID("page_token", string(after)) != nil {
		return nil, broker.Invalid("page_token", "is none that ListProviders gave")
	}
	names := s.broker.ProviderNames()
	from, found := slices.BinarySearch(names, string(after))
	if found {
		from++
	}
	most := int(req.GetPageSize())
	if most == 0 {
		most = defaultProviders
	}
	names = names[from:]
	page := names[:min(most, mostProviders, len(names))]
	response := &pb.ListProvidersResponse{}
	for _, name := range page {
		if p, ok := s.broker.Provider(name); ok {
			message := providerToProto(p)
			message.Definition = ""
			response.Providers = append(response.Providers, message)
		}
	}
	if len(page) < len(names) {
		response.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(page[len(page)-1]))
	}
	return response, nil
}

// GetProvider implements ClientService.
func (s *clientService) GetProvider(_ context.Context, req *pb.GetProviderRequest) (*pb.GetProviderResponse, error) {
	name, ok := strings.CutPrefix(req.GetName(), "providers/")
	if !ok {
		return nil, broker.Invalid("name", `must be "providers/{provider}", such as "providers/okta"`)
	}
	if err := broker.CheckID("name", name); err != nil {
		return nil, err
	}
	p, ok := s.broker.Provider(name)
	if !ok {
		return nil, &broker.Error{Reason: broker.ReasonProviderNotFound, Op: "get provider", Detail: name}
	}
	return &pb.GetProviderResponse{Provider: providerToProto(p)}, nil
}

func providerToProto(p broker.Provider) *pb.Provider {
	message := &pb.Provider{
		Name: "providers/" + p.Name, Title: p.Title, BuiltIn: p.BuiltIn, Sources: p.Sources, Unverified: p.Unverified,
		StatusPage: p.StatusPage, Definition: p.Definition,
	}
	for _, v := range p.Variables {
		message.Variables = append(message.Variables, &pb.ProviderVariable{Name: v.Name, Description: v.Description, Example: v.Example, DefaultValue: v.Default})
	}
	for _, g := range p.GrantTypes {
		if g == broker.ClientCredentials {
			g = "" // as it is stored
		}
		message.GrantTypes = append(message.GrantTypes, grantTypeToProto(g))
	}
	for _, m := range p.AuthenticationMethods {
		message.AuthenticationMethods = append(message.AuthenticationMethods, methodToProto(m))
	}
	return message
}

func methodToProto(m broker.AuthenticationMethod) pb.AuthenticationMethod {
	for theirs, ours := range methods {
		if ours == m {
			return theirs
		}
	}
	return pb.AuthenticationMethod_AUTHENTICATION_METHOD_UNSPECIFIED
}
