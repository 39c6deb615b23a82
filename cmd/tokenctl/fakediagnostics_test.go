package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// diagnosed is what the fake broker knows for DiagnosticsService.
type diagnosed struct {
	// cut ends streams of diagnostics before their end.
	cut bool
	// begins sends each stage when it begins, too.
	begins bool
	// skew is how far the broker's clock goes before this machine's.
	skew time.Duration
}

// checkedAt is when all checks of the fake were made.
var checkedAt = time.Date(2026, 11, 21, 9, 7, 0, 0, time.UTC)

func stage(name, title string, outcome pb.StageOutcome, edit ...func(*pb.LookupStage)) *pb.LookupStage {
	s := &pb.LookupStage{Name: name, Title: title, Outcome: outcome, Duration: durationpb.New(time.Millisecond), Documentation: "docs/diagnosis.md#" + strings.ToLower(name)}
	for _, e := range edit {
		e(s)
	}
	return s
}

const (
	isGood    = pb.StageOutcome_STAGE_OUTCOME_PASSED
	toLook    = pb.StageOutcome_STAGE_OUTCOME_WARNED
	isBad     = pb.StageOutcome_STAGE_OUTCOME_FAILED
	isSkipped = pb.StageOutcome_STAGE_OUTCOME_SKIPPED
)

// sampleReport is the report of a client: acme-crm is well, acme-billing has a secret
// that is refused, zeta needs a look, and nobody else is registered.
func sampleReport(request *pb.CheckLookupRequest) *pb.CheckLookupResponse {
	r := &pb.CheckLookupResponse{Client: request.GetClient(), CheckTime: timestamppb.New(checkedAt), Cost: &pb.CheckCost{}, Stages: []*pb.LookupStage{
		stage("STORE_REACHABLE", "the store answers", isGood),
		stage("STORE_PERMITTED", "the store's policy lets the broker read", isGood),
	}}
	switch strings.TrimPrefix(request.GetClient(), "clients/") {
	case "acme-crm":
		r.Stages = append(r.Stages, stage("INDEX", "the client is registered", isGood))
	case "acme-billing":
		refused(r)
	case "zeta":
		r.Stages = append(r.Stages, stage("INDEX", "the client is registered", isGood), stage("SECRET_FIT", "it fits the authentication method, and looks like a secret", toLook, func(s *pb.LookupStage) {
			s.Reason, s.Evidence, s.Remedy = "SECRET_EXPIRES_SOON", []string{"it expires at 2026-11-25T00:00:00Z"}, "Rotate the secret before it expires."
		}))
	default:
		r.Stages = append(r.Stages, stage("INDEX", "the client is registered", isBad, func(s *pb.LookupStage) {
			s.Reason, s.Evidence, s.Remedy = "CLIENT_NOT_FOUND", []string{"near to it: acme-crm\x1b[2J"}, "Check the spelling of the name; ListClients shows what is registered."
		}), stage("SETTINGS", "its settings are sound", isSkipped))
		r.RootCause = &pb.RootCause{Stage: "INDEX", Reason: "CLIENT_NOT_FOUND", Summary: "No client of that name is registered.", Remedy: "Check the spelling of the name; ListClients shows what is registered.", Confidence: pb.Confidence_CONFIDENCE_PROVEN}
	}
	if request.GetCaller() != "" {
		callerStage(r, request.GetCaller())
	}
	if request.GetReportFormat() == pb.ReportFormat_REPORT_FORMAT_MARKDOWN {
		r.ReportText = "**" + request.GetClient() + "**: as Markdown\n"
	}
	return r
}

// refused adds what a check sees whose secret is refused.
func refused(r *pb.CheckLookupResponse) {
	spent := func(s *pb.LookupStage) {
		s.Reason, s.Evidence = "CHECK_BUDGET_SPENT", []string{"1 in the last day"}
	}
	r.Stages = append(r.Stages, stage("INDEX", "the client is registered", isGood),
		stage("TCP", "its addresses take connections", isGood, func(s *pb.LookupStage) { s.Duration = durationpb.New(1234 * time.Millisecond) }),
		stage("TOKEN_REQUEST", "a token is given for the client's credentials", isBad, func(s *pb.LookupStage) {
			s.Reason = "CLIENT_REJECTED"
			s.Evidence = []string{"POST https://login.example.com/oauth2/token: 401, error invalid_client, 214 bytes of application/json", "secret version 3, staged 50 h ago"}
			s.Remedy = "Compare client_id, authentication method and secret with the provider's registration, and stage the right one."
		}),
		stage("TOKEN_SCOPES", "it has the scopes that were asked for", isSkipped), stage("TOKEN_EXPIRY", "its expiry is known", isSkipped),
		stage("NO_SECRET_REFUSED", "a missing secret is refused", isSkipped, spent), stage("WRONG_SECRET_REFUSED", "a wrong secret is refused", isSkipped, spent))
	r.RootCause = &pb.RootCause{
		Stage: "TOKEN_REQUEST", Reason: "CLIENT_REJECTED", Summary: "The authorization server rejects the client's credentials.",
		Remedy: "Compare client_id, authentication method and secret with the provider's registration, and stage the right one.",
		Also:   []string{"CLIENT_UNKNOWN_UPSTREAM", "SECRET_EXPIRED"}, Confidence: pb.Confidence_CONFIDENCE_LIKELY,
	}
	r.Cost = &pb.CheckCost{Connections: 1, TokenRequests: 2, WrongTries: 1, WrongTriesLeft: 0}
	r.StatusPage = "https://status.example.com"
	r.RecentFailures = []*pb.RecentFailure{{Reason: "CLIENT_REJECTED", Count: 12, LastTime: timestamppb.New(checkedAt.Add(-time.Hour)), SecretVersion: 3}}
	r.RecentChanges = []*pb.RecentChange{{Time: timestamppb.New(checkedAt.Add(-50 * time.Hour)), Summary: "secret version 3 became current"}}
}

// callerStage adds what a check for a caller sees: crm may, others may not.
func callerStage(r *pb.CheckLookupResponse, caller string) {
	if caller == "crm" {
		r.Stages = append(r.Stages, stage("CALLER_PERMITTED", "the caller may have the token", isGood, func(s *pb.LookupStage) { s.Evidence = []string{"rules[1] gives token.get"} }))
		return
	}
	r.Stages = append(r.Stages, stage("CALLER_PERMITTED", "the caller may have the token", isBad, func(s *pb.LookupStage) {
		s.Reason, s.Evidence, s.Remedy = "CALLER_NOT_ALLOWED", []string{"no row gives " + caller + " the permission token.get for this client"}, "Add a row to the access table."
	}))
	if r.GetRootCause() == nil {
		r.RootCause = &pb.RootCause{Stage: "CALLER_PERMITTED", Reason: "CALLER_NOT_ALLOWED", Summary: "The caller may not do this.", Remedy: "Add a row to the access table.", Confidence: pb.Confidence_CONFIDENCE_PROVEN}
	}
}

// CheckLookup implements DiagnosticsService.
func (f *fake) CheckLookup(_ context.Context, request *pb.CheckLookupRequest) (*pb.CheckLookupResponse, error) {
	if request.GetCaller() == "nobody" {
		return nil, refusal(codes.InvalidArgument, "INVALID_REQUEST", "FIX_CALLER", "caller is not the name of a caller in the access table")
	}
	r := sampleReport(request)
	r.CheckTime = timestamppb.New(time.Now().Add(f.skew))
	return r, nil
}

// StreamCheck implements DiagnosticsService.
func (f *fake) StreamCheck(request *pb.StreamCheckRequest, stream grpc.ServerStreamingServer[pb.StreamCheckResponse]) error {
	f.mu.Lock()
	f.requests = append(f.requests, proto.Clone(request))
	f.mu.Unlock()
	r := sampleReport(request.GetCheck())
	for i, s := range r.GetStages() {
		if f.begins {
			if err := stream.Send(&pb.StreamCheckResponse{Event: &pb.StreamCheckResponse_Stage{Stage: &pb.LookupStage{Name: s.GetName()}}}); err != nil {
				return err
			}
		}
		if f.cut && i > 0 {
			return nil
		}
		if err := stream.Send(&pb.StreamCheckResponse{Event: &pb.StreamCheckResponse_Stage{Stage: s}}); err != nil {
			return err
		}
	}
	return stream.Send(&pb.StreamCheckResponse{Event: &pb.StreamCheckResponse_Report{Report: r}})
}
