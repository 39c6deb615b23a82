package server_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

func joined(parts ...map[string][]provocation) map[string][]provocation {
	all := map[string][]provocation{}
	for _, part := range parts {
		maps.Copy(all, part)
	}
	return all
}

// rotationContract is the part of RotationService.
var rotationContract = map[string][]provocation{
	"StageSecret": append(sourceProvocations(stageWith), []provocation{
		{"no secret", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", stage("acme", "")},
		{"space around it", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", stage("acme", " new")},
		{"too large", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", stage("acme", strings.Repeat("x", broker.MaxSecretBytes+1))},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", stage("nobody", "new")},
		{"unchanged", codes.FailedPrecondition, broker.ReasonSecretUnchanged, "", stage("acme", "secret-1 of acme")},
		{"unfit", codes.FailedPrecondition, broker.ReasonSecretUnusable, "", stage("acme", "-----BEGIN PRIVATE KEY-----")},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, stage("acme", "new"))},
		{"eight versions", codes.FailedPrecondition, broker.ReasonTooManySecretVersions, "", after(eightVersions, stage("acme", "one more"))},
		{"race", codes.Aborted, broker.ReasonConcurrentChange, "", after(race, stage("acme", "new"))},
	}...),
	"VerifySecret": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", verify("nobody", 0)},
		{"no such version", codes.NotFound, broker.ReasonSecretVersionNotFound, "", verify("acme", 9)},
		{"nothing pending", codes.FailedPrecondition, broker.ReasonSecretWrongStage, "", verify("acme", 0)},
		{"another is pending", codes.FailedPrecondition, broker.ReasonSecretWrongStage, "", after(stageAnother, verify("acme", 1))},
		{"rejected", codes.FailedPrecondition, broker.ReasonClientRejected, "", after(stageUnknown, verify("acme", 2))},
		{"upstream limits", codes.ResourceExhausted, broker.ReasonUpstreamRateLimited, "", after(stageAnother, after(upstreamFails(broker.ReasonUpstreamRateLimited, time.Minute), verify("acme", 2)))},
		{"store down", codes.Unavailable, broker.ReasonStoreUnreachable, "", after(storeFails(broker.ReasonStoreUnreachable), verify("acme", 0))},
		{"upstream down", codes.Unavailable, broker.ReasonUpstreamDNS, "", after(stageAnother, after(upstreamFails(broker.ReasonUpstreamDNS, 0), verify("acme", 2)))},
	},
	"PromoteSecret": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", promote("nobody", true)},
		{"nothing pending", codes.FailedPrecondition, broker.ReasonSecretWrongStage, "", promote("acme", true)},
		{"not verified", codes.FailedPrecondition, broker.ReasonSecretNotVerified, "", after(stageAnother, promote("acme", false))},
		{"race", codes.Aborted, broker.ReasonConcurrentChange, "", after(stageAnother, after(race, promote("acme", true)))},
	},
	"RetireSecret": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", retire("nobody", 1)},
		{"no such version", codes.NotFound, broker.ReasonSecretVersionNotFound, "", retire("acme", 9)},
		{"no version", codes.NotFound, broker.ReasonSecretVersionNotFound, "", retire("acme", 0)},
		{"current", codes.FailedPrecondition, broker.ReasonSecretWrongStage, "", retire("acme", 1)},
	},
	"ListSecretVersions": {{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", call(func(t *testing.T, w *world) error {
		_, err := w.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: "clients/nobody"})
		return err
	})}},
	"RollbackSecret": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", rollback("nobody", 0)},
		{"no such version", codes.NotFound, broker.ReasonSecretVersionNotFound, "", rollback("acme", 9)},
		{"nothing previous", codes.FailedPrecondition, broker.ReasonSecretWrongStage, "", rollback("acme", 0)},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, rollback("acme", 0))},
	},
	"RotateSecret": {
		{"bad request id", codes.InvalidArgument, broker.ReasonInvalidRequest, "request_id", rotate(func(r *pb.RotateSecretRequest) { r.RequestId = "a b" })},
		{"empty secret", codes.InvalidArgument, broker.ReasonInvalidRequest, "secret", rotate(func(r *pb.RotateSecretRequest) { r.Secret = &pb.SecretInput{} })},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", rotate(func(r *pb.RotateSecretRequest) { r.Client = "clients/nobody" })},
		{"disabled", codes.FailedPrecondition, broker.ReasonClientDisabled, "", after(disable, rotate(nil))},
		{"deleted", codes.FailedPrecondition, broker.ReasonClientDeleted, "", after(remove, rotate(nil))},
		{"no rotator", codes.FailedPrecondition, broker.ReasonRotatorNotSet, "", rotate(func(r *pb.RotateSecretRequest) { r.Secret = nil })},
		{"under way", codes.FailedPrecondition, broker.ReasonRotationUnderWay, "", after(newIsKnown, after(did(rotate(nil)), rotate(func(r *pb.RotateSecretRequest) { r.Secret = clientSecret("another") })))},
	},
	"AbortRotation": {
		{"bad rotation", codes.InvalidArgument, broker.ReasonInvalidRequest, "rotation", abort("acme", "clients/other/rotations/x")},
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", abort("nobody", "")},
		{"never rotated", codes.NotFound, broker.ReasonRotationNotFound, "", abort("acme", "")},
		{"race", codes.Aborted, broker.ReasonConcurrentChange, "", after(stageAnother, after(raceOfJournals, abort("acme", "")))},
		{"another rotation", codes.NotFound, broker.ReasonRotationNotFound, "", after(stageAnother, abort("acme", "clients/acme/rotations/x"))},
		{"promoted", codes.FailedPrecondition, broker.ReasonRotationWrongState, "", after(stageAnother, after(did(promote("acme", true)), abort("acme", "")))},
	},
	"AdoptSecret": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", adopt("nobody")},
		{"nobody changed it", codes.FailedPrecondition, broker.ReasonSecretUnchanged, "", adopt("acme")},
		{"no secret", codes.FailedPrecondition, broker.ReasonSecretNotSet, "", adopt("bare")},
	},
	"GetRotation": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", getRotation("nobody")},
		{"never rotated", codes.NotFound, broker.ReasonRotationNotFound, "", getRotation("acme")},
	},
	"ListRotations": {
		{"bad page token", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_token", listRotations(&pb.ListRotationsRequest{PageToken: "2"})},
		{"no state", codes.InvalidArgument, broker.ReasonInvalidRequest, "states", listRotations(&pb.ListRotationsRequest{States: []pb.RotationState{99}})},
		{"negative page", codes.InvalidArgument, broker.ReasonInvalidRequest, "page_size", listRotations(&pb.ListRotationsRequest{PageSize: -1})},
	},
	"WatchRotation": {
		{"unknown", codes.NotFound, broker.ReasonClientNotFound, "", watchRotation("nobody", nil)},
		{"never rotated", codes.NotFound, broker.ReasonRotationNotFound, "", watchRotation("acme", nil)},
		{"shutting down", codes.Unavailable, broker.ReasonShuttingDown, "", after(stageAnother, watchRotation("acme", func(t *testing.T, w *world) { go func() { _ = w.stop() }() }))},
	},
}

func rollback(id string, number int64) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.RollbackSecret(t.Context(), &pb.RollbackSecretRequest{Client: "clients/" + id, SecretVersion: number})
		return err
	})
}

func rotate(edit func(*pb.RotateSecretRequest)) act {
	return call(func(t *testing.T, w *world) error {
		w.upstream.Register("acme-at-provider", "new") // else it is over soon
		request := &pb.RotateSecretRequest{Client: "clients/acme", Secret: clientSecret("new")}
		if edit != nil {
			edit(request)
		}
		_, err := w.rotations.RotateSecret(t.Context(), request)
		return err
	})
}

// newIsKnown has the authorization server take what rotate brings: a rotation of a
// secret that it refuses is over at once.
func newIsKnown(_ *testing.T, w *world) { w.upstream.Register("acme-at-provider", "new") }

func abort(id, rotation string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.AbortRotation(t.Context(), &pb.AbortRotationRequest{Client: "clients/" + id, Rotation: rotation})
		return err
	})
}

func adopt(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.AdoptSecret(t.Context(), &pb.AdoptSecretRequest{Client: "clients/" + id})
		return err
	})
}

func getRotation(id string) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.GetRotation(t.Context(), &pb.GetRotationRequest{Client: "clients/" + id})
		return err
	})
}

func listRotations(request *pb.ListRotationsRequest) act {
	return call(func(t *testing.T, w *world) error {
		_, err := w.rotations.ListRotations(t.Context(), request)
		return err
	})
}

// watchRotation watches to the end; meanwhile happens after the first answer.
func watchRotation(id string, meanwhile func(t *testing.T, w *world)) act {
	return call(func(t *testing.T, w *world) error {
		stream, err := w.rotations.WatchRotation(t.Context(), &pb.WatchRotationRequest{Client: "clients/" + id})
		for err == nil {
			if _, err = stream.Recv(); err == nil && meanwhile != nil {
				meanwhile(t, w)
			}
		}
		return err
	})
}

// did is an act that must succeed.
func did(do act) func(*testing.T, *world) {
	return func(t *testing.T, w *world) { must(t, do(t, w)) }
}

// raceOfJournals has somebody write acme's journal just before anybody else does.
func raceOfJournals(t *testing.T, w *world) {
	for _, key := range w.memory.Keys() {
		if strings.HasPrefix(key, "rotations/") {
			w.store.Always(brokertest.Before(func(brokertest.Call) { w.rewrite(t, key) }), brokertest.On(brokertest.OpWrite, key))
		}
	}
}

func stageWith(t *testing.T, w *world, input *pb.SecretInput) error {
	t.Helper()
	_, err := w.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: "clients/acme", Secret: input})
	return err
}
