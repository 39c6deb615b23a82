package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

// rotator is the service. It stores nothing: the secret of a rotation follows from its
// token and a key, so that whoever asks again, after a crash too, gets the same one, and
// its name at the provider is the token, so that the provider knows what was done.
type rotator struct {
	rotatorv1.UnimplementedRotatorServiceServer
	management *management
	key        []byte // secrets follow from it: as secret as all of them

	// mu makes calls wait for each other, so that RecoverSecret never answers while a
	// CreateSecret is still under way.
	mu sync.Mutex
}

// DescribeRotator says that several secrets work at a time.
func (r *rotator) DescribeRotator(context.Context, *rotatorv1.DescribeRotatorRequest) (*rotatorv1.DescribeRotatorResponse, error) {
	return &rotatorv1.DescribeRotatorResponse{Shape: rotatorv1.Shape_SHAPE_OVERLAPPING}, nil
}

// CreateSecret has the provider take the token's secret.
func (r *rotator) CreateSecret(ctx context.Context, request *rotatorv1.CreateSecretRequest) (*rotatorv1.CreateSecretResponse, error) {
	if err := check(request.GetToken(), request.GetClient()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	made := r.secretOf(request.GetToken(), request.GetClient())
	if err := r.management.put(ctx, request.GetClient().GetClientId(), request.GetToken(), made.GetValue()); err != nil {
		return nil, err
	}
	return &rotatorv1.CreateSecretResponse{Secret: made}, nil
}

// RecoverSecret looks for the token among the names at the provider.
func (r *rotator) RecoverSecret(ctx context.Context, request *rotatorv1.RecoverSecretRequest) (*rotatorv1.RecoverSecretResponse, error) {
	if err := check(request.GetToken(), request.GetClient()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	names, err := r.management.names(ctx, request.GetClient().GetClientId())
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, request.GetToken()) {
		return &rotatorv1.RecoverSecretResponse{Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_NOT_DONE}, nil
	}
	return &rotatorv1.RecoverSecretResponse{
		Outcome: rotatorv1.RecoverSecretResponse_OUTCOME_DONE, Secret: r.secretOf(request.GetToken(), request.GetClient()),
	}, nil
}

// FinishSecret ends a secret by its value: those that did not come from here have no
// name that is known.
func (r *rotator) FinishSecret(ctx context.Context, request *rotatorv1.FinishSecretRequest) (*rotatorv1.FinishSecretResponse, error) {
	if err := check(request.GetToken(), request.GetClient()); err != nil {
		return nil, err
	}
	if request.GetSecret().GetValue() == "" {
		return nil, status.Error(codes.InvalidArgument, "there is no secret")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.management.revoke(ctx, request.GetClient().GetClientId(), request.GetSecret().GetValue()); err != nil {
		return nil, err
	}
	return &rotatorv1.FinishSecretResponse{}, nil
}

func check(token string, client *rotatorv1.RotatedClient) error {
	switch {
	case token == "":
		return status.Error(codes.InvalidArgument, "there is no token")
	case client.GetClientId() == "" || client.GetUid() == "":
		return status.Error(codes.InvalidArgument, "there is no client")
	}
	return nil
}

func (r *rotator) secretOf(token string, client *rotatorv1.RotatedClient) *rotatorv1.Secret {
	mac := hmac.New(sha256.New, r.key)
	for _, part := range []string{client.GetUid(), client.GetClientId(), token} {
		mac.Write([]byte(part))
		mac.Write([]byte{0})
	}
	return &rotatorv1.Secret{Value: base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), Handle: token}
}
