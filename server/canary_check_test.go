package server_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// checksSucceed checks clients that are well, and asks after a call that failed.
func (c *canary) checksSucceed(t *testing.T) {
	t.Helper()
	c.peer.seen = func(m proto.Message) { c.keep(t, fmt.Sprintf("%d on its way", len(c.surfaces)), m) }
	defer func() { c.peer.seen = nil }()
	for _, id := range []string{"acme", "pem", "jwk", "users", "old"} {
		c.checksOf(t, id)
	}
	c.do(t, c.peer, pb.DiagnosticsService_StreamCheck_FullMethodName, &pb.StreamCheckRequest{}, codes.InvalidArgument)
	c.do(t, c.peer, pb.DiagnosticsService_SweepLookups_FullMethodName, &pb.SweepLookupsRequest{Filter: "=~"}, codes.InvalidArgument)
	c.do(t, c.peer, pb.DiagnosticsService_ExplainError_FullMethodName, &pb.ExplainErrorRequest{RequestId: "nobody's"}, codes.NotFound)
}

// checksOf makes every check of a client in every form, and asks after a failure of it.
func (c *canary) checksOf(t *testing.T, id string) {
	t.Helper()
	for _, depth := range []pb.LookupDepth{pb.LookupDepth_LOOKUP_DEPTH_SECRET, pb.LookupDepth_LOOKUP_DEPTH_API} {
		for format := range pb.ReportFormat_name {
			check := &pb.CheckLookupRequest{Client: "clients/" + id, Depth: depth, ReportFormat: pb.ReportFormat(format)}
			c.do(t, c.peer, pb.DiagnosticsService_CheckLookup_FullMethodName, check, codes.OK)
			c.do(t, c.peer, pb.DiagnosticsService_StreamCheck_FullMethodName, &pb.StreamCheckRequest{Check: check}, codes.OK)
		}
	}
	c.do(t, c.peer, pb.DiagnosticsService_SweepLookups_FullMethodName, &pb.SweepLookupsRequest{IncludeHealthy: true}, codes.OK)
	c.do(t, c.peer, pb.DiagnosticsService_SweepLookups_FullMethodName, &pb.SweepLookupsRequest{Depth: pb.LookupDepth_LOOKUP_DEPTH_TOKEN, ProbeBudget: 3}, codes.OK)
	c.do(t, c.peer, pb.DiagnosticsService_ExplainError_FullMethodName, &pb.ExplainErrorRequest{RequestId: c.failOnce(t, id)}, codes.OK)
}
