package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// sweepCommand checks all clients.
type sweepCommand struct {
	Filter string `help:"Only clients that meet it, such as labels.team=crm or prefix=acme-; several joined by AND." placeholder:"FILTER"`
	Depth  string `help:"How far to go: index, secret, connect or token; beyond secret --probes is needed." enum:"index,secret,connect,token" default:"secret" placeholder:"DEPTH"`
	Probes int32  `help:"How many clients may be checked beyond secret; the others are checked up to it." placeholder:"N"`
	All    bool   `help:"Show the clients that are well, too."`
}

// Help implements kong.HelpProvider.
func (c *sweepCommand) Help() string {
	return `Each client that is not well is a line as soon as it is found; the end is a summary by cause. Status 13 says that a client has a fault. With -o json each report is a line, and the last one the summary.

Examples:

    tokenctl sweep
    tokenctl sweep --filter labels.team=crm -o json
    tokenctl sweep --depth token --probes 200 --filter prefix=acme-`
}

// Run implements the command.
func (c *sweepCommand) Run(ctx context.Context, s *session) error {
	depth := depthOf(c.Depth)
	if depth > pb.LookupDepth_LOOKUP_DEPTH_SECRET && c.Probes <= 0 {
		return usage("--depth %s asks authorization servers: say with --probes how many clients may be checked so far", c.Depth)
	}
	view := sweepView{screen: newScreen(s), session: s, all: c.All}
	err := s.call(ctx, withoutEnd, func(ctx context.Context, b *services) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := b.diagnostics.SweepLookups(ctx, &pb.SweepLookupsRequest{Filter: c.Filter, Depth: depth, ProbeBudget: c.Probes, IncludeHealthy: c.All})
		if err != nil {
			return err
		}
		return each(&view.screen, cancel, stream.Recv, view.take, view.turn)
	})
	view.end()
	switch {
	case errors.Is(err, io.EOF) && view.summary == nil:
		return &problem{Status: exitUnavailable, Message: fmt.Sprintf("the sweep ended before its summary, after %s", counted(int(view.progress.GetChecked()), "client", "clients")), Hint: "sweep again; the broker may have shut down meanwhile"}
	case err != nil && !errors.Is(err, io.EOF):
		return needing(err, "lookup.check"+yes(depth > pb.LookupDepth_LOOKUP_DEPTH_SECRET, " and lookup.probe"))
	case view.summary.GetFailed() > 0:
		return fault(counted(int(view.summary.GetFailed()), "client has a fault", "clients have a fault"))
	}
	return nil
}

// sweepView draws a sweep while it goes on.
type sweepView struct {
	screen
	session  *session
	all      bool
	progress *pb.SweepProgress
	summary  *pb.SweepSummary
}

// take shows one message.
func (v *sweepView) take(m *pb.SweepLookupsResponse) error {
	if m.GetProgress() != nil {
		v.progress = m.GetProgress()
		return nil
	}
	if m.GetSummary() != nil {
		v.summary = m.GetSummary()
	}
	if v.session.Output != outputText {
		return v.session.showLine(m)
	}
	if r := m.GetReport(); r != nil {
		v.client(r)
	}
	if v.summary != nil {
		v.finish()
	}
	return nil
}

// client prints the line of one client.
func (v *sweepView) client(r *pb.CheckLookupResponse) {
	name := clean(strings.TrimPrefix(r.GetClient(), clientPrefix))
	if cause := r.GetRootCause(); cause != nil {
		v.line(v.mark(markBad) + name + "  " + clean(cause.GetReason()))
		return
	}
	var looks []string
	for _, s := range r.GetStages() {
		if s.GetOutcome() == pb.StageOutcome_STAGE_OUTCOME_WARNED {
			looks = append(looks, orElse(s.GetReason(), s.GetName()))
		}
	}
	if len(looks) > 0 {
		v.line(v.mark(markLook) + name + "  " + clean(strings.Join(looks, ", ")))
	} else {
		v.line(v.mark(markGood) + name)
	}
}

// turn draws the bar.
func (v *sweepView) turn(since time.Duration) {
	if v.session.Output != outputText {
		return
	}
	text := spinner(since) + " sweeping"
	if p := v.progress; p != nil {
		text = fmt.Sprintf("%3.0f %%  %d checked, %d failed", 100*p.GetShare(), p.GetChecked(), p.GetFailed())
		if room := min(v.width-len(text)-5, 40); room >= 8 {
			done := min(int(p.GetShare()*float64(room)), room)
			text = "[" + strings.Repeat("=", done) + strings.Repeat(" ", room-done) + "] " + text
		}
	}
	v.transient(text)
}

// finish prints the summary.
func (v *sweepView) finish() {
	sum := v.summary
	if sum.GetFailed()+sum.GetWarned() > 0 || v.all && sum.GetChecked() > 0 {
		v.line("")
	}
	took := max(sum.GetDuration().AsDuration(), time.Millisecond)
	v.wrapped("", fmt.Sprintf("%s checked in %s: %d well, %d to look at, %d with a fault%s", counted(int(sum.GetChecked()), "client", "clients"),
		took.Round(roundTo(took)), sum.GetHealthy(), sum.GetWarned(), sum.GetFailed(),
		yes(sum.GetProbes() > 0, "; "+counted(int(sum.GetProbes()), "authorization server was asked", "authorization servers were asked"))))
	for _, cause := range sum.GetCauses() {
		v.line("")
		v.hanging(v.paint(colourBad, clean(cause.GetReason()))+": ", 2, counted(int(cause.GetClients()), "client", "clients"))
		names := make([]string, 0, len(cause.GetExamples()))
		for _, e := range cause.GetExamples() {
			names = append(names, strings.TrimPrefix(e, clientPrefix))
		}
		more := cause.GetClients() - int64(len(names))
		v.wrapped("  ", strings.Join(names, ", ")+yes(more > 0, fmt.Sprintf(" and %d more", more)))
		v.wrapped("  > ", cause.GetRemedy())
	}
	if len(sum.GetCauses()) > 0 && len(sum.GetCauses()[0].GetExamples()) > 0 {
		v.line("")
		v.wrapped("", "more of one: "+v.session.again("check "+strings.TrimPrefix(sum.GetCauses()[0].GetExamples()[0], clientPrefix)))
	}
}

// roundTo is how exactly a duration is worth telling.
func roundTo(d time.Duration) time.Duration {
	if d < time.Second {
		return time.Millisecond
	}
	return 100 * time.Millisecond
}
