package plugin

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	rotatorv1 "github.com/tokenbroker/tokenbroker/proto/tokenbroker/rotator/v1"
)

const mostHandle = 256

func clientOf(call broker.RotatorCall) *rotatorv1.RotatedClient {
	return &rotatorv1.RotatedClient{
		Name: "clients/" + call.ID, Uid: call.UID, ClientId: call.ClientID, TokenEndpoint: call.TokenEndpoint,
		AuthenticationMethod: string(call.Authentication.Method), Parameters: maps.Clone(call.Settings.Parameters), Endpoint: call.Settings.Endpoint,
	}
}

func secretOf(call broker.RotatorCall) *rotatorv1.Secret {
	return &rotatorv1.Secret{Value: call.New.RevealString(), Handle: call.Handle}
}

// chosen returns the secret that the broker made, if this rotator takes such.
func (r *Rotator) chosen(call broker.RotatorCall) string {
	if !r.config.TakesChosen {
		return ""
	}
	return call.New.RevealString()
}

// current returns what the rotator is told of the present secret: its name, and its
// value only if it needs that.
func (r *Rotator) current(call broker.RotatorCall) *rotatorv1.Secret {
	current := &rotatorv1.Secret{Handle: call.CurrentHandle}
	if r.config.SendCurrent {
		current.Value = call.Current.RevealString()
	}
	return current
}

// created checks and translates a new secret.
func (r *Rotator) created(call broker.RotatorCall, s *rotatorv1.Secret, expiry *timestamppb.Timestamp) (broker.CreatedSecret, error) {
	made := broker.CreatedSecret{Handle: s.GetHandle()}
	switch value := s.GetValue(); {
	case r.config.TakesChosen && value != "" && value != call.New.RevealString():
		return broker.CreatedSecret{}, r.malformed(call, "it answered another secret than the one that was chosen")
	case r.config.TakesChosen:
	case value == "":
		return broker.CreatedSecret{}, r.malformed(call, "it answered no secret")
	case len(value) > broker.MaxSecretBytes:
		return broker.CreatedSecret{}, r.malformed(call, "it answered a secret of %d bytes; at most %d", len(value), broker.MaxSecretBytes)
	default:
		made.Value = secret.NewString(value)
	}
	if len(made.Handle) > mostHandle || strings.ContainsFunc(made.Handle, func(c rune) bool { return c < ' ' || c > '~' }) {
		return broker.CreatedSecret{}, r.malformed(call, "it answered a handle that is not of at most %d printable ASCII characters", mostHandle)
	}
	if expiry != nil {
		if expiry.CheckValid() != nil || !expiry.AsTime().After(time.Now()) {
			return broker.CreatedSecret{}, r.malformed(call, "it answered an expire_time that is no time in the future")
		}
		made.ExpireTime = expiry.AsTime()
	}
	return made, nil
}

var shapeOf = map[rotatorv1.Shape]broker.Shape{
	rotatorv1.Shape_SHAPE_OVERLAPPING: broker.ShapeOverlapping,
	rotatorv1.Shape_SHAPE_ACTIVATED:   broker.ShapeActivated,
	rotatorv1.Shape_SHAPE_REPLACED:    broker.ShapeReplaced,
}

// checkDescription asks the rotator what it is and compares with the configuration.
// Whatever is wrong, nothing was asked of a provider yet.
func (r *Rotator) checkDescription(ctx context.Context, call broker.RotatorCall) error {
	told, err := invoke(ctx, r, "DescribeRotator", call, r.remote.DescribeRotator, &rotatorv1.DescribeRotatorRequest{})
	if err != nil {
		e := broker.AsError(err)
		e.Err = &broker.UnsentError{Err: e.Err}
		return e
	}
	sorted := func(names []string) string {
		names = slices.Clone(names)
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	var differs []string
	for _, field := range []struct {
		name string
		same bool
	}{
		{"shape", shapeOf[told.GetShape()] == r.config.Shape},
		{"takes_chosen", told.GetTakesChosen() == r.config.TakesChosen},
		{"works_before_activation", told.GetWorksBeforeActivation() == r.config.WorksBeforeActivation},
		{"propagation", told.GetPropagation().AsDuration() == r.config.Propagation},
		{"parameters", sorted(told.GetParameters()) == sorted(r.config.Parameters)},
		{"optional_parameters", sorted(told.GetOptionalParameters()) == sorted(r.config.OptionalParameters)},
	} {
		if !field.same {
			differs = append(differs, field.name)
		}
	}
	if len(differs) == 0 {
		return nil
	}
	e := r.failed(call, broker.ReasonRotatorRefused, "it describes itself with other "+strings.Join(differs, ", ")+" than the configuration has")
	e.Op, e.Err = "ask the rotator", &broker.UnsentError{Err: &failure{"DescribeRotator", 0}}
	return e
}
