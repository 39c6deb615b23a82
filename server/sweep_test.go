package server_test

import (
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// sweepAll returns the clients that were reported, sorted, and the summary.
func (w *world) sweepAll(t *testing.T, request *pb.SweepLookupsRequest) (reported []string, summary *pb.SweepSummary) {
	t.Helper()
	stream, err := w.diagnostics.SweepLookups(t.Context(), request)
	must(t, err)
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			slices.Sort(reported)
			return reported, summary
		}
		must(t, err)
		if summary != nil {
			t.Errorf("got %v after the summary", message)
		}
		if report := message.GetReport(); report != nil {
			reported = append(reported, report.GetClient())
		}
		summary = message.GetSummary()
	}
}

// TestSweepLookups leaves out, and does not count, what the caller may not check; and
// goes deeper only where it may.
func TestSweepLookups(t *testing.T) {
	w, _ := tabled(t, row(writes+", client.delete", `"*"`, ""), row("lookup.check", `"prefix:acme-"`, ""), row("lookup.probe", "acme-one", ""))
	w.create(t, "acme-one", "acme-two", "acme-off", "other")
	for _, id := range []string{"acme-off", "other"} {
		_, err := w.clients.DisableClient(t.Context(), &pb.DisableClientRequest{Name: "clients/" + id})
		must(t, err)
	}
	reported, summary := w.sweepAll(t, &pb.SweepLookupsRequest{})
	if !slices.Equal(reported, []string{"clients/acme-off"}) || summary.GetChecked() != 3 || summary.GetHealthy() != 2 || summary.GetFailed() != 1 || len(summary.GetCauses()) != 1 {
		t.Fatalf("got reports of %q and %v, want acme-off of 3", reported, summary)
	}
	cause := summary.GetCauses()[0]
	if cause.GetReason() != "CLIENT_DISABLED" || cause.GetClients() != 1 || !slices.Equal(cause.GetExamples(), []string{"clients/acme-off"}) || cause.GetRemedy() == "" {
		t.Errorf("got the cause %v", cause)
	}
	if reported, _ := w.sweepAll(t, &pb.SweepLookupsRequest{IncludeHealthy: true}); len(reported) != 3 {
		t.Errorf("with the healthy ones: got %q, want three", reported)
	}
	if got := w.upstream.Count(); got != 0 {
		t.Errorf("the authorization server was asked %d times, want never", got)
	}
	reported, summary = w.sweepAll(t, &pb.SweepLookupsRequest{Depth: pb.LookupDepth_LOOKUP_DEPTH_TOKEN, ProbeBudget: 10, IncludeHealthy: true})
	if !slices.Equal(reported, []string{"clients/acme-one"}) || summary.GetProbes() != 1 || w.upstream.Count() != 1 {
		t.Errorf("to a token: got reports of %q, %v and %d token requests, want that of acme-one", reported, summary, w.upstream.Count())
	}
}

// TestASweepEndsWithTheServer, and with its caller.
func TestASweepEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		w.store.Always(brokertest.Hang(), func(c brokertest.Call) bool { return !c.Op.Writes() })
		stream, err := w.diagnostics.SweepLookups(t.Context(), &pb.SweepLookupsRequest{})
		must(t, err)
		synctest.Wait()
		ended := make(chan error, 1)
		go func() { ended <- w.stop() }()
		_, err = stream.Recv()
		requireProblem(t, err, codes.Unavailable, broker.ReasonShuttingDown)
		must(t, <-ended)
	})
}

// TestAPanicInASweep ends that sweep and nothing else.
func TestAPanicInASweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bomb
		w := newWorld(t, setup{store: func(s broker.Store) broker.Store {
			b = &bomb{Store: s}
			return b
		}})
		w.register(t, w.peer, "acme")
		synctest.Wait()
		cause := any("value " + mark)
		b.cause.Store(&cause)
		err := sweep(&pb.SweepLookupsRequest{})(t, w)
		requireProblem(t, err, codes.Internal, broker.ReasonInternal)
		b.cause.Store(nil)
		if reported, summary := w.sweepAll(t, &pb.SweepLookupsRequest{}); len(reported) != 0 || summary.GetHealthy() != 1 {
			t.Errorf("afterwards: got %q and %v, want acme well", reported, summary)
		}
	})
}
