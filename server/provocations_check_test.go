package server_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// checkContract is the part of DiagnosticsService.
var checkContract = map[string][]provocation{
	"CheckLookup": {
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", check(&pb.CheckLookupRequest{Client: "acme"})},
		{"bad id", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", check(&pb.CheckLookupRequest{Client: "clients/A"})},
		{"unknown depth", codes.InvalidArgument, broker.ReasonInvalidRequest, "depth", check(&pb.CheckLookupRequest{Client: "clients/acme", Depth: 99})},
		{"unknown format", codes.InvalidArgument, broker.ReasonInvalidRequest, "report_format", check(&pb.CheckLookupRequest{Client: "clients/acme", ReportFormat: 99})},
		{"unknown caller", codes.InvalidArgument, broker.ReasonInvalidRequest, "caller", check(&pb.CheckLookupRequest{Client: "clients/acme", Caller: "nobody"})},
		{"bad scope", codes.InvalidArgument, broker.ReasonInvalidRequest, "scopes[0]", check(&pb.CheckLookupRequest{Client: "clients/acme", Scopes: []string{"a b"}})},
	},
	"StreamCheck": {
		{"no check", codes.InvalidArgument, broker.ReasonInvalidRequest, "check", streamCheck(nil)},
		{"bad name", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", streamCheck(&pb.CheckLookupRequest{Client: "acme"})},
		{"bad id", codes.InvalidArgument, broker.ReasonInvalidRequest, "client", streamCheck(&pb.CheckLookupRequest{Client: "clients/A"})},
		{"unknown depth", codes.InvalidArgument, broker.ReasonInvalidRequest, "depth", streamCheck(&pb.CheckLookupRequest{Client: "clients/acme", Depth: 99})},
	},
	"SweepLookups": {
		{"bad filter", codes.InvalidArgument, broker.ReasonInvalidRequest, "filter", sweep(&pb.SweepLookupsRequest{Filter: "name=~x"})},
		{"unknown depth", codes.InvalidArgument, broker.ReasonInvalidRequest, "depth", sweep(&pb.SweepLookupsRequest{Depth: 99})},
		{"wrong tries at all", codes.InvalidArgument, broker.ReasonInvalidRequest, "depth", sweep(&pb.SweepLookupsRequest{Depth: pb.LookupDepth_LOOKUP_DEPTH_ENFORCEMENT, ProbeBudget: 1})},
		{"no budget", codes.InvalidArgument, broker.ReasonInvalidRequest, "probe_budget", sweep(&pb.SweepLookupsRequest{Depth: pb.LookupDepth_LOOKUP_DEPTH_TOKEN})},
		{"large budget", codes.InvalidArgument, broker.ReasonInvalidRequest, "probe_budget", sweep(&pb.SweepLookupsRequest{ProbeBudget: 100_001})},
		{"may not probe", codes.PermissionDenied, broker.ReasonCallerNotAllowed, "", sweepAsCaller},
		{"one is under way", codes.ResourceExhausted, broker.ReasonTooManyRequests, "", after(sweepHangs, sweep(&pb.SweepLookupsRequest{}))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), sweep(&pb.SweepLookupsRequest{}))},
	},
	"ExplainError": {
		{"no id", codes.InvalidArgument, broker.ReasonInvalidRequest, "request_id", explain("")},
		{"long id", codes.InvalidArgument, broker.ReasonInvalidRequest, "request_id", explain(string(make([]byte, 65)))},
		{"not seen", codes.NotFound, broker.ReasonFailureNotSeen, "", explain("never-seen")},
	},
}

func check(request *pb.CheckLookupRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.diagnostics.CheckLookup(t.Context(), request)
		return err
	})
}

func streamCheck(request *pb.CheckLookupRequest) act {
	return call(func(t *testing.T, w *world) error {
		stream, err := w.diagnostics.StreamCheck(t.Context(), &pb.StreamCheckRequest{Check: request})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
}

func sweep(request *pb.SweepLookupsRequest) act {
	return call(func(t *testing.T, w *world) error {
		stream, err := w.diagnostics.SweepLookups(t.Context(), request)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
}

// sweepAsCaller sweeps as one whose role is to get tokens.
func sweepAsCaller(t *testing.T, w *world) error {
	w = newWorld(t, setup{role: server.RoleCaller})
	stream, err := w.diagnostics.SweepLookups(t.Context(), &pb.SweepLookupsRequest{Depth: pb.LookupDepth_LOOKUP_DEPTH_TOKEN, ProbeBudget: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// sweepHangs leaves a sweep under way, in a store that does not answer.
func sweepHangs(t *testing.T, w *world) {
	reading := make(chan struct{})
	w.store.Once(brokertest.Before(func(brokertest.Call) { close(reading) }), brokertest.On(brokertest.OpList, ""))
	w.store.Always(brokertest.Delay(time.Hour), func(c brokertest.Call) bool { return !c.Op.Writes() })
	_, err := w.diagnostics.SweepLookups(t.Context(), &pb.SweepLookupsRequest{})
	must(t, err)
	<-reading
}

func explain(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.diagnostics.ExplainError(t.Context(), &pb.ExplainErrorRequest{RequestId: id})
		return err
	})
}
