package server

import (
	"context"
	"maps"

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
	n := broker.NewClient{ID: id, Labels: set.labels, Upstream: set.upstream, TokenPolicy: set.tokenPolicy, Rotation: set.rotation, RequestID: req.GetRequestId(), ValidateOnly: req.GetValidateOnly()}
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
		ID: id, Etag: req.GetClient().GetEtag(), ValidateOnly: req.GetValidateOnly(), Check: v.mayMake(ctx), MayRetarget: v.mayRetarget,
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

// mayMake returns what refuses a change of a client that takes more than the permission
// for it.
func (v *visit) mayMake(ctx context.Context) func(present, changed *broker.Client) error {
	return func(present, changed *broker.Client) error {
		if manager := changed.Rotation.ManagementClient; manager != present.Rotation.ManagementClient || !sameManagement(present, changed) {
			if err := v.mayManage(ctx, manager); err != nil {
				return err
			}
		}
		return v.gained(present, changed)
	}
}

func (v *visit) mayRetarget(c *broker.Client) bool { return v.may(access.ClientRetarget, c) }

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
