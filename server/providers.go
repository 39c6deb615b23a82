package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// ListProviders is not written yet.
func (s *clientService) ListProviders(context.Context, *pb.ListProvidersRequest) (*pb.ListProvidersResponse, error) {
	return nil, status.Error(codes.Unimplemented, "not written yet")
}

// GetProvider is not written yet.
func (s *clientService) GetProvider(context.Context, *pb.GetProviderRequest) (*pb.GetProviderResponse, error) {
	return nil, status.Error(codes.Unimplemented, "not written yet")
}

// ImportClients is not written yet.
func (s *clientService) ImportClients(grpc.BidiStreamingServer[pb.ImportClientsRequest, pb.ImportClientsResponse]) error {
	return status.Error(codes.Unimplemented, "not written yet")
}
