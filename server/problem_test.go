package server_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
)

// problem is what a peer reads from an error.
type problem struct {
	code       codes.Code
	message    string
	reason     broker.Reason
	domain     string
	metadata   map[string]string
	violations map[string]string // field → what is wrong with it
	retry      time.Duration     // 0 if there is no RetryInfo
	details    int
}

func problemOf(err error) problem {
	st := status.Convert(err)
	p := problem{code: st.Code(), message: st.Message(), violations: map[string]string{}}
	for _, detail := range st.Details() {
		p.details++
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			p.reason, p.domain, p.metadata = broker.Reason(d.GetReason()), d.GetDomain(), d.GetMetadata()
		case *errdetails.RetryInfo:
			p.retry = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.violations[v.GetField()] = v.GetDescription()
			}
		}
	}
	return p
}

// requireProblem fails unless err has the code and reason, and all that every
// error must have.
func requireProblem(t *testing.T, err error, code codes.Code, reason broker.Reason) problem {
	t.Helper()
	p := problemOf(err)
	if p.code != code || p.reason != reason {
		t.Fatalf("got %v %q (%v), want %v %q", p.code, p.reason, err, code, reason)
	}
	checkProblem(t, p)
	return p
}

// checkProblem checks what holds for every error that a method of ours answers.
func checkProblem(t *testing.T, p problem) {
	t.Helper()
	known := slices.ContainsFunc(broker.Reasons(), func(info broker.ReasonInfo) bool { return info.Reason == p.reason })
	if !known {
		t.Errorf("got reason %q, want one of broker.Reasons()", p.reason)
	}
	if p.domain != "tokenbroker" {
		t.Errorf("got domain %q, want tokenbroker", p.domain)
	}
	if got, want := p.metadata["recovery"], string(p.reason.Info().Recovery); got != want {
		t.Errorf("got recovery %q, want %q", got, want)
	}
	if p.metadata["request_id"] == "" {
		t.Error("the error has no request_id")
	}
	if demanded := p.code == codes.Unavailable || p.code == codes.ResourceExhausted; demanded && p.retry <= 0 {
		t.Errorf("%v has no RetryInfo", p.code)
	}
	if (p.code == codes.InvalidArgument) != (len(p.violations) > 0) {
		t.Errorf("%v has the field violations %v", p.code, p.violations)
	}
	if p.message == "" {
		t.Error("the error has no message")
	}
}
