package main

import (
	"context"
	"strconv"
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
	// ends are how the streams of WatchToken end, in turn; further ones do not.
	ends    []error
	streams int
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

// sampleFilter is a filter that the fake takes; any other is refused.
const sampleFilter = "prefix=acme-"

// SweepLookups implements DiagnosticsService.
func (f *fake) SweepLookups(request *pb.SweepLookupsRequest, stream grpc.ServerStreamingServer[pb.SweepLookupsResponse]) error {
	f.mu.Lock()
	f.requests = append(f.requests, proto.Clone(request))
	f.mu.Unlock()
	if request.GetFilter() != "" && request.GetFilter() != sampleFilter {
		return refusal(codes.InvalidArgument, "INVALID_REQUEST", "FIX_CALLER", "filter is not understood")
	}
	names := []string{"acme-billing", "zeta", "gone"}
	if request.GetIncludeHealthy() {
		names = append(names, "acme-crm")
	}
	messages := []*pb.SweepLookupsResponse{{Event: &pb.SweepLookupsResponse_Progress{Progress: &pb.SweepProgress{Checked: 120, Failed: 1, Share: 0.4}}}}
	for _, name := range names {
		messages = append(messages, &pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Report{Report: sampleReport(&pb.CheckLookupRequest{Client: "clients/" + name})}})
	}
	if !f.cut {
		messages = append(messages, &pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Summary{Summary: sampleSummary(request)}})
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func sampleSummary(request *pb.SweepLookupsRequest) *pb.SweepSummary {
	return &pb.SweepSummary{
		Checked: 300, Healthy: 290, Warned: 1, Failed: 9, Duration: durationpb.New(1834 * time.Millisecond), Probes: request.GetProbeBudget(),
		Causes: []*pb.SweepCause{
			{Reason: "CLIENT_REJECTED", Clients: 8, Examples: []string{"clients/acme-billing", "clients/b", "clients/c"}, Remedy: "Compare client_id, authentication method and secret with the provider's registration, and stage the right one."},
			{Reason: "SECRET_DESTROYED", Clients: 1, Examples: []string{"clients/gone"}, Remedy: "Stage a new secret, verify it and promote it."},
		},
	}
}

const explained = "P2SDVNBOQ7GZ2LEMALDABCHLKM"

// ExplainError implements DiagnosticsService.
func (f *fake) ExplainError(_ context.Context, request *pb.ExplainErrorRequest) (*pb.ExplainErrorResponse, error) {
	if request.GetRequestId() != explained {
		return nil, refusal(codes.NotFound, "FAILURE_NOT_SEEN", "FIX_CALLER", "This replica has not seen that call.")
	}
	return &pb.ExplainErrorResponse{
		Time: timestamppb.New(checkedAt), Method: "/tokenbroker.v1.TokenService/GetToken", Caller: "crm", Client: "clients/acme-billing", Reason: "CLIENT_REJECTED",
		Summary: "The authorization server rejects the client's credentials.", Detail: "401, error invalid_client", Remedy: "Stage the right secret; PromoteSecret makes it current.",
		Duration: durationpb.New(140 * time.Millisecond), NextCheck: "tokenctl check acme-billing",
		Recently: &pb.RecentFailure{Reason: "CLIENT_REJECTED", Count: 12, FirstTime: timestamppb.New(checkedAt.Add(-time.Hour)), LastTime: timestamppb.New(checkedAt)},
	}, nil
}

// sampleToken is one of the tokens that WatchToken sends.
func sampleToken(number int) *pb.GetTokenResponse {
	t := &pb.GetTokenResponse{
		AccessToken: canary + strconv.Itoa(number), TokenType: "Bearer", TokenId: "0123456789abcde" + strconv.Itoa(number), Scopes: []string{"read", "write"}, SecretVersion: 3,
		IssueTime: timestamppb.New(checkedAt), ExpireTime: timestamppb.New(checkedAt.Add(time.Hour)),
	}
	if number == 2 {
		t.Warnings = []*pb.Warning{{Reason: "SCOPES_NARROWED", Message: "Fewer scopes than were asked for."}}
	}
	return t
}

// WatchToken implements TokenService. Each stream sends the present token and ends as the
// test says; the last one waits.
func (f *fake) WatchToken(request *pb.WatchTokenRequest, stream grpc.ServerStreamingServer[pb.WatchTokenResponse]) error {
	f.mu.Lock()
	f.requests = append(f.requests, proto.Clone(request))
	at := f.streams
	f.streams++
	ends := f.ends
	f.mu.Unlock()
	// Streams 0 and 1 have the same token.
	if err := stream.Send(&pb.WatchTokenResponse{Token: sampleToken(max(1, at))}); err != nil {
		return err
	}
	if at < len(ends) {
		return ends[at]
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}
