package server

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/lookupreport"
)

type diagnosticsService struct {
	pb.UnsafeDiagnosticsServiceServer
	broker   *broker.Broker
	failures *failures
}

var _ pb.DiagnosticsServiceServer = (*diagnosticsService)(nil)

// depths is LookupDepth :: proto → domain.
var depths = map[pb.LookupDepth]broker.LookupDepth{
	pb.LookupDepth_LOOKUP_DEPTH_UNSPECIFIED: broker.DepthSecret,
	pb.LookupDepth_LOOKUP_DEPTH_INDEX:       broker.DepthIndex,
	pb.LookupDepth_LOOKUP_DEPTH_SECRET:      broker.DepthSecret,
	pb.LookupDepth_LOOKUP_DEPTH_CONNECT:     broker.DepthConnect,
	pb.LookupDepth_LOOKUP_DEPTH_TOKEN:       broker.DepthToken,
	pb.LookupDepth_LOOKUP_DEPTH_ENFORCEMENT: broker.DepthEnforcement,
	pb.LookupDepth_LOOKUP_DEPTH_API:         broker.DepthAPI,
}

// outcomes is StageOutcome :: domain → proto.
var outcomes = map[broker.Outcome]pb.StageOutcome{
	broker.OutcomePassed:  pb.StageOutcome_STAGE_OUTCOME_PASSED,
	broker.OutcomeWarned:  pb.StageOutcome_STAGE_OUTCOME_WARNED,
	broker.OutcomeFailed:  pb.StageOutcome_STAGE_OUTCOME_FAILED,
	broker.OutcomeSkipped: pb.StageOutcome_STAGE_OUTCOME_SKIPPED,
}

// confidences is Confidence :: domain → proto.
var confidences = map[broker.Confidence]pb.Confidence{
	broker.Proven:  pb.Confidence_CONFIDENCE_PROVEN,
	broker.Likely:  pb.Confidence_CONFIDENCE_LIKELY,
	broker.Unknown: pb.Confidence_CONFIDENCE_UNKNOWN,
}

// CheckLookup implements DiagnosticsService.
func (s *diagnosticsService) CheckLookup(ctx context.Context, req *pb.CheckLookupRequest) (*pb.CheckLookupResponse, error) {
	check, err := checkFromProto(ctx, req)
	if err != nil {
		return nil, err
	}
	return s.check(ctx, check, req.GetReportFormat())
}

// StreamCheck implements DiagnosticsService.
func (s *diagnosticsService) StreamCheck(req *pb.StreamCheckRequest, stream grpc.ServerStreamingServer[pb.StreamCheckResponse]) error {
	if req.GetCheck() == nil {
		return broker.Invalid("check", "is required")
	}
	check, err := checkFromProto(stream.Context(), req.GetCheck())
	if err != nil {
		return err
	}
	var sent error
	check.Progress = func(stage broker.LookupStage) {
		if sent == nil {
			sent = stream.Send(&pb.StreamCheckResponse{Event: &pb.StreamCheckResponse_Stage{Stage: stageToProto(stage)}})
		}
	}
	report, err := s.check(stream.Context(), check, req.GetCheck().GetReportFormat())
	if err != nil || sent != nil {
		return firstError(err, sent)
	}
	return stream.Send(&pb.StreamCheckResponse{Event: &pb.StreamCheckResponse_Report{Report: report}})
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *diagnosticsService) check(ctx context.Context, check broker.LookupCheck, format pb.ReportFormat) (*pb.CheckLookupResponse, error) {
	report, err := s.broker.CheckLookup(ctx, check)
	if err != nil {
		return nil, err
	}
	response := reportToProto(report)
	switch format {
	case pb.ReportFormat_REPORT_FORMAT_TEXT:
		response.ReportText = lookupreport.Text(response)
	case pb.ReportFormat_REPORT_FORMAT_MARKDOWN:
		response.ReportText = lookupreport.Markdown(response)
	}
	return response, nil
}

// checkFromProto returns the check that a caller may have made.
func checkFromProto(ctx context.Context, req *pb.CheckLookupRequest) (broker.LookupCheck, error) {
	check := broker.LookupCheck{Fresh: req.GetFresh(), Permitted: broker.DepthSecret}
	var err error
	if check.ClientID, err = clientID("client", req.GetClient()); err != nil {
		return check, err
	}
	var ok bool
	if check.Depth, ok = depths[req.GetDepth()]; !ok {
		return check, broker.Invalid("depth", "is not a depth that this release knows")
	}
	if _, ok := pb.ReportFormat_name[int32(req.GetReportFormat())]; !ok {
		return check, broker.Invalid("report_format", "is not a format that this release knows")
	}
	check.Query = broker.TokenQuery{
		ClientID: check.ClientID, Scopes: req.GetScopes(), Audience: req.GetAudience(), Resources: req.GetResources(), Subject: req.GetSubject(),
	}
	v := visitOf(ctx)
	if check.Depth > broker.DepthSecret {
		if _, err := v.decide(ctx, access.LookupProbe, check.ClientID); err == nil {
			check.Permitted = broker.DepthAPI
		}
	}
	check.NearMisses = func(id string) bool { return v.mayWith(access.ClientRead, id, nil) }
	if name := req.GetCaller(); name != "" {
		caller, ok := v.caller.Table().Named(name)
		if !ok {
			return check, broker.Invalid("caller", "is not the name of a caller in the access table")
		}
		check.As = func(c *broker.Client) error { return mayHaveToken(caller, c, check.Query) }
	}
	return check, nil
}

// mayHaveToken says whether the access table lets a caller have a token of c.
func mayHaveToken(caller access.Caller, c *broker.Client, asked broker.TokenQuery) error {
	d := caller.Table().Decide(access.Request{
		Caller: caller, Permission: access.TokenGet, Client: c.ID, Labels: func() map[string]string { return c.Labels },
	})
	if err := d.Err(); err != nil {
		e := *broker.AsError(err)
		e.Detail = "no row gives " + caller.Name() + " the permission token.get for this client; tokenbroker access explain says which row is nearest"
		return &e
	}
	_, err := d.Query(asked)
	return err
}

// SweepLookups implements DiagnosticsService.
func (s *diagnosticsService) SweepLookups(req *pb.SweepLookupsRequest, stream grpc.ServerStreamingServer[pb.SweepLookupsResponse]) error {
	depth, ok := depths[req.GetDepth()]
	if !ok {
		return broker.Invalid("depth", "is not a depth that this release knows")
	}
	v := visitOf(stream.Context())
	// Whoever may no longer sweep gets no further reports; who was checked is not undone.
	defer v.recheck(func(*access.Decision) error { return nil })()
	query := broker.SweepQuery{
		Filter: req.GetFilter(), Depth: depth, Budget: int(req.GetProbeBudget()), Healthy: req.GetIncludeHealthy(),
		Shown: func(id string, labels map[string]string) bool {
			return v.mayWith(access.LookupCheck, id, labels) && (depth <= broker.DepthSecret || v.mayWith(access.LookupProbe, id, labels))
		},
	}
	summary, err := s.broker.SweepLookups(stream.Context(), query,
		func(r broker.LookupReport) error {
			return stream.Send(&pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Report{Report: reportToProto(r)}})
		},
		func(p broker.SweepProgress) error {
			return stream.Send(&pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Progress{Progress: &pb.SweepProgress{
				Checked: p.Checked, Failed: p.Failed, Share: p.Share,
			}}})
		})
	if err != nil {
		return err
	}
	end := &pb.SweepSummary{
		Checked: summary.Checked, Healthy: summary.Healthy, Warned: summary.Warned, Failed: summary.Failed,
		Duration: durationpb.New(summary.Duration), Probes: int32(summary.Probes),
	}
	for _, cause := range summary.Causes {
		examples := slices.Clone(cause.Examples)
		for i := range examples {
			examples[i] = "clients/" + examples[i]
		}
		end.Causes = append(end.Causes, &pb.SweepCause{
			Reason: string(cause.Reason), Clients: cause.Clients, Examples: examples, Remedy: cause.Reason.Info().Remedy,
		})
	}
	return stream.Send(&pb.SweepLookupsResponse{Event: &pb.SweepLookupsResponse_Summary{Summary: end}})
}

func reportToProto(report broker.LookupReport) *pb.CheckLookupResponse {
	message := &pb.CheckLookupResponse{
		Client: "clients/" + report.ClientID, CheckTime: timeToProto(report.Time), StatusPage: report.StatusPage,
		Cost: &pb.CheckCost{
			Connections: int32(report.Cost.Connections), TokenRequests: int32(report.Cost.TokenRequests), WrongTries: int32(report.Cost.WrongTries),
			WrongTriesLeft: int32(report.Cost.WrongTriesLeft), ApiCalls: int32(report.Cost.APICalls),
		},
	}
	for _, stage := range report.Stages {
		message.Stages = append(message.Stages, stageToProto(stage))
	}
	if cause, failed := report.RootCause(); failed {
		info := cause.Reason.Info()
		message.RootCause = &pb.RootCause{
			Stage: cause.Stage, Reason: string(cause.Reason), Summary: info.Summary, Remedy: info.Remedy,
			Recovery:   pb.Recovery(pb.Recovery_value["RECOVERY_"+string(info.Recovery)]),
			Confidence: confidences[cause.Confidence],
		}
		for _, reason := range cause.Also {
			message.RootCause.Also = append(message.RootCause.Also, string(reason))
		}
	}
	for _, f := range report.Failures {
		message.RecentFailures = append(message.RecentFailures, failureToProto(f))
	}
	for _, c := range report.Changes {
		message.RecentChanges = append(message.RecentChanges, &pb.RecentChange{Time: timeToProto(c.Time), Summary: c.Summary})
	}
	return message
}

func failureToProto(f broker.UsageFailure) *pb.RecentFailure {
	return &pb.RecentFailure{
		Reason: string(f.Reason), Count: f.Count, FirstTime: timeToProto(f.FirstTime), LastTime: timeToProto(f.LastTime), SecretVersion: f.SecretVersion,
	}
}

func stageToProto(stage broker.LookupStage) *pb.LookupStage {
	return &pb.LookupStage{
		Name: stage.Name, Outcome: outcomes[stage.Outcome], Reason: string(stage.Reason), Evidence: stage.Evidence, Remedy: stage.Remedy,
		Duration: durationpb.New(stage.Duration), Title: stage.Title, Documentation: "docs/diagnosis.md#" + anchor(stage.Name),
	}
}

// anchor is the heading of a stage in docs/diagnosis.md.
func anchor(stage string) string {
	lower := make([]byte, 0, len(stage))
	for _, c := range []byte(stage) {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	return string(lower)
}
