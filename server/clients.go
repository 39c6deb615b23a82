package server

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

type clientService struct {
	pb.UnsafeClientServiceServer
	broker *broker.Broker
}

var _ pb.ClientServiceServer = (*clientService)(nil)

// CreateClient implements ClientService.
func (s *clientService) CreateClient(ctx context.Context, req *pb.CreateClientRequest) (*pb.CreateClientResponse, error) {
	id, err := clientID("client.name", req.GetClient().GetName())
	if err != nil {
		return nil, err
	}
	set, err := settingsFromProto(req.GetClient())
	if err != nil {
		return nil, err
	}
	n := broker.NewClient{ID: id, Labels: set.labels, Upstream: set.upstream, TokenPolicy: set.tokenPolicy, Rotation: set.rotation, RequestID: req.GetRequestId()}
	if err := visitOf(ctx).mayManage(ctx, set.rotation.ManagementClient); err != nil {
		return nil, err
	}
	if req.GetSecret() != nil {
		if n.Secret, err = secretFromProto(req.GetSecret()); err != nil {
			return nil, err
		}
	}
	c, err := s.broker.CreateClient(ctx, n)
	if err != nil {
		return nil, err
	}
	return &pb.CreateClientResponse{Client: clientToProto(c)}, nil
}

// GetClient implements ClientService.
func (s *clientService) GetClient(ctx context.Context, req *pb.GetClientRequest) (*pb.GetClientResponse, error) {
	c, err := byName(req.GetName(), func(id string) (*broker.Client, error) { return s.broker.GetClient(ctx, id) })
	if err != nil {
		return nil, err
	}
	return &pb.GetClientResponse{Client: c}, nil
}

// byName calls work with the id within name and converts the client it returns.
func byName(name string, work func(id string) (*broker.Client, error)) (*pb.Client, error) {
	id, err := clientID("name", name)
	if err != nil {
		return nil, err
	}
	c, err := work(id)
	if err != nil {
		return nil, err
	}
	return clientToProto(c), nil
}

// ListClients implements ClientService.
func (s *clientService) ListClients(ctx context.Context, req *pb.ListClientsRequest) (*pb.ListClientsResponse, error) {
	v := visitOf(ctx)
	page, err := s.broker.ListClients(ctx, broker.ListQuery{
		PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(), Filter: req.GetFilter(),
		Shown: func(id string, labels map[string]string) bool { return v.mayWith(access.ClientRead, id, labels) },
	})
	if err != nil {
		return nil, err
	}
	response := &pb.ListClientsResponse{NextPageToken: page.NextPageToken}
	for _, c := range page.Clients {
		response.Clients = append(response.Clients, clientToProto(c))
	}
	for _, u := range page.Unreadable {
		response.Unreadable = append(response.Unreadable, &pb.UnreadableClient{Name: "clients/" + u.ID, Reason: string(u.Reason)})
	}
	return response, nil
}

// settable copies one field of a mask from the settings sent to the client.
var settable = map[string]func(*broker.Client, settings){
	"labels":              func(c *broker.Client, s settings) { c.Labels = s.labels },
	"token_endpoint":      func(c *broker.Client, s settings) { c.Upstream.TokenEndpoint = s.upstream.TokenEndpoint },
	"revocation_endpoint": func(c *broker.Client, s settings) { c.Upstream.RevocationEndpoint = s.upstream.RevocationEndpoint },
	"issue_budget":        func(c *broker.Client, s settings) { c.Upstream.IssueBudget = s.upstream.IssueBudget },
	"issue_budget.tokens": func(c *broker.Client, s settings) { c.Upstream.IssueBudget.Tokens = s.upstream.IssueBudget.Tokens },
	"issue_budget.period": func(c *broker.Client, s settings) { c.Upstream.IssueBudget.Period = s.upstream.IssueBudget.Period },
	"max_live_tokens":     func(c *broker.Client, s settings) { c.Upstream.MaxLiveTokens = s.upstream.MaxLiveTokens },
	"token_destinations":  func(c *broker.Client, s settings) { c.Upstream.TokenDestinations = s.upstream.TokenDestinations },
	"rotation":            func(c *broker.Client, s settings) { c.Rotation = s.rotation },
	"single_active_token": func(c *broker.Client, s settings) { c.Upstream.SingleActiveToken = s.upstream.SingleActiveToken },
	"client_id":           func(c *broker.Client, s settings) { c.Upstream.ClientID = s.upstream.ClientID },
	"authentication_method": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.Method = s.upstream.Authentication.Method
	},
	"assertion": func(c *broker.Client, s settings) {
		method := c.Upstream.Authentication.Method
		c.Upstream.Authentication = s.upstream.Authentication
		c.Upstream.Authentication.Method = method
	},
	"assertion.signing_algorithm": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.SigningAlgorithm = s.upstream.Authentication.SigningAlgorithm
	},
	"assertion.key_id": func(c *broker.Client, s settings) { c.Upstream.Authentication.KeyID = s.upstream.Authentication.KeyID },
	"assertion.audience": func(c *broker.Client, s settings) {
		c.Upstream.Authentication.AssertionAudience = s.upstream.Authentication.AssertionAudience
	},
	"default_scopes":                  func(c *broker.Client, s settings) { c.Upstream.DefaultScopes = s.upstream.DefaultScopes },
	"allowed_scopes":                  func(c *broker.Client, s settings) { c.Upstream.AllowedScopes = s.upstream.AllowedScopes },
	"audience":                        func(c *broker.Client, s settings) { c.Upstream.Audience = s.upstream.Audience },
	"allowed_audiences":               func(c *broker.Client, s settings) { c.Upstream.AllowedAudiences = s.upstream.AllowedAudiences },
	"resources":                       func(c *broker.Client, s settings) { c.Upstream.Resources = s.upstream.Resources },
	"allowed_resources":               func(c *broker.Client, s settings) { c.Upstream.AllowedResources = s.upstream.AllowedResources },
	"parameters":                      func(c *broker.Client, s settings) { c.Upstream.Parameters = s.upstream.Parameters },
	"token_policy":                    func(c *broker.Client, s settings) { c.TokenPolicy = s.tokenPolicy },
	"token_policy.min_validity":       func(c *broker.Client, s settings) { c.TokenPolicy.MinValidity = s.tokenPolicy.MinValidity },
	"token_policy.assumed_lifetime":   func(c *broker.Client, s settings) { c.TokenPolicy.AssumedLifetime = s.tokenPolicy.AssumedLifetime },
	"token_policy.require_all_scopes": func(c *broker.Client, s settings) { c.TokenPolicy.RequireAllScopes = s.tokenPolicy.RequireAllScopes },
	"token_policy.unshared":           func(c *broker.Client, s settings) { c.TokenPolicy.Unshared = s.tokenPolicy.Unshared },
	"*": func(c *broker.Client, s settings) {
		c.Labels, c.Upstream, c.TokenPolicy, c.Rotation = s.labels, s.upstream, s.tokenPolicy, s.rotation
	},
}

// UpdateClient implements ClientService.
func (s *clientService) UpdateClient(ctx context.Context, req *pb.UpdateClientRequest) (*pb.UpdateClientResponse, error) {
	id, err := clientID("client.name", req.GetClient().GetName())
	if err != nil {
		return nil, err
	}
	set, err := settingsFromProto(req.GetClient())
	if err != nil {
		return nil, err
	}
	paths := req.GetUpdateMask().GetPaths()
	if err := checkMask(paths); err != nil {
		return nil, err
	}
	v := visitOf(ctx)
	u := broker.ClientUpdate{
		ID: id, Etag: req.GetClient().GetEtag(),
		Check: func(present, changed *broker.Client) error {
			if manager := changed.Rotation.ManagementClient; manager != present.Rotation.ManagementClient || !sameManagement(present, changed) {
				if err := v.mayManage(ctx, manager); err != nil {
					return err
				}
			}
			return v.gained(present, changed)
		},
		MayRetarget: func(c *broker.Client) bool { return v.may(access.ClientRetarget, c) },
		Edit: func(c *broker.Client) {
			for _, path := range paths {
				settable[path](c, set)
			}
		},
	}
	if req.GetSecret() != nil {
		if u.Secret, err = secretFromProto(req.GetSecret()); err != nil {
			return nil, err
		}
	}
	c, err := s.broker.UpdateClient(ctx, u)
	if err != nil {
		return nil, err
	}
	return &pb.UpdateClientResponse{Client: clientToProto(c)}, nil
}

// sameManagement reports whether two revisions of a client have the same done with the
// tokens of its management client.
func sameManagement(a, b *broker.Client) bool {
	return a.Rotation.Rotator == b.Rotation.Rotator && a.Rotation.Endpoint == b.Rotation.Endpoint && maps.Equal(a.Rotation.Parameters, b.Rotation.Parameters) &&
		a.Upstream.ClientID == b.Upstream.ClientID
}

// mayManage reports whether the caller may have the tokens of a management client used:
// whoever decides what is asked with them needs them as whoever gets them.
func (v *visit) mayManage(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	_, err := v.decide(ctx, access.TokenGet, id)
	return err
}

func checkMask(paths []string) error {
	if len(paths) == 0 {
		return broker.Invalid("update_mask", `is required: name the fields to change, or "*" for all`)
	}
	for _, path := range paths {
		if settable[path] == nil {
			known := make([]string, 0, len(settable))
			for name := range settable {
				known = append(known, name)
			}
			slices.Sort(known)
			return broker.Invalid("update_mask", "has %.64q; it may name %s", path, strings.Join(known, ", "))
		}
	}
	return nil
}

// DeleteClient implements ClientService.
func (s *clientService) DeleteClient(ctx context.Context, req *pb.DeleteClientRequest) (*pb.DeleteClientResponse, error) {
	c, err := byName(req.GetName(), func(id string) (*broker.Client, error) { return s.broker.DeleteClient(ctx, id, req.GetEtag()) })
	if err != nil {
		return nil, err
	}
	return &pb.DeleteClientResponse{Client: c}, nil
}

// UndeleteClient implements ClientService.
func (s *clientService) UndeleteClient(ctx context.Context, req *pb.UndeleteClientRequest) (*pb.UndeleteClientResponse, error) {
	c, err := byName(req.GetName(), func(id string) (*broker.Client, error) { return s.broker.UndeleteClient(ctx, id) })
	if err != nil {
		return nil, err
	}
	return &pb.UndeleteClientResponse{Client: c}, nil
}

// PurgeClient implements ClientService.
func (s *clientService) PurgeClient(ctx context.Context, req *pb.PurgeClientRequest) (*pb.PurgeClientResponse, error) {
	id, err := clientID("name", req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.broker.PurgeClient(ctx, broker.Purge{ID: id, Etag: req.GetEtag(), Confirm: req.GetConfirm()}); err != nil {
		return nil, err
	}
	return &pb.PurgeClientResponse{}, nil
}

// DisableClient implements ClientService.
func (s *clientService) DisableClient(ctx context.Context, req *pb.DisableClientRequest) (*pb.DisableClientResponse, error) {
	c, err := byName(req.GetName(), func(id string) (*broker.Client, error) { return s.broker.SetDisabled(ctx, id, true) })
	if err != nil {
		return nil, err
	}
	return &pb.DisableClientResponse{Client: c}, nil
}

// EnableClient implements ClientService.
func (s *clientService) EnableClient(ctx context.Context, req *pb.EnableClientRequest) (*pb.EnableClientResponse, error) {
	c, err := byName(req.GetName(), func(id string) (*broker.Client, error) { return s.broker.SetDisabled(ctx, id, false) })
	if err != nil {
		return nil, err
	}
	return &pb.EnableClientResponse{Client: c}, nil
}

// ResetUpstream implements ClientService.
func (s *clientService) ResetUpstream(ctx context.Context, req *pb.ResetUpstreamRequest) (*pb.ResetUpstreamResponse, error) {
	id, err := clientID("name", req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.broker.ResetUpstream(ctx, id); err != nil {
		return nil, err
	}
	return &pb.ResetUpstreamResponse{}, nil
}
