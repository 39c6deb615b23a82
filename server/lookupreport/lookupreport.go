// Package lookupreport writes the report of a check for people: the one cause first, what
// mends it, then what was seen, stage by stage. What it writes is as safe to hand to
// others as the report is: it adds nothing to it.
package lookupreport

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// width is how many columns plain text has at most, where words allow it.
const width = 100

// marks :: outcome → what plain text shows for it.
var marks = map[pb.StageOutcome]string{
	pb.StageOutcome_STAGE_OUTCOME_PASSED:  "ok",
	pb.StageOutcome_STAGE_OUTCOME_WARNED:  "look",
	pb.StageOutcome_STAGE_OUTCOME_FAILED:  "FAIL",
	pb.StageOutcome_STAGE_OUTCOME_SKIPPED: "-",
}

// Mark returns the word that stands for an outcome: ok, look, FAIL or -.
func Mark(outcome pb.StageOutcome) string { return marks[outcome] }

// Headline returns one sentence: whether the client gets tokens, and if not, why.
func Headline(r *pb.CheckLookupResponse) string {
	cause := r.GetRootCause()
	if cause == nil {
		if looks := count(r, pb.StageOutcome_STAGE_OUTCOME_WARNED); looks > 0 {
			return fmt.Sprintf("%s: nothing failed, but %s.", r.GetClient(), plural(looks, "stage needs a look", "stages need a look"))
		}
		return fmt.Sprintf("%s: nothing failed.", r.GetClient())
	}
	return fmt.Sprintf("%s: %s (%s)", r.GetClient(), cause.GetSummary(), cause.GetReason())
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func count(r *pb.CheckLookupResponse, outcome pb.StageOutcome) int {
	n := 0
	for _, s := range r.GetStages() {
		if s.GetOutcome() == outcome {
			n++
		}
	}
	return n
}

// confidences :: confidence → how it is said.
var confidences = map[pb.Confidence]string{
	pb.Confidence_CONFIDENCE_PROVEN:  "proven: it was seen",
	pb.Confidence_CONFIDENCE_LIKELY:  "likely: it fits best to what was seen",
	pb.Confidence_CONFIDENCE_UNKNOWN: "unknown: the link is broken, why is not known",
}

// legend says how the list of stages is to be read.
const legend = "How it should be, link by link. ok: it is so; look: it works, but somebody should look; FAIL: it is not so; " +
	"-: not looked at, mostly because of what failed before."

// fact is a name and what is said of it.
type fact struct{ name, text string }

// facts are what both forms say before the stages.
func facts(r *pb.CheckLookupResponse) []fact {
	var list []fact
	add := func(name, text string) {
		if text != "" {
			list = append(list, fact{name, text})
		}
	}
	if cause := r.GetRootCause(); cause != nil {
		add("Where", cause.GetStage())
		add("What was seen", strings.Join(evidenceOf(r, cause.GetStage()), "; "))
		add("What mends it", cause.GetRemedy())
		add("How sure", confidences[cause.GetConfidence()])
		if also := cause.GetAlso(); len(also) > 0 {
			add("Or else", strings.Join(also, ", "))
		}
	}
	if t := r.GetCheckTime(); t != nil {
		add("Checked", t.AsTime().UTC().Format(time.RFC3339))
	}
	if c := r.GetCost(); c != nil {
		add("It cost", cost(c))
	}
	add("Status page", r.GetStatusPage())
	return list
}

// evidenceOf returns what was seen at a stage, of which a headline takes a little.
func evidenceOf(r *pb.CheckLookupResponse, stage string) []string {
	const most = 3
	for _, s := range r.GetStages() {
		if s.GetName() == stage {
			evidence := s.GetEvidence()
			return evidence[:min(len(evidence), most)]
		}
	}
	return nil
}

func cost(c *pb.CheckCost) string {
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
			parts = append(parts, plural(int(p.n), p.one, p.many))
		}
	}
	if len(parts) == 0 {
		return "nothing: nobody but the store was asked"
	}
	return strings.Join(parts, ", ")
}

// Text returns the report as plain text.
func Text(r *pb.CheckLookupResponse) string {
	var b strings.Builder
	wrap(&b, "", Headline(r))
	b.WriteByte('\n')
	for _, f := range facts(r) {
		wrap(&b, fmt.Sprintf("%-15s", f.name+":"), f.text)
	}
	b.WriteByte('\n')
	wrap(&b, "", legend)
	for _, s := range r.GetStages() {
		b.WriteString(StageText(s))
	}
	for _, part := range []struct {
		title string
		lines []string
	}{{"Went wrong lately", failures(r)}, {"Changed lately", changes(r)}} {
		if len(part.lines) > 0 {
			b.WriteString("\n" + part.title + "\n")
			for _, line := range part.lines {
				wrap(&b, "  ", line)
			}
		}
	}
	return b.String()
}

// StageText returns a stage as some lines of plain text.
func StageText(s *pb.LookupStage) string {
	var b strings.Builder
	line := fmt.Sprintf("  %-5s %-24s %s", Mark(s.GetOutcome()), s.GetName(), s.GetTitle())
	if took := s.GetDuration().AsDuration(); took >= time.Millisecond {
		line += fmt.Sprintf(" (%s)", took.Round(time.Millisecond))
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	const indent = "          "
	if s.GetReason() != "" {
		wrap(&b, indent, s.GetReason())
	}
	if s.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_PASSED || s.GetReason() != "" {
		for _, e := range s.GetEvidence() {
			wrap(&b, indent, e)
		}
	}
	if s.GetRemedy() != "" && s.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED {
		wrap(&b, indent+"> ", s.GetRemedy())
	}
	return b.String()
}

// words are those of text without what a terminal would take for a command, or that turns
// the direction of what follows: some of it is what strangers' servers answered.
func words(text string) []string {
	return strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return '\uFFFD'
	}, text))
}

// wrap writes text after first, broken between words; further lines are indented as far
// as first is wide.
func wrap(b *strings.Builder, first, text string) {
	indent, column := strings.Repeat(" ", len(first)), len(first)
	b.WriteString(first)
	for i, word := range words(text) {
		if i > 0 && column+1+len(word) > width {
			b.WriteString("\n" + indent)
			column = len(indent)
		} else if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}

func failures(r *pb.CheckLookupResponse) []string {
	var lines []string
	for _, f := range r.GetRecentFailures() {
		lines = append(lines, fmt.Sprintf("%s, %s, last at %s with secret version %d", f.GetReason(), plural(int(f.GetCount()), "time", "times"),
			f.GetLastTime().AsTime().UTC().Format(time.RFC3339), f.GetSecretVersion()))
	}
	return lines
}

func changes(r *pb.CheckLookupResponse) []string {
	var lines []string
	for _, c := range r.GetRecentChanges() {
		lines = append(lines, c.GetTime().AsTime().UTC().Format(time.RFC3339)+"  "+c.GetSummary())
	}
	return lines
}

// Markdown returns the report as Markdown, for a ticket.
func Markdown(r *pb.CheckLookupResponse) string {
	var b strings.Builder
	b.WriteString("**" + escape(Headline(r)) + "**\n\n")
	for _, f := range facts(r) {
		b.WriteString("- " + f.name + ": " + escape(f.text) + "\n")
	}
	b.WriteString("\n| how it should be | outcome | reason | seen |\n| --- | --- | --- | --- |\n")
	for _, s := range r.GetStages() {
		outcome := strings.ToLower(strings.TrimPrefix(s.GetOutcome().String(), "STAGE_OUTCOME_"))
		seen := make([]string, 0, len(s.GetEvidence()))
		for _, e := range s.GetEvidence() {
			seen = append(seen, escape(e))
		}
		b.WriteString("| " + s.GetName() + ": " + escape(s.GetTitle()) + " | " + outcome + " | " + s.GetReason() + " | " + strings.Join(seen, "; ") + " |\n")
	}
	for _, part := range []struct {
		title string
		lines []string
	}{{"Went wrong lately", failures(r)}, {"Changed lately", changes(r)}} {
		if len(part.lines) > 0 {
			b.WriteString("\n" + part.title + ":\n\n")
			for _, line := range part.lines {
				b.WriteString("- " + escape(line) + "\n")
			}
		}
	}
	return b.String()
}

// escape keeps text from being taken for markup.
func escape(text string) string {
	var b strings.Builder
	for _, r := range strings.Join(words(text), " ") {
		if strings.ContainsRune("\\`*_[]<>|#~", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
