package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// accessCommand asks who may have what.
type accessCommand struct {
	Explain accessExplainCommand `cmd:"" help:"Say whether a caller may have a client's token, by the access table in force."`
}

type accessExplainCommand struct {
	Caller string `arg:"" help:"Name of the caller in the access table."`
	clientArg
	Scope    []string `help:"Scope that it would ask for; may be repeated." placeholder:"SCOPE" sep:"none"`
	Audience string   `help:"Audience that it would ask for." placeholder:"AUDIENCE"`
	Resource []string `help:"Resource (RFC 8707) that it would ask for; may be repeated." placeholder:"URI" sep:"none"`
}

// callerPermitted is the stage of a check that tells what the access table says.
const callerPermitted = "CALLER_PERMITTED"

// Help implements kong.HelpProvider.
func (c *accessExplainCommand) Help() string {
	return `The broker itself is asked, so it is the table in force and the client's own labels and settings that decide. Status 13 says that the caller may not.

A table that is not in force yet, other permissions and whole lists of expectations: "tokenbroker access explain" and "tokenbroker access test", which need the file and no broker. What you may do yourself: "tokenctl whoami".

Examples:

    tokenctl access explain crm acme-crm
    tokenctl access explain crm acme-crm --scope contacts.write`
}

// Run implements the command.
func (c *accessExplainCommand) Run(ctx context.Context, s *session) error {
	var report *pb.CheckLookupResponse
	err := s.call(ctx, callsWithin, func(ctx context.Context, b *services) (err error) {
		report, err = b.diagnostics.CheckLookup(ctx, &pb.CheckLookupRequest{
			Client: c.name(), Depth: pb.LookupDepth_LOOKUP_DEPTH_INDEX, Caller: c.Caller, Scopes: c.Scope, Audience: c.Audience, Resources: c.Resource,
		})
		return err
	})
	if err != nil {
		return needing(err, "lookup.check")
	}
	for _, stage := range report.GetStages() {
		if stage.GetName() == callerPermitted && stage.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_SKIPPED {
			return c.decided(s, stage)
		}
	}
	cause := report.GetRootCause()
	return &problem{
		Status: exitFault, Reason: cause.GetReason(), Message: c.name() + ": " + orElse(cause.GetSummary(), "the broker did not come as far as the access table"),
		Hint: strings.TrimSpace(cause.GetRemedy() + " `" + s.again("check "+c.id()) + "` says more"),
	}
}

// decided prints what the table says, and ends with a fault if that is no.
func (c *accessExplainCommand) decided(s *session, stage *pb.LookupStage) error {
	may := stage.GetOutcome() != pb.StageOutcome_STAGE_OUTCOME_FAILED
	err := s.show(stage, func(w io.Writer) {
		x := newScreen(s)
		x.out = w
		word, verb := markGood, "lets"
		if !may {
			word, verb = markBad, "does not let"
		}
		x.wrapped(x.mark(word), fmt.Sprintf("the access table %s %s have a token of %s%s", verb, c.Caller, c.name(), yes(stage.GetReason() != "", ": "+stage.GetReason())))
		indent := strings.Repeat(" ", markWidth+2)
		for _, e := range stage.GetEvidence() {
			x.wrapped(indent, e)
		}
		if stage.GetRemedy() != "" {
			x.wrapped(indent+"> ", stage.GetRemedy())
		}
		if may && len(c.Scope)+len(c.Resource)+len(c.Audience) > 0 {
			x.wrapped(indent, "the client's own settings decide besides: `"+s.again("check "+c.id()+" --as "+c.Caller)+" --depth token` with the same scopes tries it")
		}
	})
	if err == nil && !may {
		return fault("the caller may not have the token")
	}
	return err
}
