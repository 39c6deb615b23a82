package main

import (
	"fmt"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Words for outcomes, of stages and of doctor's looks, and their colours.
const (
	markGood = "ok"
	markLook = "look"
	markBad  = "FAIL"
	markNone = "-"
)

var markColours = map[string]string{markGood: colourGood, markLook: colourLook, markBad: colourBad, markNone: colourFaint}

// markWidth is that of the column of marks.
const markWidth = 4

// mark is the column of an outcome.
func (x *screen) mark(word string) string {
	return x.paint(markColours[word], word) + strings.Repeat(" ", markWidth-len(word)) + "  "
}

var stageMarks = map[pb.StageOutcome]string{
	pb.StageOutcome_STAGE_OUTCOME_PASSED:  markGood,
	pb.StageOutcome_STAGE_OUTCOME_WARNED:  markLook,
	pb.StageOutcome_STAGE_OUTCOME_FAILED:  markBad,
	pb.StageOutcome_STAGE_OUTCOME_SKIPPED: markNone,
}

// checkView draws a check while it goes on, and its report at the end. For programs it
// draws nothing: they get the document.
type checkView struct {
	screen
	silent bool
	shown  map[string]bool // names of stages that were drawn
	doing  string          // what is being looked at, as far as that was told
	began  time.Time
	// skipped are stages that wait to be told together.
	skipped []*pb.LookupStage
}

func newCheckView(s *session) *checkView {
	return &checkView{screen: newScreen(s), silent: s.Output != outputText, shown: map[string]bool{}, began: time.Now()}
}

// turn draws the spinner.
func (v *checkView) turn(time.Duration) {
	if v.silent {
		return
	}
	since := time.Since(v.began)
	v.transient(spinner(since) + "  " + orElse(v.doing, "checking") + yes(since >= time.Second, fmt.Sprintf(" (%d s)", int(since.Seconds()))))
}

// stage draws a stage that is done, or notes one that has begun.
func (v *checkView) stage(s *pb.LookupStage) {
	if v.silent || v.shown[s.GetName()] {
		return
	}
	if s.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_UNSPECIFIED {
		v.doing = s.GetName()
		return
	}
	v.doing, v.shown[s.GetName()] = "", true
	if s.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_SKIPPED {
		if len(v.skipped) > 0 && whySkipped(v.skipped[0]) != whySkipped(s) {
			v.flush()
		}
		v.skipped = append(v.skipped, s)
		return
	}
	v.flush()
	v.draw(s)
}

// nameWidth is that of the column of stages' names, where there is room for one.
const nameWidth = 24

func (v *checkView) draw(s *pb.LookupStage) {
	mark := stageMarks[s.GetOutcome()]
	text := s.GetTitle()
	if took := s.GetDuration().AsDuration(); took >= 100*time.Millisecond {
		text += fmt.Sprintf(" (%s)", took.Round(10*time.Millisecond))
	}
	if v.narrow() {
		v.hanging(v.mark(mark)+clean(s.GetName())+": ", markWidth+2, text)
	} else {
		v.wrapped(v.mark(mark)+fmt.Sprintf("%-*s ", nameWidth, clean(s.GetName())), text)
	}
	if mark == markGood && s.GetReason() == "" {
		return
	}
	indent := strings.Repeat(" ", markWidth+2)
	v.told(indent, s.GetReason())
	for _, e := range s.GetEvidence() {
		v.told(indent, e)
	}
	v.told(indent+"> ", s.GetRemedy())
}

// told prints a line below a stage; nothing if there is nothing to say.
func (v *checkView) told(first, text string) {
	if text != "" {
		v.wrapped(first, text)
	}
}

// narrow reports whether there is no room for columns.
func (x *screen) narrow() bool { return x.columns() < 70 }

// whySkipped says why a stage was not looked at.
func whySkipped(s *pb.LookupStage) string {
	parts := s.GetEvidence()
	if s.GetReason() != "" {
		parts = append([]string{s.GetReason()}, parts...)
	}
	return strings.Join(parts, ": ")
}

// flush draws the stages that were skipped for one reason.
func (v *checkView) flush() {
	if len(v.skipped) == 0 {
		return
	}
	names := make([]string, 0, len(v.skipped))
	for _, s := range v.skipped {
		names = append(names, s.GetName())
	}
	v.wrapped(v.mark(markNone), "not looked at"+yes(whySkipped(v.skipped[0]) != "", " ("+whySkipped(v.skipped[0])+")")+": "+strings.Join(names, ", "))
	v.skipped = nil
}

// confidences is how sure a cause is :: proto → here.
var confidences = map[pb.Confidence]string{
	pb.Confidence_CONFIDENCE_PROVEN:  "proven: it was seen",
	pb.Confidence_CONFIDENCE_LIKELY:  "likely: it fits best to what was seen",
	pb.Confidence_CONFIDENCE_UNKNOWN: "unknown: the link is broken, why is not known",
}

// report draws what the stages come to.
func (v *checkView) report(now time.Time, r *pb.CheckLookupResponse) {
	for _, s := range r.GetStages() {
		v.stage(s)
	}
	v.flush()
	v.line("")
	v.headline(r)
	v.facts(r)
	if failures := r.GetRecentFailures(); len(failures) > 0 {
		v.line("\n" + v.paint(colourBold, "went wrong lately"))
		for _, f := range failures {
			v.wrapped("  ", fmt.Sprintf("%s, %s, last %s%s", f.GetReason(), times(f.GetCount()), when(now, f.GetLastTime()),
				yes(f.GetSecretVersion() != 0, fmt.Sprintf(", secret version %d", f.GetSecretVersion()))))
		}
	}
	if changes := r.GetRecentChanges(); len(changes) > 0 {
		v.line("\n" + v.paint(colourBold, "changed lately"))
		for _, c := range changes {
			v.wrapped("  ", when(now, c.GetTime())+": "+c.GetSummary())
		}
	}
}

func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// headline says in one sentence whether the client gets tokens, and if not, why.
func (v *checkView) headline(r *pb.CheckLookupResponse) {
	looks := 0
	for _, s := range r.GetStages() {
		if s.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_WARNED {
			looks++
		}
	}
	switch cause := r.GetRootCause(); {
	case cause != nil:
		v.hanging(v.paint(colourBad, clean(r.GetClient()))+": ", 2, cause.GetSummary()+" ("+cause.GetReason()+")")
	case looks > 0:
		v.wrapped(v.paint(colourLook, clean(r.GetClient()))+": ", "nothing failed, but "+counted(looks, "stage needs a look", "stages need a look")+".")
	default:
		v.wrapped(v.paint(colourGood, clean(r.GetClient()))+": ", "nothing failed.")
	}
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// facts are what mends it, how sure that is, and what looking cost.
func (v *checkView) facts(r *pb.CheckLookupResponse) {
	fact := func(name, text string) {
		if text != "" {
			v.wrapped(fmt.Sprintf("  %-10s  ", name), text)
		}
	}
	if cause := r.GetRootCause(); cause != nil {
		fact("mend", cause.GetRemedy())
		for _, here := range translated(cause.GetRemedy()) {
			fact("here", here)
		}
		fact("how sure", confidences[cause.GetConfidence()])
		fact("or else", strings.Join(cause.GetAlso(), ", "))
	}
	fact("it cost", costOf(r.GetCost()))
	fact("provider", r.GetStatusPage())
	for _, s := range r.GetStages() {
		if s.GetName() == r.GetRootCause().GetStage() {
			fact("more", s.GetDocumentation())
		}
	}
}

func costOf(c *pb.CheckCost) string {
	var parts []string
	for _, p := range []struct {
		n         int32
		one, many string
	}{
		{c.GetConnections(), "connection", "connections"},
		{c.GetTokenRequests(), "token request", "token requests"},
		{c.GetWrongTries(), "wrong try", "wrong tries"},
		{c.GetApiCalls(), "call of the API", "calls of the API"},
	} {
		if p.n > 0 {
			parts = append(parts, counted(int(p.n), p.one, p.many))
		}
	}
	if len(parts) == 0 {
		return "nothing outside the broker and its store"
	}
	return strings.Join(parts, ", ") + yes(c.GetWrongTries() > 0, fmt.Sprintf(" (%d left today)", c.GetWrongTriesLeft()))
}
