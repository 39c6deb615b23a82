package server

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

type tokenService struct {
	pb.UnsafeTokenServiceServer
	broker  *broker.Broker
	metrics *telemetry.Metrics
}

var _ pb.TokenServiceServer = (*tokenService)(nil)

// GetToken implements TokenService.
func (s *tokenService) GetToken(ctx context.Context, req *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	minValidity, err := durationOf("min_validity", req.GetMinValidity())
	if err != nil {
		return nil, err
	}
	started := time.Now()
	v := visitOf(ctx)
	query, err := v.decision.Query(broker.TokenQuery{
		ClientID: id, Scopes: req.GetScopes(), Audience: req.GetAudience(), Resources: req.GetResources(), MinValidity: minValidity,
	})
	if err != nil {
		return nil, err
	}
	if v.quota != nil {
		if err := v.quota.askFor(id, query.Scopes); err != nil {
			return nil, err
		}
	}
	token, warnings, err := s.broker.GetToken(ctx, query)
	if err != nil {
		return nil, err
	}
	v.token, v.servedFrom = token, servedFrom(token, started)
	s.metrics.TokenServed(v.servedFrom)
	if len(warnings) == 0 {
		return token.Derived(sharedResponse).(*pb.GetTokenResponse), nil
	}
	response := newResponse(token)
	response.Warnings = warningsToProto(warnings)
	return response, nil
}

// servedFrom says whether a token was there before the call or made during it.
func servedFrom(token *broker.Token, started time.Time) telemetry.ServedFrom {
	if token.IssueTime.Before(started) {
		return telemetry.ServedFromMemory
	}
	return telemetry.ServedFromMint
}

// sharedResponse makes the response that a token is served with as long as there is
// nothing to warn of. It is made once for each token; gRPC only reads it.
func sharedResponse(token *broker.Token) any { return newResponse(token) }

func newResponse(token *broker.Token) *pb.GetTokenResponse {
	return &pb.GetTokenResponse{
		AccessToken: token.Access.RevealString(), TokenType: token.Type,
		IssueTime: timestamppb.New(token.IssueTime), ExpireTime: timestamppb.New(token.ExpireTime),
		ExpirySource: expirySources[token.ExpirySource], RefreshAfter: timestamppb.New(token.RefreshAfter),
		Scopes: token.Scopes, TokenId: token.ID, SecretVersion: token.SecretVersion,
	}
}

// expirySources is ExpirySource :: domain → proto.
var expirySources = map[broker.ExpirySource]pb.ExpirySource{
	broker.ExpiryFromResponse: pb.ExpirySource_EXPIRY_SOURCE_RESPONSE,
	broker.ExpiryFromJWT:      pb.ExpirySource_EXPIRY_SOURCE_JWT,
	broker.ExpiryFromClient:   pb.ExpirySource_EXPIRY_SOURCE_CLIENT,
	broker.ExpiryAssumed:      pb.ExpirySource_EXPIRY_SOURCE_ASSUMED,
}

func warningsToProto(warnings []broker.Warning) []*pb.Warning {
	if len(warnings) == 0 {
		return nil
	}
	list := make([]*pb.Warning, 0, len(warnings))
	for _, w := range warnings {
		message := w.Reason.Info().Summary
		if w.Detail != "" {
			message += " (" + w.Detail + ")"
		}
		list = append(list, &pb.Warning{Reason: string(w.Reason), Message: message})
	}
	return list
}

// clientID takes the id out of a resource name.
func clientID(field, name string) (string, error) {
	id, ok := strings.CutPrefix(name, "clients/")
	if !ok {
		return "", broker.Invalid(field, `must be "clients/{client}", such as "clients/acme-crm"`)
	}
	return id, nil
}

// durationOf returns nil for an absent duration.
func durationOf(field string, d *durationpb.Duration) (*time.Duration, error) {
	if d == nil {
		return nil, nil
	}
	if err := d.CheckValid(); err != nil {
		return nil, broker.Invalid(field, "is not a valid duration")
	}
	value := d.AsDuration()
	return &value, nil
}

// WatchToken implements TokenService.
func (s *tokenService) WatchToken(*pb.WatchTokenRequest, grpc.ServerStreamingServer[pb.WatchTokenResponse]) error {
	return errors.ErrUnsupported
}
