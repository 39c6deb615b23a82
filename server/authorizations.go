package server

import (
	"context"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type authorizationService struct {
	pb.UnsafeAuthorizationServiceServer
	broker *broker.Broker
}

var _ pb.AuthorizationServiceServer = (*authorizationService)(nil)

// permitted is [broker.AuthorizationRef].Permit: the row that let the call in must let
// it name the subject, also where only the store knows whose it is.
func (v *visit) permitted(subject string) error {
	v.subject = subject
	return v.decision.Subject(subject)
}

// StartAuthorization implements AuthorizationService.
func (s *authorizationService) StartAuthorization(ctx context.Context, req *pb.StartAuthorizationRequest) (*pb.StartAuthorizationResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if err := visitOf(ctx).permitted(req.GetSubject()); err != nil {
		return nil, err
	}
	a, err := s.broker.StartAuthorization(ctx, broker.AuthorizationStart{
		ClientID: id, Subject: req.GetSubject(), Scopes: req.GetScopes(), RedirectURI: req.GetRedirectUri(), LoginHint: req.GetLoginHint(),
	})
	if err != nil {
		return nil, err
	}
	return &pb.StartAuthorizationResponse{Authorization: authorizationToProto(a)}, nil
}

// CompleteAuthorization implements AuthorizationService.
func (s *authorizationService) CompleteAuthorization(ctx context.Context, req *pb.CompleteAuthorizationRequest) (*pb.CompleteAuthorizationResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if err := broker.CheckID("client", id); err != nil {
		return nil, err
	}
	a, err := s.broker.CompleteAuthorization(ctx, broker.AuthorizationAnswer{
		ClientID: id, State: req.GetState(), Code: req.GetCode(), Issuer: req.GetIssuer(),
		Error: req.GetError(), ErrorDescription: req.GetErrorDescription(), Permit: visitOf(ctx).permitted,
	})
	if err != nil {
		return nil, err
	}
	return &pb.CompleteAuthorizationResponse{Authorization: authorizationToProto(a)}, nil
}

// ImportAuthorization implements AuthorizationService. The message stays with gRPC,
// whose buffers cannot be wiped (SECURITY.md).
func (s *authorizationService) ImportAuthorization(ctx context.Context, req *pb.ImportAuthorizationRequest) (*pb.ImportAuthorizationResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if err := visitOf(ctx).permitted(req.GetSubject()); err != nil {
		return nil, err
	}
	grant := broker.ImportedGrant{ClientID: id, Subject: req.GetSubject(), Scopes: req.GetScopes()}
	switch brought := req.GetGrant().(type) {
	case *pb.ImportAuthorizationRequest_RefreshToken:
		grant.RefreshToken = secret.NewString(brought.RefreshToken)
	case *pb.ImportAuthorizationRequest_Password:
		grant.Username, grant.Password = brought.Password.GetUsername(), secret.NewString(brought.Password.GetPassword())
	}
	if expire := req.GetRefreshExpireTime(); expire != nil {
		if expire.CheckValid() != nil {
			return nil, broker.Invalid("refresh_expire_time", "is not a valid time")
		}
		grant.RefreshExpireTime = expire.AsTime()
	}
	a, err := s.broker.ImportAuthorization(ctx, grant)
	if err != nil {
		return nil, err
	}
	return &pb.ImportAuthorizationResponse{Authorization: authorizationToProto(a)}, nil
}

// GetAuthorization implements AuthorizationService.
func (s *authorizationService) GetAuthorization(ctx context.Context, req *pb.GetAuthorizationRequest) (*pb.GetAuthorizationResponse, error) {
	ref, err := authorizationRef(ctx, req)
	if err != nil {
		return nil, err
	}
	a, err := s.broker.GetAuthorization(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &pb.GetAuthorizationResponse{Authorization: authorizationToProto(a)}, nil
}

// ListAuthorizations implements AuthorizationService.
func (s *authorizationService) ListAuthorizations(ctx context.Context, req *pb.ListAuthorizationsRequest) (*pb.ListAuthorizationsResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	v := visitOf(ctx)
	page, err := s.broker.ListAuthorizations(ctx, broker.AuthorizationQuery{
		ClientID: id, PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(),
		Shown: func(subject string) bool { return v.decision.Subject(subject) == nil },
	})
	if err != nil {
		return nil, err
	}
	response := &pb.ListAuthorizationsResponse{NextPageToken: page.NextPageToken}
	for _, a := range page.Authorizations {
		response.Authorizations = append(response.Authorizations, authorizationToProto(a))
	}
	return response, nil
}

// RevokeAuthorization implements AuthorizationService.
func (s *authorizationService) RevokeAuthorization(ctx context.Context, req *pb.RevokeAuthorizationRequest) (*pb.RevokeAuthorizationResponse, error) {
	ref, err := authorizationRef(ctx, req)
	if err != nil {
		return nil, err
	}
	revoked, err := s.broker.RevokeAuthorization(ctx, ref, req.GetForce())
	if err != nil {
		return nil, err
	}
	return &pb.RevokeAuthorizationResponse{Revoked: revoked}, nil
}

// DeleteSubject implements AuthorizationService.
func (s *authorizationService) DeleteSubject(ctx context.Context, req *pb.DeleteSubjectRequest) (*pb.DeleteSubjectResponse, error) {
	if err := visitOf(ctx).permitted(req.GetSubject()); err != nil {
		return nil, err
	}
	did, err := s.broker.DeleteSubject(ctx, req.GetSubject())
	if err != nil {
		return nil, err
	}
	return &pb.DeleteSubjectResponse{DeletedCount: int32(did.Deleted), RevokedCount: int32(did.Revoked)}, nil
}

// namesAuthorization is a request about one authorization: by name, or by client and
// subject.
type namesAuthorization interface {
	GetName() string
	GetClient() string
	GetSubject() string
}

// clientOfAuthorization returns the name of the client that a request about one
// authorization is about: what access is decided for and what the handler then uses.
func clientOfAuthorization(req namesAuthorization) string {
	if req.GetName() == "" {
		return req.GetClient()
	}
	client, _, _ := strings.Cut(req.GetName(), "/authorizations/")
	return client
}

func authorizationRef(ctx context.Context, req namesAuthorization) (broker.AuthorizationRef, error) {
	field, ref := "name", broker.AuthorizationRef{Subject: req.GetSubject(), Permit: visitOf(ctx).permitted}
	switch name := req.GetName(); {
	case name == "":
		field = "client"
	case req.GetClient() != "" || req.GetSubject() != "":
		return ref, broker.Invalid("name", "and client with subject are two ways to say which; use one")
	default:
		_, ref.ID, _ = strings.Cut(name, "/authorizations/")
		if ref.ID == "" {
			return ref, broker.Invalid("name", `must be "clients/{client}/authorizations/{authorization}"`)
		}
	}
	if ref.Subject != "" { // before it is looked for whether there is such a client
		if err := ref.Permit(ref.Subject); err != nil {
			return ref, err
		}
	}
	var err error
	if ref.ClientID, err = clientID(field, clientOfAuthorization(req)); err != nil {
		return ref, err
	}
	return ref, broker.CheckID(field, ref.ClientID)
}

// authorizationStates is AuthorizationState :: domain → proto.
var authorizationStates = map[broker.AuthorizationState]pb.AuthorizationState{
	broker.AuthorizationPending: pb.AuthorizationState_AUTHORIZATION_STATE_PENDING,
	broker.AuthorizationActive:  pb.AuthorizationState_AUTHORIZATION_STATE_ACTIVE,
	broker.AuthorizationEnded:   pb.AuthorizationState_AUTHORIZATION_STATE_ENDED,
}

func authorizationToProto(a *broker.Authorization) *pb.Authorization {
	message := &pb.Authorization{
		Name: "clients/" + a.ClientID + "/authorizations/" + a.ID, Subject: a.Subject, State: authorizationStates[a.State],
		Reason: string(a.Reason), Scopes: a.Scopes, GrantTime: timeToProto(a.GrantTime), RefreshTime: timeToProto(a.RefreshTime),
		RefreshExpireTime: timeToProto(a.RefreshExpireTime), Refreshable: a.Refreshable, SecretVersion: a.SecretVersion,
	}
	if a.Reason != "" {
		message.Remedy = a.Reason.Info().Remedy
	}
	if c := a.Consent; c != nil {
		message.Consent = &pb.Consent{
			AuthorizationUrl: c.AuthorizationURL, UserCode: c.UserCode, VerificationUri: c.VerificationURI,
			VerificationUriComplete: c.VerificationURIComplete, ExpireTime: timeToProto(c.ExpireTime), Reason: string(c.Reason),
		}
	}
	return message
}
