package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is ErrorInfo.domain of the broker's errors (AIP-193).
const errorDomain = "tokenbroker"

// problem is why a command failed, in the parts that are shown.
type problem struct {
	// Status is the exit status.
	Status int `json:"exit_status"`
	// Code is gRPC's; "" if the broker was not asked or did not answer by it.
	Code string `json:"code,omitempty"`
	// Reason is the stable cause from docs/errors.md.
	Reason string `json:"reason,omitempty"`
	// Message is one line: what is wrong, and what mends it.
	Message string `json:"message"`
	// Detail is what the broker tells operators besides.
	Detail string `json:"detail,omitempty"`
	// Fields are what is wrong with the request, field by field.
	Fields []string `json:"fields,omitempty"`
	// Recovery is the class of action that mends it.
	Recovery string `json:"recovery,omitempty"`
	// RetryAfter is how long to wait before the next try, "1.5s"; "" if nobody said.
	RetryAfter string `json:"retry_after,omitempty"`
	// RequestID finds the call in the broker's log.
	RequestID string `json:"request_id,omitempty"`
	// Hint is what tokenctl itself knows: a command to go on with.
	Hint string `json:"hint,omitempty"`

	cause error // for errors.Is
	told  bool  // what was printed says it already
}

// fault is how a command ends that has found and printed what is broken.
func fault(message string) error { return &problem{Status: exitFault, Message: message, told: true} }

// Error implements error.
func (p *problem) Error() string { return p.Message }

// Unwrap returns what p was made of; nil if p is the beginning.
func (p *problem) Unwrap() error { return p.cause }

// usage is a problem of the command line or the configuration.
func usage(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &problem{Status: exitUsage, Message: err.Error(), cause: err}
}

// withHint adds what to do next to an error.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	p := *problemOf(context.Background(), err)
	p.Hint += yes(p.Hint != "", "; ") + fmt.Sprintf(format, args...)
	return &p
}

// needing says which permission a call lacks that the broker refused.
func needing(err error, permission string) error {
	if p := problemOf(context.Background(), err); err != nil && p.Reason == "CALLER_NOT_ALLOWED" {
		return withHint(err, "this needs the permission %s; `tokenctl whoami` shows what you may do", permission)
	}
	return err
}

// recoveries says what each class of action means here.
var recoveries = map[string]string{
	"RETRY":            "try again",
	"WAIT":             "wait, then try again; earlier is useless",
	"FIX_CALLER":       "correct this command, what came before it, or who you are (`tokenctl whoami`)",
	"FIX_CLIENT":       "correct the client's settings, here or at the provider",
	"ROTATE_SECRET":    "a new secret is needed",
	"FIX_STORE":        "the broker's store needs an operator",
	"REAUTHORIZE":      "the user must consent again",
	"CONTACT_PROVIDER": "only the operator of the authorization server can mend it",
	"CONTACT_OPERATOR": "only the operator of the broker can mend it",
}

// problemOf takes an error apart; ctx is that of the process.
func problemOf(ctx context.Context, err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	s, answered := status.FromError(err)
	if !answered {
		p = &problem{Status: exitFailed, Message: err.Error(), cause: err}
		switch {
		case interrupted(ctx) && errors.Is(err, ctx.Err()):
			p.Status, p.Message = exitInterrupted, "interrupted"
		case errors.Is(err, context.DeadlineExceeded):
			p.Status, p.Message = exitDeadline, "the time of --timeout is over"
		}
		return p
	}
	p = &problem{Status: statusOfCode(s.Code()), Code: codeName(s.Code()), Message: s.Message(), cause: err}
	for _, detail := range s.Details() {
		p.take(detail)
	}
	if p.Reason == "" {
		p.guess(ctx, s.Code())
	}
	return p
}

// take reads one detail of a status.
func (p *problem) take(detail any) {
	switch d := detail.(type) {
	case *errdetails.ErrorInfo:
		if d.GetDomain() == errorDomain {
			metadata := d.GetMetadata()
			p.Reason, p.Detail, p.Recovery, p.RequestID = d.GetReason(), metadata["detail"], metadata["recovery"], metadata["request_id"]
		}
	case *errdetails.RetryInfo:
		p.RetryAfter = d.GetRetryDelay().AsDuration().Round(time.Millisecond).String()
	case *errdetails.BadRequest:
		for _, v := range d.GetFieldViolations() {
			p.Fields = append(p.Fields, v.GetField()+" "+v.GetDescription())
		}
	}
}

// guess explains what gRPC says in the broker's place.
func (p *problem) guess(ctx context.Context, code codes.Code) {
	switch {
	case interrupted(ctx):
		p.Status, p.Message, p.Hint = exitInterrupted, "interrupted", "what the broker has begun goes on"
	case code == codes.Unavailable:
		p.Message = "the broker did not answer: " + p.Message
		p.Hint = "check address, ca_file and server_name of the context (`tokenctl context show`), and that the broker runs; `tokenctl doctor` looks at each"
	case code == codes.DeadlineExceeded:
		p.Message, p.Hint = "no answer in time", "the broker may go on with what it has begun; --timeout gives it longer"
	case code == codes.Unimplemented:
		p.Message, p.Hint = "the broker does not have this call", "it is older than tokenctl"
	}
}

// codeName spells a code as docs and protocol do: FAILED_PRECONDITION.
func codeName(code codes.Code) string {
	var b strings.Builder
	for i, r := range code.String() {
		if i > 0 && r >= 'A' && r <= 'Z' && code != codes.OK {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// report prints a problem to standard error, in the form of --output.
func (s *session) report(p *problem) {
	if p.told {
		return
	}
	shown := *p
	shown.Message, shown.Detail, shown.Hint = s.scrubber.scrub(p.Message), s.scrubber.scrub(p.Detail), s.scrubber.scrub(p.Hint)
	shown.Fields = nil
	for _, f := range p.Fields {
		shown.Fields = append(shown.Fields, s.scrubber.scrub(f))
	}
	if s.Output == outputJSON || s.Output == outputYAML {
		_ = s.write(s.stderr, map[string]any{"error": shown})
		return
	}
	var l listing
	l.addIf("field", shown.Fields...)
	if !strings.Contains(shown.Message, shown.Detail) {
		l.addIf("detail", shown.Detail)
	}
	if shown.Recovery != "" {
		l.addIf("mend", orElse(recoveries[shown.Recovery], shown.Recovery))
	}
	if shown.RetryAfter != "" {
		l.addIf("wait", shown.RetryAfter)
	}
	l.addIf("here", translated(shown.Message)...)
	l.addIf("next", shown.Hint)
	if shown.RequestID != "" {
		l.addIf("request", shown.RequestID+" in the broker's log")
	}
	// A problem of several lines, such as those of a file, keeps them.
	for line := range strings.Lines("tokenctl: " + shown.Message) {
		fmt.Fprintln(s.stderr, clean(strings.TrimSuffix(line, "\n")))
	}
	l.write(s.stderr, "  ")
}
