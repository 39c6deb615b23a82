package server_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// writes are the permissions with which tests make clients.
const writes = "client.write, secret.stage"

// create makes clients that the authorization server knows, of no labels.
func (w *world) create(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		w.accept(id)
		_, err := w.clients.CreateClient(t.Context(), w.creation(id, nil))
		must(t, err)
	}
}

func (w *world) check(t *testing.T, request *pb.CheckLookupRequest) *pb.CheckLookupResponse {
	t.Helper()
	report, err := w.diagnostics.CheckLookup(t.Context(), request)
	must(t, err)
	return report
}

func stageNamed(t *testing.T, report *pb.CheckLookupResponse, name string) *pb.LookupStage {
	t.Helper()
	for _, stage := range report.GetStages() {
		if stage.GetName() == name {
			return stage
		}
	}
	t.Fatalf("the report has no stage %s: %v", name, report)
	return nil
}

// TestDeepChecksNeedAPermission: whoever lacks lookup.probe for a client gets the shallow
// stages of it, and nobody outside is asked.
func TestDeepChecksNeedAPermission(t *testing.T) {
	w, _ := tabled(t, row(writes+", lookup.check", `"*"`, ""), row("lookup.probe", "probed", ""))
	w.create(t, "probed", "plain")
	deep := pb.LookupDepth_LOOKUP_DEPTH_TOKEN
	shallow := w.check(t, &pb.CheckLookupRequest{Client: "clients/plain", Depth: deep})
	for _, info := range broker.LookupStages() {
		if info.Depth <= broker.DepthSecret || info.Depth > broker.DepthToken {
			continue
		}
		stage := stageNamed(t, shallow, info.Name)
		if stage.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED || stage.GetReason() != string(broker.ReasonCheckNotPermitted) {
			t.Errorf("without the permission: got %v, want it skipped for CHECK_NOT_PERMITTED", stage)
		}
	}
	if cause := shallow.GetRootCause(); cause != nil || w.upstream.Count() != 0 {
		t.Errorf("got the root cause %v and %d token requests, want none", cause, w.upstream.Count())
	}
	whole := w.check(t, &pb.CheckLookupRequest{Client: "clients/probed", Depth: deep})
	if got := stageNamed(t, whole, broker.StageTokenRequest); got.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_PASSED || w.upstream.Count() != 1 {
		t.Errorf("with the permission: got %v after %d token requests, want a token", got, w.upstream.Count())
	}
}

// TestChecksAsACaller: a check is made as whom the table lists, and says what it lacks.
func TestChecksAsACaller(t *testing.T) {
	w, _ := tabled(t, row(writes+", lookup.check", `"*"`, ""), row("token.get", "theirs", `, scopes: {default: [read]}`))
	w.create(t, "theirs", "others")
	for _, test := range []struct {
		client string
		scopes []string
		want   broker.Reason
	}{
		{"theirs", nil, ""},
		{"theirs", []string{"admin"}, broker.ReasonScopeNotAllowed},
		{"others", nil, broker.ReasonCallerNotAllowed},
	} {
		report := w.check(t, &pb.CheckLookupRequest{Client: "clients/" + test.client, Caller: "tester", Scopes: test.scopes})
		if got := broker.Reason(report.GetRootCause().GetReason()); got != test.want {
			t.Errorf("%s with scopes %q: got the root cause %q, want %q", test.client, test.scopes, got, test.want)
		}
		if test.want != "" && report.GetRootCause().GetStage() != broker.StageCaller {
			t.Errorf("%s: got the root cause %v, want it at %s", test.client, report.GetRootCause(), broker.StageCaller)
		}
	}
	for _, stage := range w.check(t, &pb.CheckLookupRequest{Client: "clients/others"}).GetStages() {
		if stage.GetName() == broker.StageCaller {
			t.Error("a check for nobody has a stage of the caller")
		}
	}
}

// TestNearMisses are told to those who may read of them.
func TestNearMisses(t *testing.T) {
	w, _ := tabled(t, row(writes+", lookup.check", `"*"`, ""), row("client.read", "acme-crm", ""))
	w.create(t, "acme-crm", "acme-crn")
	report := w.check(t, &pb.CheckLookupRequest{Client: "clients/acme-cr"})
	requireCause(t, report, nil, broker.ReasonClientNotFound)
	if evidence := strings.Join(stageNamed(t, report, broker.StageIndex).GetEvidence(), "\n"); !strings.Contains(evidence, "acme-crm") || strings.Contains(evidence, "acme-crn") {
		t.Errorf("got the evidence %q, want the one that may be read", evidence)
	}
}

func TestReportFormats(t *testing.T) {
	w := newWorld(t, setup{})
	w.register(t, w.peer, "acme")
	for format, begins := range map[pb.ReportFormat]string{
		pb.ReportFormat_REPORT_FORMAT_UNSPECIFIED: "", pb.ReportFormat_REPORT_FORMAT_TEXT: "clients/acme: nothing failed", pb.ReportFormat_REPORT_FORMAT_MARKDOWN: "**clients/acme: nothing failed",
	} {
		got := w.check(t, &pb.CheckLookupRequest{Client: "clients/acme", ReportFormat: format}).GetReportText()
		if !strings.HasPrefix(got, begins) || (got == "") != (begins == "") {
			t.Errorf("%v: got %q, want %q…", format, got, begins)
		}
	}
}

// TestStreamCheck sends each stage and then a report of the same.
func TestStreamCheck(t *testing.T) {
	w := newWorld(t, setup{})
	w.register(t, w.peer, "acme")
	stream, err := w.diagnostics.StreamCheck(t.Context(), &pb.StreamCheckRequest{Check: &pb.CheckLookupRequest{
		Client: "clients/acme", Depth: pb.LookupDepth_LOOKUP_DEPTH_TOKEN, ReportFormat: pb.ReportFormat_REPORT_FORMAT_TEXT,
	}})
	must(t, err)
	var stages []*pb.LookupStage
	var report *pb.CheckLookupResponse
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if report != nil {
			t.Errorf("got %v after the report", message)
		}
		if stage := message.GetStage(); stage != nil {
			stages = append(stages, stage)
		}
		report = message.GetReport()
	}
	if len(stages) == 0 || report.GetReportText() == "" || !slices.EqualFunc(stages, report.GetStages(), func(a, b *pb.LookupStage) bool { return proto.Equal(a, b) }) {
		t.Errorf("got the stages\n%v\nand the report\n%v", stages, report)
	}
}

// TestLeavingEndsAStreamedCheck: nothing goes on for a caller that left, nor when the
// server stops.
func TestLeavingEndsAStreamedCheck(t *testing.T) {
	for name, end := range map[string]func(leave func(), w *world){
		"the caller leaves":  func(leave func(), _ *world) { leave() },
		"the server's grace": func(leave func(), w *world) { time.AfterFunc(second, leave); _ = w.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				ended := make(chan struct{})
				w.store.Always(brokertest.Fault{Before: func(ctx context.Context, _ brokertest.Call) error {
					<-ctx.Done()
					close(ended)
					return ctx.Err()
				}}, brokertest.On(brokertest.OpRead, "secrets/"))
				ctx, leave := context.WithCancel(t.Context())
				stream, err := w.diagnostics.StreamCheck(ctx, &pb.StreamCheckRequest{Check: &pb.CheckLookupRequest{Client: "clients/acme"}})
				must(t, err)
				first, err := stream.Recv()
				if err != nil || first.GetStage().GetName() != broker.StageStoreReachable {
					t.Fatalf("got %v, %v, want the first stage while the secret is read", first, err)
				}
				began := time.Now()
				end(leave, w)
				<-ended
				must(t, w.stop())
				if took := time.Since(began); took >= second {
					t.Errorf("the check ended %v after it was left, want sooner than its caller left", took)
				}
			})
		})
	}
}

// TestExplainError tells of failures to those who may check the client.
func TestExplainError(t *testing.T) {
	w, _ := tabled(t, row(writes+", token.get", `"*"`, ""), row("lookup.check", "acme-one", ""))
	w.create(t, "acme-one", "acme-two")
	explain := func(id string) (*pb.ExplainErrorResponse, error) {
		return w.diagnostics.ExplainError(t.Context(), &pb.ExplainErrorRequest{RequestId: id})
	}
	w.upstream.Always(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamTLS, Detail: "the chain is broken"}})
	failed := func(id string) string {
		_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + id})
		return requireProblem(t, err, codes.Unavailable, broker.ReasonUpstreamTLS).metadata["request_id"]
	}
	got, err := explain(failed("acme-one"))
	must(t, err)
	info := broker.ReasonUpstreamTLS.Info()
	if got.GetClient() != "clients/acme-one" || got.GetReason() != "UPSTREAM_TLS" || got.GetMethod() != pb.TokenService_GetToken_FullMethodName ||
		got.GetCaller() != "tester" || got.GetDetail() != "the chain is broken" || got.GetSummary() != info.Summary || got.GetRemedy() != info.Remedy ||
		got.GetTime() == nil || got.GetDuration() == nil || got.GetNextCheck() != "tokenctl check acme-one --depth token" {
		t.Errorf("got %v", got)
	}
	other := failed("acme-two")
	_, err = explain(other)
	notTheirs := requireProblem(t, err, codes.NotFound, broker.ReasonFailureNotSeen)
	_, err = explain("never-seen")
	never := requireProblem(t, err, codes.NotFound, broker.ReasonFailureNotSeen)
	if notTheirs.message != never.message {
		t.Errorf("a failure of another client: got %q, want what one says that was never seen: %q", notTheirs.message, never.message)
	}
	// One's own failure that is of no client.
	_, err = w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "acme"})
	own, err := explain(requireProblem(t, err, codes.InvalidArgument, broker.ReasonInvalidRequest).metadata["request_id"])
	if err != nil || own.GetReason() != "INVALID_REQUEST" || own.GetNextCheck() != "" {
		t.Errorf("got %v, %v, want it explained, and no check of it", own, err)
	}
}

// TestTheOldestFailureIsForgotten when one more comes than is kept.
func TestTheOldestFailureIsForgotten(t *testing.T) {
	kept := newFailures(t)
	if _, ok := kept.Find("0"); ok {
		t.Error("the oldest is still there")
	}
	for _, id := range []string{"1", "5000", "10000"} {
		if client, ok := kept.Find(id); !ok || client != "clients/"+id {
			t.Errorf("%s: got %q, %t, want it kept", id, client, ok)
		}
	}
	kept.Note("5000", "clients/again") // an id that a caller chose twice: the newer counts
	if client, _ := kept.Find("5000"); client != "clients/again" {
		t.Errorf("got %q, want the newer", client)
	}
}
