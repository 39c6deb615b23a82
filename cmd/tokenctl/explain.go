package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// explainCommand says what happened to a call that failed.
type explainCommand struct {
	RequestID string `arg:"" name:"request-id" help:"request_id of the error, which every error of the broker has."`
}

// Help implements kong.HelpProvider.
func (c *explainCommand) Help() string {
	return `A replica knows its own last 10,000 failures. Of several replicas, ask the one that answered the call, or look for the id in their logs.

Example:

    tokenctl explain P2SDVNBOQ7GZ2LEMALDABCHLKM`
}

// Run implements the command.
func (c *explainCommand) Run(ctx context.Context, s *session) error {
	return s.call(ctx, callsWithin, func(ctx context.Context, b *services) error {
		answer, err := b.diagnostics.ExplainError(ctx, &pb.ExplainErrorRequest{RequestId: strings.TrimSpace(c.RequestID)})
		if p := problemOf(ctx, err); err != nil && p.Reason == "FAILURE_NOT_SEEN" {
			return withHint(err, "each replica knows its own failures: ask again, or each by its address, or look for the id in their logs")
		}
		if err != nil {
			return err
		}
		return s.show(answer, func(w io.Writer) { describeFailure(w, time.Now(), answer) })
	})
}

func describeFailure(w io.Writer, now time.Time, e *pb.ExplainErrorResponse) {
	method := e.GetMethod()[strings.LastIndex(e.GetMethod(), "/")+1:]
	var l listing
	l.addIf("what", e.GetSummary())
	l.addIf("reason", e.GetReason())
	l.addIf("detail", e.GetDetail())
	l.addIf("mend", e.GetRemedy())
	l.addIf("here", translated(e.GetRemedy())...)
	l.addIf("when", when(now, e.GetTime()))
	l.addIf("call", method+yes(e.GetDuration().AsDuration() > 0, fmt.Sprintf(", which took %s", e.GetDuration().AsDuration().Round(time.Millisecond))))
	l.addIf("caller", orElse(e.GetCaller(), "nobody whom the access table knows"))
	l.addIf("client", e.GetClient())
	if r := e.GetRecently(); r != nil {
		l.addIf("lately", fmt.Sprintf("%s since %s, last %s", times(r.GetCount()), when(now, r.GetFirstTime()), when(now, r.GetLastTime())))
	}
	l.addIf("next", e.GetNextCheck())
	l.write(w, "")
}
