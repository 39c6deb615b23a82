package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const maxRotationPage = 500

// rotationStates is RotationState :: domain → proto.
var rotationStates = map[broker.RotationState]pb.RotationState{
	broker.RotationCreating:      pb.RotationState_ROTATION_STATE_CREATING,
	broker.RotationStaged:        pb.RotationState_ROTATION_STATE_STAGED,
	broker.RotationVerifying:     pb.RotationState_ROTATION_STATE_VERIFYING,
	broker.RotationVerified:      pb.RotationState_ROTATION_STATE_VERIFIED,
	broker.RotationPromoted:      pb.RotationState_ROTATION_STATE_PROMOTED,
	broker.RotationRetiring:      pb.RotationState_ROTATION_STATE_RETIRING,
	broker.RotationCompleted:     pb.RotationState_ROTATION_STATE_COMPLETED,
	broker.RotationAborting:      pb.RotationState_ROTATION_STATE_ABORTING,
	broker.RotationAborted:       pb.RotationState_ROTATION_STATE_ABORTED,
	broker.RotationRolledBack:    pb.RotationState_ROTATION_STATE_ROLLED_BACK,
	broker.RotationFailed:        pb.RotationState_ROTATION_STATE_FAILED,
	broker.RotationNeedsOperator: pb.RotationState_ROTATION_STATE_NEEDS_OPERATOR,
}

// secretSources is SecretSource :: domain → proto.
var secretSources = map[broker.SecretSource]pb.SecretSource{
	broker.SourceRequest:   pb.SecretSource_SECRET_SOURCE_REQUEST,
	broker.SourceWrapped:   pb.SecretSource_SECRET_SOURCE_WRAPPED,
	broker.SourceReference: pb.SecretSource_SECRET_SOURCE_REFERENCE,
	broker.SourceBroker:    pb.SecretSource_SECRET_SOURCE_BROKER,
	broker.SourceProvider:  pb.SecretSource_SECRET_SOURCE_PROVIDER,
	broker.SourceAdopted:   pb.SecretSource_SECRET_SOURCE_ADOPTED,
}

// shapes is ProviderShape :: domain → proto.
var shapes = map[broker.Shape]pb.ProviderShape{
	broker.ShapeByHand:      pb.ProviderShape_PROVIDER_SHAPE_BY_HAND,
	broker.ShapeOverlapping: pb.ProviderShape_PROVIDER_SHAPE_OVERLAPPING,
	broker.ShapeActivated:   pb.ProviderShape_PROVIDER_SHAPE_ACTIVATED,
	broker.ShapeReplaced:    pb.ProviderShape_PROVIDER_SHAPE_REPLACED,
	broker.ShapeKeyPair:     pb.ProviderShape_PROVIDER_SHAPE_KEY_PAIR,
}

// rotation converts r for the caller of ctx, who may or may not be told details.
func (s *rotationService) rotation(ctx context.Context, r *broker.Rotation) *pb.Rotation {
	message := &pb.Rotation{
		Name: "clients/" + r.ClientID + "/rotations/" + r.ID, State: rotationStates[r.State], Source: secretSources[r.Source], Shape: shapes[r.Shape],
		SecretVersion: r.SecretVersion, ReplacedVersion: r.ReplacedVersion, Automatic: r.Automatic, Compromised: r.Compromised,
		DropTokens: r.DropTokens, RequestId: r.RequestID,
		CreateTime: timeToProto(r.CreateTime), UpdateTime: timeToProto(r.UpdateTime), PromoteTime: timeToProto(r.PromoteTime),
		EndTime: timeToProto(r.EndTime), NextTime: timeToProto(r.NextTime), RetireTime: timeToProto(r.RetireTime),
		Attempts: int32(r.Attempts), Reason: string(r.Reason), VerifiedTokens: int32(r.Verified), RequiredTokens: int32(r.Required),
		Stuck: r.Stuck(time.Now()),
	}
	if r.Reason != "" {
		message.Remedy = r.Reason.Info().Remedy
	}
	if visitOf(ctx).told() {
		message.Detail = r.Detail
	}
	if r.Compromised {
		message.Callers = s.holders(ctx, r)
	}
	for _, e := range r.Events {
		message.Events = append(message.Events, &pb.RotationEvent{
			Time: timeToProto(e.Time), State: rotationStates[e.State], Step: e.Step, Reason: string(e.Reason),
		})
	}
	return message
}

// rotationOf is the rotation that a step has just been part of; nil if it cannot be
// read, which does not undo the step.
func (s *rotationService) rotationOf(ctx context.Context, id string) *pb.Rotation {
	r, err := s.broker.GetRotation(ctx, id)
	if err != nil {
		return nil
	}
	return s.rotation(ctx, r)
}

// plan says what a call would do, and to whom it matters.
func (s *rotationService) plan(ctx context.Context, id string, plan broker.RotationPlan) *pb.RotationPlan {
	message := &pb.RotationPlan{Steps: plan.Steps, Warnings: warningsToProto(plan.Warnings)}
	if usage, err := s.broker.Usage(ctx, id); err == nil { // who used it is told as well as it is known
		message.Callers = callersToProto(usage.Callers)
	}
	return message
}

func callersToProto(uses []broker.CallerUse) []*pb.CallerUse {
	list := make([]*pb.CallerUse, 0, len(uses))
	for _, use := range uses {
		list = append(list, &pb.CallerUse{Caller: use.Caller, SecretVersion: use.SecretVersion, LastUseTime: timeToProto(use.LastUseTime)})
	}
	return list
}

// tokensLiveAtMost is how long ago a caller was last given a token that may still be
// good: how long tokens live is not known of all of them.
const tokensLiveAtMost = 24 * time.Hour

// holders are the callers that may hold tokens of the secret that r replaces.
func (s *rotationService) holders(ctx context.Context, r *broker.Rotation) []*pb.CallerUse {
	usage, err := s.broker.Usage(ctx, r.ClientID)
	if err != nil {
		return nil
	}
	return callersToProto(slices.DeleteFunc(usage.Callers, func(use broker.CallerUse) bool {
		return use.SecretVersion > r.ReplacedVersion || use.LastUseTime.Before(r.CreateTime.Add(-tokensLiveAtMost))
	}))
}

// stagedToProto converts the version of a stage; nil if there is none.
func stagedToProto(c *broker.Client, stage broker.Stage) *pb.SecretVersion {
	version, ok := c.Staged(stage)
	if !ok {
		return nil
	}
	return versionToProto(version)
}

// rotationID takes the rotation's id out of its name; "" for no name.
func rotationID(client, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	id, ok := strings.CutPrefix(name, "clients/"+client+"/rotations/")
	if !ok || id == "" {
		return "", broker.Invalid("rotation", `must be "clients/%s/rotations/{rotation}"`, client)
	}
	return id, nil
}

// rotationFilter returns what a list is to contain.
func rotationFilter(req *pb.ListRotationsRequest) (func(*broker.Rotation) bool, error) {
	wanted := map[pb.RotationState]bool{}
	for _, state := range req.GetStates() {
		if pb.RotationState_name[int32(state)] == "" || state == pb.RotationState_ROTATION_STATE_UNSPECIFIED {
			return nil, broker.Invalid("states", "has %d, which is no state", int32(state))
		}
		wanted[state] = true
	}
	return func(r *broker.Rotation) bool {
		return (len(wanted) == 0 || wanted[rotationStates[r.State]]) && (!req.GetStuckOnly() || r.Stuck(time.Now()))
	}, nil
}

// rotationSettingsFromProto takes the settings out of a message.
func rotationSettingsFromProto(m *pb.RotationSettings) (broker.RotationSettings, error) {
	const at = "client.rotation."
	s := broker.RotationSettings{
		Rotator: m.GetRotator(), Parameters: m.GetParameters(), Endpoint: m.GetEndpoint(), Account: m.GetAccount(),
		OverlappingSecrets: m.GetOverlappingSecrets(), TokensEndWithSecret: m.GetTokensEndWithSecret(), VerifyTokens: int(m.GetVerifyTokens()),
	}
	var err error
	if m.GetManagementClient() != "" {
		if s.ManagementClient, err = clientID(at+"management_client", m.GetManagementClient()); err != nil {
			return s, err
		}
	}
	for _, d := range []struct {
		field string
		from  *durationpb.Duration
		into  *time.Duration
	}{
		{"verify_spacing", m.GetVerifySpacing(), &s.VerifySpacing},
		{"propagation", m.GetPropagation(), &s.Propagation},
		{"overlap", m.GetOverlap(), &s.Overlap},
		{"every", m.GetEvery(), &s.Every},
		{"before_expiry", m.GetBeforeExpiry(), &s.BeforeExpiry},
	} {
		length, err := durationOf(at+d.field, d.from)
		if err != nil {
			return s, err
		}
		*d.into = orZero(length)
	}
	for _, w := range m.GetWindows() {
		s.Windows = append(s.Windows, broker.RotationWindow{Days: w.GetDays(), Begin: w.GetBegin(), End: w.GetEnd()})
	}
	return s, nil
}

func rotationSettingsToProto(s broker.RotationSettings) *pb.RotationSettings {
	if s.IsZero() {
		return nil
	}
	m := &pb.RotationSettings{
		Rotator: s.Rotator, Parameters: s.Parameters, Endpoint: s.Endpoint, Account: s.Account,
		OverlappingSecrets: s.OverlappingSecrets, TokensEndWithSecret: s.TokensEndWithSecret, VerifyTokens: int32(s.VerifyTokens),
		VerifySpacing: durationToProto(s.VerifySpacing), Propagation: durationToProto(s.Propagation), Overlap: durationToProto(s.Overlap),
		Every: durationToProto(s.Every), BeforeExpiry: durationToProto(s.BeforeExpiry),
	}
	if s.ManagementClient != "" {
		m.ManagementClient = "clients/" + s.ManagementClient
	}
	for _, w := range s.Windows {
		m.Windows = append(m.Windows, &pb.RotationWindow{Days: w.Days, Begin: w.Begin, End: w.End})
	}
	return m
}
