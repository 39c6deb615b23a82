package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
)

type rotationService struct {
	pb.UnsafeRotationServiceServer
	broker *broker.Broker
}

var _ pb.RotationServiceServer = (*rotationService)(nil)

// StageSecret implements RotationService.
func (s *rotationService) StageSecret(ctx context.Context, req *pb.StageSecretRequest) (*pb.StageSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	input, err := secretFromProto(req.GetSecret())
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		plan, err := s.broker.PlanStage(ctx, id, input, req.GetRequestId())
		if err != nil {
			return nil, err
		}
		return &pb.StageSecretResponse{Plan: s.plan(ctx, id, plan)}, nil
	}
	version, err := s.broker.StageSecret(ctx, id, input, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &pb.StageSecretResponse{SecretVersion: versionToProto(version), Rotation: s.rotationOf(ctx, id)}, nil
}

// VerifySecret implements RotationService.
func (s *rotationService) VerifySecret(ctx context.Context, req *pb.VerifySecretRequest) (*pb.VerifySecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	version, warnings, err := s.broker.VerifySecret(ctx, id, req.GetSecretVersion())
	if err != nil {
		return nil, err
	}
	return &pb.VerifySecretResponse{
		SecretVersion: versionToProto(version), Warnings: warningsToProto(warnings), Rotation: s.rotationOf(ctx, id),
	}, nil
}

// PromoteSecret implements RotationService.
func (s *rotationService) PromoteSecret(ctx context.Context, req *pb.PromoteSecretRequest) (*pb.PromoteSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	promotion := broker.Promotion{
		ClientID: id, Number: req.GetSecretVersion(), AllowUnverified: req.GetAllowUnverified(), DropTokens: req.GetDropTokens(),
	}
	if req.GetValidateOnly() {
		plan, err := s.broker.PlanPromotion(ctx, promotion)
		if err != nil {
			return nil, err
		}
		return &pb.PromoteSecretResponse{Plan: s.plan(ctx, id, plan)}, nil
	}
	c, err := s.broker.PromoteSecret(ctx, promotion)
	if err != nil {
		return nil, err
	}
	response := &pb.PromoteSecretResponse{Current: stagedToProto(c, broker.Current), Previous: stagedToProto(c, broker.Previous)}
	response.Rotation = s.rotationOf(ctx, id)
	return response, nil
}

// RollbackSecret implements RotationService.
func (s *rotationService) RollbackSecret(ctx context.Context, req *pb.RollbackSecretRequest) (*pb.RollbackSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		plan, err := s.broker.PlanRollback(ctx, id, req.GetSecretVersion())
		if err != nil {
			return nil, err
		}
		return &pb.RollbackSecretResponse{Plan: s.plan(ctx, id, plan)}, nil
	}
	c, err := s.broker.RollbackSecret(ctx, id, req.GetSecretVersion())
	if err != nil {
		return nil, err
	}
	return &pb.RollbackSecretResponse{Current: stagedToProto(c, broker.Current), Rotation: s.rotationOf(ctx, id)}, nil
}

// RetireSecret implements RotationService.
func (s *rotationService) RetireSecret(ctx context.Context, req *pb.RetireSecretRequest) (*pb.RetireSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		plan, err := s.broker.PlanRetirement(ctx, id, req.GetSecretVersion())
		if err != nil {
			return nil, err
		}
		return &pb.RetireSecretResponse{Plan: s.plan(ctx, id, plan)}, nil
	}
	if err := s.broker.RetireSecret(ctx, id, req.GetSecretVersion()); err != nil {
		return nil, err
	}
	return &pb.RetireSecretResponse{SecretVersion: req.GetSecretVersion()}, nil
}

// RotateSecret implements RotationService.
func (s *rotationService) RotateSecret(ctx context.Context, req *pb.RotateSecretRequest) (*pb.RotateSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	request := broker.RotationRequest{
		ClientID: id, RequestID: req.GetRequestId(), Compromised: req.GetCompromised(), DropTokens: req.GetDropTokens(), AcceptGap: req.GetAcceptGap(),
	}
	if req.GetSecret() != nil {
		if request.Secret, err = secretFromProto(req.GetSecret()); err != nil {
			return nil, err
		}
	}
	if req.GetValidateOnly() {
		plan, err := s.broker.PlanRotation(ctx, request)
		if err != nil {
			return nil, err
		}
		return &pb.RotateSecretResponse{Plan: s.plan(ctx, id, plan)}, nil
	}
	r, err := s.broker.RotateSecret(ctx, request)
	if err != nil {
		return nil, err
	}
	return &pb.RotateSecretResponse{Rotation: s.rotation(ctx, r)}, nil
}

// AbortRotation implements RotationService.
func (s *rotationService) AbortRotation(ctx context.Context, req *pb.AbortRotationRequest) (*pb.AbortRotationResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	expected, err := rotationID(id, req.GetRotation())
	if err != nil {
		return nil, err
	}
	r, err := s.broker.AbortRotation(ctx, id, expected)
	if err != nil {
		return nil, err
	}
	return &pb.AbortRotationResponse{Rotation: s.rotation(ctx, r)}, nil
}

// AdoptSecret implements RotationService.
func (s *rotationService) AdoptSecret(ctx context.Context, req *pb.AdoptSecretRequest) (*pb.AdoptSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	version, err := s.broker.AdoptSecret(ctx, id, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &pb.AdoptSecretResponse{SecretVersion: versionToProto(version), Rotation: s.rotationOf(ctx, id)}, nil
}

// GetRotation implements RotationService.
func (s *rotationService) GetRotation(ctx context.Context, req *pb.GetRotationRequest) (*pb.GetRotationResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	r, err := s.broker.GetRotation(ctx, id)
	if err != nil {
		return nil, err
	}
	return &pb.GetRotationResponse{Rotation: s.rotation(ctx, r)}, nil
}

// ListRotations implements RotationService.
func (s *rotationService) ListRotations(ctx context.Context, req *pb.ListRotationsRequest) (*pb.ListRotationsResponse, error) {
	keep, err := rotationFilter(req)
	if err != nil {
		return nil, err
	}
	v := visitOf(ctx)
	page, err := s.broker.ListRotations(ctx, broker.ListQuery{
		PageSize: int(min(req.GetPageSize(), maxRotationPage)), PageToken: req.GetPageToken(),
		Shown: func(id string, labels map[string]string) bool { return v.mayWith(access.ClientRead, id, labels) },
	}, keep)
	if err != nil {
		return nil, err
	}
	response := &pb.ListRotationsResponse{NextPageToken: page.NextPageToken}
	for _, r := range page.Rotations {
		response.Rotations = append(response.Rotations, s.rotation(ctx, r))
	}
	return response, nil
}

// WatchRotation implements RotationService.
func (s *rotationService) WatchRotation(req *pb.WatchRotationRequest, stream grpc.ServerStreamingServer[pb.WatchRotationResponse]) error {
	ctx := stream.Context()
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return err
	}
	defer visitOf(ctx).recheck(func(*access.Decision) error { return nil })() // being allowed is all
	for r, err := range s.broker.WatchRotation(ctx, id) {
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.WatchRotationResponse{Rotation: s.rotation(ctx, r)}); err != nil {
			return err
		}
		if r.State.Over() {
			return nil
		}
	}
	return context.Cause(ctx)
}

// ListSecretVersions implements RotationService.
func (s *rotationService) ListSecretVersions(ctx context.Context, req *pb.ListSecretVersionsRequest) (*pb.ListSecretVersionsResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	c, err := s.broker.GetClient(ctx, id)
	if err != nil {
		return nil, err
	}
	versions := clientToProto(c).GetSecretVersions()
	usage, err := s.broker.Usage(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, use := range usage.Versions {
		for _, v := range versions {
			if v.GetNumber() == use.Number {
				v.LastUseTime = timeToProto(use.LastUseTime)
			}
		}
	}
	return &pb.ListSecretVersionsResponse{SecretVersions: versions}, nil
}
