package telemetry

import (
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/reflection"
)

// newOperatorServer returns the gRPC server of the admin listener, which callers do
// not reach: channelz (gRFC A14), with reflection for grpcurl.
func newOperatorServer() *grpc.Server {
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	service.RegisterChannelzServiceToServer(server)
	reflection.Register(server)
	return server
}

// orGRPC gives requests that are gRPC to server and all others to pages.
func orGRPC(server *grpc.Server, pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			server.ServeHTTP(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})
}
