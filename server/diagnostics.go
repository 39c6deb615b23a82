package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

type diagnosticsService struct {
	pb.UnimplementedDiagnosticsServiceServer
	broker *broker.Broker
}

var _ pb.DiagnosticsServiceServer = (*diagnosticsService)(nil)

// depths is LookupDepth :: proto → domain.
var depths = map[pb.LookupDepth]broker.LookupDepth{
	pb.LookupDepth_LOOKUP_DEPTH_UNSPECIFIED: broker.DepthSecret,
	pb.LookupDepth_LOOKUP_DEPTH_INDEX:       broker.DepthIndex,
	pb.LookupDepth_LOOKUP_DEPTH_SECRET:      broker.DepthSecret,
}

// outcomes is StageOutcome :: domain → proto.
var outcomes = map[broker.Outcome]pb.StageOutcome{
	broker.OutcomePassed:  pb.StageOutcome_STAGE_OUTCOME_PASSED,
	broker.OutcomeWarned:  pb.StageOutcome_STAGE_OUTCOME_WARNED,
	broker.OutcomeFailed:  pb.StageOutcome_STAGE_OUTCOME_FAILED,
	broker.OutcomeSkipped: pb.StageOutcome_STAGE_OUTCOME_SKIPPED,
}

// CheckLookup implements DiagnosticsService.
func (s *diagnosticsService) CheckLookup(ctx context.Context, req *pb.CheckLookupRequest) (*pb.CheckLookupResponse, error) {
	id, err := clientID("client", req.GetClient())
	if err != nil {
		return nil, err
	}
	depth, ok := depths[req.GetDepth()]
	if !ok {
		return nil, broker.Invalid("depth", "is not a depth that this release knows")
	}
	report, err := s.broker.CheckLookup(ctx, id, depth)
	if err != nil {
		return nil, err
	}
	response := &pb.CheckLookupResponse{}
	for _, stage := range report.Stages {
		response.Stages = append(response.Stages, &pb.LookupStage{
			Name: stage.Name, Outcome: outcomes[stage.Outcome], Reason: string(stage.Reason),
			Evidence: stage.Evidence, Remedy: stage.Remedy, Duration: durationpb.New(stage.Duration),
		})
	}
	if cause, failed := report.RootCause(); failed {
		info := cause.Reason.Info()
		response.RootCause = &pb.RootCause{
			Stage: cause.Name, Reason: string(cause.Reason), Summary: info.Summary, Remedy: info.Remedy,
			Recovery: pb.Recovery(pb.Recovery_value["RECOVERY_"+string(info.Recovery)]),
		}
	}
	return response, nil
}
