package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// checkCommand says why a client gets no token.
type checkCommand struct {
	clientArg
	Depth    string   `help:"How far to go: index, secret, connect, token, enforcement or api; each includes those before it." enum:"index,secret,connect,token,enforcement,api" default:"secret" placeholder:"DEPTH"`
	As       string   `help:"Caller of the access table in whose place to look: may it have the token?" placeholder:"CALLER"`
	Scope    []string `help:"Scope that would be asked for; may be repeated." placeholder:"SCOPE" sep:"none"`
	Audience string   `help:"Audience that would be asked for." placeholder:"AUDIENCE"`
	Resource []string `help:"Resource (RFC 8707) that would be asked for; may be repeated." placeholder:"URI" sep:"none"`
	Subject  string   `help:"Whose grant would be used, for clients of users' grants." placeholder:"SUBJECT"`
	Fresh    bool     `help:"Ask the authorization server although something was seen of it just now."`
	Yes      bool     `help:"Do not ask before wrong tries are spent."`
}

// markdown says that the command writes Markdown too.
func (c *checkCommand) markdown() {}

// Help implements kong.HelpProvider.
func (c *checkCommand) Help() string {
	return `It walks the links of the chain in the order that a lookup takes them, and names the first that is broken. Status 13 says that one is. The report holds no secret; -o markdown writes it for a ticket.

Beyond secret it needs the permission lookup.probe: connect looks at the way to the token endpoint and sends no credential, token gets a token, enforcement tries a missing and a wrong secret, api calls the client's API.

Examples:

    tokenctl check acme-crm
    tokenctl check acme-crm --depth token
    tokenctl check acme-crm --as crm --scope contacts.read
    tokenctl check acme-crm --depth token -o markdown > ticket.md`
}

// Run implements the command.
func (c *checkCommand) Run(ctx context.Context, s *session) error {
	if err := c.confirm(ctx, s); err != nil {
		return err
	}
	request := c.request()
	if s.Output == outputMarkdown {
		request.ReportFormat = pb.ReportFormat_REPORT_FORMAT_MARKDOWN
	}
	view := newCheckView(s)
	var report *pb.CheckLookupResponse
	err := s.call(ctx, checkWithin, func(ctx context.Context, b *services) (err error) {
		report, err = streamCheck(ctx, b, request, view)
		return err
	})
	view.end()
	if err != nil {
		return needing(err, "lookup.check")
	}
	switch s.Output {
	case outputText:
		view.report(time.Now(), report)
	case outputMarkdown:
		if _, err := io.WriteString(s.stdout, report.GetReportText()); err != nil {
			return err
		}
	default:
		if err := s.show(report, nil); err != nil {
			return err
		}
	}
	if cause := report.GetRootCause(); cause != nil {
		return fault(cause.GetSummary())
	}
	return nil
}

// checkWithin is long enough for ten dead addresses, one after the other.
const checkWithin = 5 * time.Minute

func (c *checkCommand) request() *pb.CheckLookupRequest {
	return &pb.CheckLookupRequest{
		Client: c.name(), Depth: depthOf(c.Depth), Caller: c.As, Scopes: c.Scope, Audience: c.Audience, Resources: c.Resource,
		Subject: c.Subject, Fresh: c.Fresh,
	}
}

// depthOf returns a depth by the word for it here.
func depthOf(word string) pb.LookupDepth {
	return pb.LookupDepth(pb.LookupDepth_value["LOOKUP_DEPTH_"+strings.ToUpper(word)])
}

// streamCheck shows the stages as they pass and returns the report.
func streamCheck(ctx context.Context, b *services, request *pb.CheckLookupRequest, view *checkView) (*pb.CheckLookupResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := b.diagnostics.StreamCheck(ctx, &pb.StreamCheckRequest{Check: request})
	if err != nil {
		return nil, err
	}
	var report *pb.CheckLookupResponse
	view.turn(0)
	err = each(&view.screen, cancel, stream.Recv, func(m *pb.StreamCheckResponse) error {
		if stage := m.GetStage(); stage != nil {
			view.stage(stage)
		}
		if m.GetReport() != nil {
			report = m.GetReport()
		}
		return nil
	}, view.turn)
	if report != nil {
		return report, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, &problem{Status: exitUnavailable, Message: "the check ended before its report", Hint: "check again; the broker may have shut down meanwhile"}
	}
	return nil, err
}

// confirm asks the person at a terminal before a check spends what a client has few of.
func (c *checkCommand) confirm(ctx context.Context, s *session) error {
	if depthOf(c.Depth) < pb.LookupDepth_LOOKUP_DEPTH_ENFORCEMENT || c.Yes || s.Output != outputText || !term.IsTerminal(int(s.stdin.Fd())) {
		return nil
	}
	spends := "a token request, and up to two wrong tries (a missing and a wrong secret), of which %s has few a day"
	if c.Depth == "api" {
		spends += "; then its API is called with the token, without one and with a wrong one"
	}
	fmt.Fprintf(s.stderr, clean("This spends "+spends+". Go on? [y/N] "), c.name())
	answer, err := await(ctx, func() (string, error) { return readLine(s.stdin) })
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &problem{Status: exitInterrupted, Message: "nothing was checked", Hint: "`" + s.again("check "+c.id()+" --depth token") + "` spends no wrong try"}
}

// readLine reads up to the end of a line, and no byte more.
func readLine(from io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < 100; {
		if _, err := from.Read(one); err != nil {
			return string(line), err
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	return string(line), nil
}
