package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/answer"
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
	v := visitOf(ctx)
	v.subject = req.GetSubject()
	asked := broker.TokenQuery{
		ClientID: id, Scopes: req.GetScopes(), Audience: req.GetAudience(), Resources: req.GetResources(),
		MinValidity: minValidity, RejectedTokenID: req.GetRejectedTokenId(), Subject: req.GetSubject(),
		SubjectTokenType: req.GetSubjectTokenType(), DPoPProof: req.GetDpopProof(), CertificateThumbprint: req.GetCertificateThumbprint(),
	}
	if token := req.GetSubjectToken(); token != "" {
		asked.SubjectToken = secret.NewString(token)
	}
	query, err := v.query(asked)
	if err != nil {
		return nil, err
	}
	token, warnings, err := s.broker.GetToken(ctx, query)
	if err != nil {
		return nil, err
	}
	if err := s.handOut(v, token, v.started); err != nil {
		return nil, err
	}
	if len(warnings) == 0 {
		if shared := token.Derived(sharedAnswer).(*answer.Answer); shared != nil {
			v.answer = shared.At(time.Now())
			return nil, nil // the border sends the answer
		}
	}
	response := newResponse(token)
	response.ServerTime, response.Warnings = timestamppb.Now(), warningsToProto(warnings)
	return response, nil
}

// query returns what the row of the access table makes of a query, and counts it.
func (v *visit) query(asked broker.TokenQuery) (broker.TokenQuery, error) {
	query, err := v.decision.Query(asked)
	if err == nil && v.quota != nil {
		err = v.quota.askFor(query.ClientID, query.Scopes)
	}
	return query, err
}

// handOut notes for the audit log what is handed out, if it may be.
func (s *tokenService) handOut(v *visit, token *broker.Token, started time.Time) error {
	if err := v.decision.Covers(token); err != nil {
		return err
	}
	v.token, v.servedFrom = token, servedFrom(token, started)
	s.metrics.TokenServed(v.servedFrom)
	return nil
}

// WatchToken implements TokenService.
func (s *tokenService) WatchToken(req *pb.WatchTokenRequest, stream grpc.ServerStreamingServer[pb.WatchTokenResponse]) error {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return err
	}
	ctx, started := stream.Context(), time.Now()
	v := visitOf(ctx)
	v.subject = req.GetSubject()
	asked := broker.TokenQuery{ClientID: id, Scopes: req.GetScopes(), Audience: req.GetAudience(), Resources: req.GetResources(), Subject: req.GetSubject()}
	query, err := v.query(asked)
	if err != nil {
		return err
	}
	defer v.recheck(func(d *access.Decision) error {
		now, err := d.Query(asked)
		if err == nil && !sameToken(now, query) {
			err = &broker.Error{Reason: broker.ReasonConcurrentChange, Client: id, Detail: "the access table gives the caller another token now"}
		}
		return err
	})()
	for token, err := range s.broker.Watch(ctx, query) {
		if err != nil {
			return err
		}
		if err := s.handOut(v, token, started); err != nil {
			return err
		}
		response := newResponse(token)
		response.ServerTime = timestamppb.Now()
		if err := stream.Send(&pb.WatchTokenResponse{Token: response}); err != nil {
			return err
		}
		started = time.Now()
	}
	return context.Cause(ctx)
}

// sameToken reports whether two queries of one client are for the same token.
func sameToken(a, b broker.TokenQuery) bool {
	return slices.Equal(a.Scopes, b.Scopes) && a.Audience == b.Audience && slices.Equal(a.Resources, b.Resources)
}

// RevokeTokens implements TokenService.
func (s *tokenService) RevokeTokens(ctx context.Context, req *pb.RevokeTokensRequest) (*pb.RevokeTokensResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	did, err := s.broker.RevokeTokens(ctx, id)
	if err != nil {
		return nil, err
	}
	return &pb.RevokeTokensResponse{DroppedCount: int32(did.Dropped), RevokedCount: int32(did.Revoked)}, nil
}

// servedFrom says whether a token was there before the call or made during it.
func servedFrom(token *broker.Token, started time.Time) telemetry.ServedFrom {
	if token.IssueTime.Before(started) {
		return telemetry.ServedFromMemory
	}
	return telemetry.ServedFromMint
}

// sharedAnswer makes the answer that a token is served with as long as there is nothing
// to warn of; nil if it cannot be encoded. It belongs to the token and has no copy of its
// bytes: nobody wipes those of a token that may be served.
func sharedAnswer(token *broker.Token) any {
	shared, err := responseForm.Answer(describe(token), token.Access.Reveal())
	if err != nil {
		return (*answer.Answer)(nil)
	}
	return shared
}

var responseForm = answer.FormOf(&pb.GetTokenResponse{}, "server_time", "access_token")

// newResponse returns what all callers of a token are told.
func newResponse(token *broker.Token) *pb.GetTokenResponse {
	response := describe(token)
	response.AccessToken = token.Access.RevealString()
	return response
}

// describe is newResponse without the token itself.
func describe(token *broker.Token) *pb.GetTokenResponse {
	return &pb.GetTokenResponse{
		TokenType: token.Type,
		IssueTime: timestamppb.New(token.IssueTime), ExpireTime: timestamppb.New(token.ExpireTime),
		ExpirySource: expirySources[token.ExpirySource], RefreshAfter: timestamppb.New(token.RefreshAfter),
		Scopes: token.Scopes, TokenId: token.ID, SecretVersion: token.SecretVersion, IssuedTokenType: token.IssuedTokenType,
	}
}

// expirySources is ExpirySource :: domain → proto.
var expirySources = map[broker.ExpirySource]pb.ExpirySource{
	broker.ExpiryFromResponse: pb.ExpirySource_EXPIRY_SOURCE_RESPONSE,
	broker.ExpiryFromJWT:      pb.ExpirySource_EXPIRY_SOURCE_JWT,
	broker.ExpiryFromClient:   pb.ExpirySource_EXPIRY_SOURCE_CLIENT,
	broker.ExpiryAssumed:      pb.ExpirySource_EXPIRY_SOURCE_ASSUMED,

	broker.ExpiryFromProvider:      pb.ExpirySource_EXPIRY_SOURCE_PROVIDER,
	broker.ExpiryFromIntrospection: pb.ExpirySource_EXPIRY_SOURCE_INTROSPECTION,
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
