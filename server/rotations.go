package server

import (
	"context"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type rotationService struct {
	pb.UnimplementedRotationServiceServer
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
	version, err := s.broker.StageSecret(ctx, id, input, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &pb.StageSecretResponse{SecretVersion: versionToProto(version)}, nil
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
	return &pb.VerifySecretResponse{SecretVersion: versionToProto(version), Warnings: warningsToProto(warnings)}, nil
}

// PromoteSecret implements RotationService.
func (s *rotationService) PromoteSecret(ctx context.Context, req *pb.PromoteSecretRequest) (*pb.PromoteSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	c, err := s.broker.PromoteSecret(ctx, broker.Promotion{
		ClientID: id, Number: req.GetSecretVersion(), AllowUnverified: req.GetAllowUnverified(), DropTokens: req.GetDropTokens(),
	})
	if err != nil {
		return nil, err
	}
	response := &pb.PromoteSecretResponse{}
	if current, ok := c.Staged(broker.Current); ok {
		response.Current = versionToProto(current)
	}
	if previous, ok := c.Staged(broker.Previous); ok {
		response.Previous = versionToProto(previous)
	}
	return response, nil
}

// RetireSecret implements RotationService.
func (s *rotationService) RetireSecret(ctx context.Context, req *pb.RetireSecretRequest) (*pb.RetireSecretResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	if err := s.broker.RetireSecret(ctx, id, req.GetSecretVersion()); err != nil {
		return nil, err
	}
	return &pb.RetireSecretResponse{SecretVersion: req.GetSecretVersion()}, nil
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
	return &pb.ListSecretVersionsResponse{SecretVersions: clientToProto(c).GetSecretVersions()}, nil
}
