package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Words for enums: what stands behind the prefix that all their values have.
func stateWord(s pb.RotationState) string { return word(s.String(), "ROTATION_STATE_") }

func stageWord(s pb.SecretStage) string {
	if s == pb.SecretStage_SECRET_STAGE_UNSPECIFIED {
		return "" // no label
	}
	return word(s.String(), "SECRET_STAGE_")
}

// stageOf says what a version is for, and whether its value is going.
func stageOf(v *pb.SecretVersion) string {
	stage := stageWord(v.GetStage())
	if v.GetDestroying() {
		return stage + yes(stage != "", ", ") + "destroying"
	}
	return stage
}

func word(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", " ")
}

// isOver reports whether a rotation is at its end.
func isOver(s pb.RotationState) bool {
	switch s {
	case pb.RotationState_ROTATION_STATE_COMPLETED, pb.RotationState_ROTATION_STATE_ABORTED,
		pb.RotationState_ROTATION_STATE_ROLLED_BACK, pb.RotationState_ROTATION_STATE_FAILED:
		return true
	}
	return false
}

// number spells a version's number; "" for none.
func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// versionTable lists secret versions.
func versionTable(w io.Writer, now time.Time, versions []*pb.SecretVersion) {
	var rows [][]string
	for _, v := range versions {
		rows = append(rows, []string{
			number(v.GetNumber()), stageOf(v), when(now, v.GetCreateTime()), when(now, v.GetVerifyTime()),
			lastUse(now, v.GetLastUseTime()), when(now, v.GetExpireTime()), v.GetFingerprint(),
		})
	}
	table(w, []string{"VERSION", "STAGE", "STAGED", "VERIFIED", "LAST USED", "EXPIRES", "FINGERPRINT"}, rows)
}

// usedWithin is how precisely the broker knows when a secret was last used: the time that
// it tells is the beginning of that quarter of an hour.
const usedWithin = 15 * time.Minute

// lastUse spells when a secret was last used; "" if that is not known.
func lastUse(now time.Time, t *timestamppb.Timestamp) string {
	if at := t.AsTime(); t != nil && now.Sub(at) < usedWithin {
		return "in the last 15 min"
	}
	return when(now, t)
}

// rotationListing describes a rotation, but for its events.
func rotationListing(now time.Time, r *pb.Rotation) *listing {
	l := &listing{}
	l.addIf("rotation", r.GetName())
	l.addIf("state", stateWord(r.GetState())+yes(r.GetStuck(), ", stuck: it does not go on although it should"))
	l.addIf("version", number(r.GetSecretVersion())+yes(r.GetReplacedVersion() != 0, ", in place of "+number(r.GetReplacedVersion())))
	l.addIf("source", yes(r.GetSource() != 0, word(r.GetSource().String(), "SECRET_SOURCE_")))
	l.addIf("provider", yes(r.GetShape() != 0, word(r.GetShape().String(), "PROVIDER_SHAPE_")))
	l.addIf("verified", yes(r.GetRequiredTokens() > 0, fmt.Sprintf("%d of %d tokens", r.GetVerifiedTokens(), r.GetRequiredTokens())))
	l.addIf("with", yes(r.GetAutomatic(), "goes on by itself"), yes(r.GetCompromised(), "compromised secret"), yes(r.GetDropTokens(), "tokens of older secrets are dropped"))
	l.addIf("began", when(now, r.GetCreateTime()))
	l.addIf("promoted", when(now, r.GetPromoteTime()))
	l.addIf("ended", when(now, r.GetEndTime()))
	l.addIf("acts next", when(now, r.GetNextTime()))
	l.addIf("retires", yes(r.GetReplacedVersion() != 0 && !isOver(r.GetState()), when(now, r.GetRetireTime())))
	l.addIf("attempts", yes(r.GetAttempts() > 0, fmt.Sprintf("%d failed", r.GetAttempts())))
	l.addIf("reason", r.GetReason())
	l.addIf("detail", r.GetDetail())
	l.addIf("mend", r.GetRemedy())
	l.addIf("request id", r.GetRequestId())
	return l
}

// describeRotation prints all of a rotation.
func describeRotation(w io.Writer, now time.Time, r *pb.Rotation) {
	rotationListing(now, r).write(w, "")
	if len(r.GetEvents()) > 0 {
		fmt.Fprintln(w)
		for _, e := range r.GetEvents() {
			fmt.Fprintln(w, eventLine(e))
		}
	}
	describeCallers(w, now, "callers with tokens that may still be good:", r.GetCallers())
}

// eventLine is one step of a rotation.
func eventLine(e *pb.RotationEvent) string {
	line := fmt.Sprintf("%s  %-14s  %s", e.GetTime().AsTime().Format(secondsUTC), stateWord(e.GetState()), e.GetStep())
	if e.GetReason() != "" {
		line += ": " + e.GetReason()
	}
	return clean(line)
}

func describeCallers(w io.Writer, now time.Time, heading string, callers []*pb.CallerUse) {
	if len(callers) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+heading)
	var rows [][]string
	for _, c := range callers {
		rows = append(rows, []string{c.GetCaller(), number(c.GetSecretVersion()), lastUse(now, c.GetLastUseTime())})
	}
	table(w, []string{"CALLER", "VERSION", "LAST USED"}, rows)
}

// describePlan prints what a call would do.
func describePlan(w io.Writer, now time.Time, plan *pb.RotationPlan) {
	fmt.Fprintln(w, "nothing was changed; this would happen:")
	for i, step := range plan.GetSteps() {
		fmt.Fprintf(w, "  %d. %s\n", i+1, clean(step))
	}
	describeCallers(w, now, "callers that used the client lately:", plan.GetCallers())
	describeWarnings(w, plan.GetWarnings())
}

func describeWarnings(w io.Writer, warnings []*pb.Warning) {
	for _, each := range warnings {
		fmt.Fprintln(w, clean("warning: "+each.GetReason()+": "+each.GetMessage()))
	}
}
