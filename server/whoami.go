package server

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

type accessService struct {
	pb.UnsafeAccessServiceServer
	version string
}

var _ pb.AccessServiceServer = accessService{}

// WhoAmI implements AccessService.
func (s accessService) WhoAmI(ctx context.Context, _ *pb.WhoAmIRequest) (*pb.WhoAmIResponse, error) {
	v := visitOf(ctx)
	response := &pb.WhoAmIResponse{Identities: v.peer.Identities(), Caller: v.name()}
	if !v.notAfter.IsZero() {
		response.ExpireTime = timestamppb.New(v.notAfter)
	}
	for _, g := range v.caller.Grants() {
		response.Grants = append(response.Grants, grantToProto(g))
	}
	if response.GetCaller() != "" {
		response.ServerTime, response.ServerVersion = timestamppb.Now(), s.version
	}
	return response, nil
}

func grantToProto(g access.Grant) *pb.Grant {
	grant := &pb.Grant{
		Rule: int32(g.Row.Index), Clients: g.Clients, ExceptClients: g.Except,
		Subjects: g.Subjects,
		Scopes:   restrictionToProto(g.Scopes), Audiences: restrictionToProto(g.Audiences), Resources: restrictionToProto(g.Resources),
	}
	for _, p := range g.Permissions {
		grant.Permissions = append(grant.Permissions, p.String())
	}
	if l := g.Limits; l != nil {
		grant.Limits = &pb.UseLimits{
			RequestsPerSecond: l.RequestsPerSecond, Burst: int32(l.Burst), ConcurrentRequests: int32(l.Concurrent), ScopeSets: int32(l.ScopeSets),
			ClientRequestsPerSecond: l.ClientRequestsPerSecond, ClientBurst: int32(l.ClientBurst), ClientConcurrentRequests: int32(l.ClientConcurrent),
		}
	}
	return grant
}

// restrictionToProto returns nil for none.
func restrictionToProto(r *access.Restriction) *pb.Restriction {
	if r == nil {
		return nil
	}
	return &pb.Restriction{DefaultValues: r.Default, AllowedValues: r.Allowed}
}
