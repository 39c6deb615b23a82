package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	creating      = pb.RotationState_ROTATION_STATE_CREATING
	staged        = pb.RotationState_ROTATION_STATE_STAGED
	verifying     = pb.RotationState_ROTATION_STATE_VERIFYING
	promoted      = pb.RotationState_ROTATION_STATE_PROMOTED
	completed     = pb.RotationState_ROTATION_STATE_COMPLETED
	aborted       = pb.RotationState_ROTATION_STATE_ABORTED
	rolledBack    = pb.RotationState_ROTATION_STATE_ROLLED_BACK
	failed        = pb.RotationState_ROTATION_STATE_FAILED
	needsOperator = pb.RotationState_ROTATION_STATE_NEEDS_OPERATOR
)

// newRotation is one that has just begun.
func newRotation(name string) *pb.Rotation {
	return &pb.Rotation{
		Name: "clients/acme-crm/rotations/" + name, State: creating, Source: pb.SecretSource_SECRET_SOURCE_PROVIDER, Shape: pb.ProviderShape_PROVIDER_SHAPE_OVERLAPPING,
		ReplacedVersion: 3, Automatic: true, RequiredTokens: 3, RequestId: "request-1", CreateTime: timestamppb.Now(), UpdateTime: timestamppb.Now(),
	}
}

// step moves the rotation on, and tells those who watch.
func (f *fake) step(state pb.RotationState, step, reason string, more ...func(*pb.Rotation)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := proto.CloneOf(f.rotation)
	r.State, r.Reason, r.UpdateTime = state, reason, timestamppb.Now()
	if state != creating {
		r.SecretVersion = 4
	}
	if state == promoted {
		r.PromoteTime, r.RetireTime, r.VerifiedTokens = timestamppb.Now(), timestamppb.New(time.Now().Add(90*time.Minute)), 3
	}
	r.Events = append(r.Events, &pb.RotationEvent{Time: timestamppb.Now(), State: state, Step: step, Reason: reason})
	for _, change := range more {
		change(r)
	}
	f.setLocked(r)
}

func (f *fake) setLocked(r *pb.Rotation) {
	f.rotation = r
	close(f.changed)
	f.changed = make(chan struct{})
}

// RotateSecret implements RotationService.
func (f *fake) RotateSecret(_ context.Context, r *pb.RotateSecretRequest) (*pb.RotateSecretResponse, error) {
	if r.GetValidateOnly() {
		return &pb.RotateSecretResponse{Plan: samplePlan()}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	begun := newRotation("r1")
	begun.RequestId, begun.Compromised = r.GetRequestId(), r.GetCompromised()
	f.setLocked(begun)
	return &pb.RotateSecretResponse{Rotation: begun}, nil
}

// WatchRotation implements RotationService.
func (f *fake) WatchRotation(_ *pb.WatchRotationRequest, stream grpc.ServerStreamingServer[pb.WatchRotationResponse]) error {
	f.mu.Lock()
	f.watches++
	broken := f.broken > 0
	if broken {
		f.broken--
	}
	f.mu.Unlock()
	if broken {
		return refusal(codes.Unavailable, "SHUTTING_DOWN", "RETRY", "This replica is shutting down.")
	}
	for {
		f.mu.Lock()
		r, changed := f.rotation, f.changed
		f.mu.Unlock()
		if r == nil {
			return refusal(codes.NotFound, "ROTATION_NOT_FOUND", "FIX_CALLER", "The client's secret was never rotated.")
		}
		if err := stream.Send(&pb.WatchRotationResponse{Rotation: r}); err != nil {
			return err
		}
		if isOver(r.GetState()) {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// GetRotation implements RotationService.
func (f *fake) GetRotation(context.Context, *pb.GetRotationRequest) (*pb.GetRotationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rotation == nil {
		return nil, refusal(codes.NotFound, "ROTATION_NOT_FOUND", "FIX_CALLER", "The client's secret was never rotated.")
	}
	return &pb.GetRotationResponse{Rotation: f.rotation}, nil
}

// ListRotations implements RotationService, one a page.
func (f *fake) ListRotations(_ context.Context, r *pb.ListRotationsRequest) (*pb.ListRotationsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetPageToken() == "" {
		return &pb.ListRotationsResponse{Rotations: []*pb.Rotation{f.rotation}, NextPageToken: "more"}, nil
	}
	other := &pb.Rotation{Name: "clients/zeta/rotations/z", State: needsOperator, Stuck: true, Reason: "UPSTREAM_SECRET_LOST"}
	return &pb.ListRotationsResponse{Rotations: []*pb.Rotation{other}}, nil
}

// AbortRotation implements RotationService.
func (f *fake) AbortRotation(context.Context, *pb.AbortRotationRequest) (*pb.AbortRotationResponse, error) {
	f.step(aborted, "abort", "")
	f.mu.Lock()
	defer f.mu.Unlock()
	return &pb.AbortRotationResponse{Rotation: f.rotation}, nil
}

// AdoptSecret implements RotationService.
func (f *fake) AdoptSecret(context.Context, *pb.AdoptSecretRequest) (*pb.AdoptSecretResponse, error) {
	return &pb.AdoptSecretResponse{SecretVersion: &pb.SecretVersion{Number: 4, Stage: pb.SecretStage_SECRET_STAGE_PENDING}, Rotation: newRotation("r1")}, nil
}
