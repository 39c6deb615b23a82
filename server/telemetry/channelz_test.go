package telemetry_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// TestChannelz asks as grpcurl does, without TLS on the port of the pages: which
// services are there, and for the servers of this process.
func TestChannelz(t *testing.T) {
	address := serveAt(t, &telemetry.Admin{Metrics: telemetry.New("v1"), Ready: func() bool { return true }})
	public := newTraced(t, nil)
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	listed, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range listed.GetListServicesResponse().GetService() {
		if !strings.HasPrefix(service.GetName(), "grpc.") {
			t.Errorf("%s is on the admin listener", service.GetName())
		}
	}
	// The stream is left open: the listener must end nevertheless.

	servers, err := channelz.NewChannelzClient(conn).GetServers(t.Context(), &channelz.GetServersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(servers.GetServer()) < 2 {
		t.Errorf("%d servers, want the admin listener's and the API's", len(servers.GetServer()))
	}
	_, err = channelz.NewChannelzClient(public.conn).GetServers(t.Context(), &channelz.GetServersRequest{})
	if code := status.Code(err); code != codes.Unimplemented && code != codes.PermissionDenied {
		t.Errorf("where callers call: %v, want that there is no channelz", err)
	}
}
