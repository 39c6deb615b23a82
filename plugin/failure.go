package plugin

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
)

// failure is the cause within the errors of this package: what the rotator, or gRPC,
// answered, without what may not be shown.
type failure struct {
	method string
	code   codes.Code
}

// Error returns method and code.
func (f *failure) Error() string { return f.method + " answered " + f.code.String() }

const (
	// mostRetryAfter clamps what a rotator may ask for.
	mostRetryAfter = time.Hour
	mostMessageEnd = 200
)

// classify translates a status as proto/tokenbroker/rotator/v1 says. sent tells whether
// the request may have left this process.
func (r *Rotator) classify(method string, call broker.RotatorCall, st *status.Status, sent bool) error {
	reason, unchanged := meaning(st, sent)
	e := r.failed(call, reason, method+": "+st.Code().String()+shownMessage(st.Message(), call))
	e.Op, e.Err = "ask the rotator", &failure{method, st.Code()}
	if reason == broker.ReasonUpstreamRateLimited {
		e.RetryAfter = retryAfter(st)
	}
	if unchanged {
		e.Err = &broker.UnsentError{Err: e.Err}
	}
	return e
}

// meaning returns the reason of a status, and whether the provider surely has not
// changed anything. Codes that gRPC gives by itself, also for answers that it could not
// read, prove nothing.
func meaning(st *status.Status, sent bool) (reason broker.Reason, unchanged bool) {
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.Unimplemented:
		return broker.ReasonRotatorRefused, true
	case codes.Unauthenticated, codes.PermissionDenied:
		return broker.ReasonRotatorUnauthorized, true
	case codes.ResourceExhausted:
		return broker.ReasonUpstreamRateLimited, !sent || retryInfo(st) != nil
	case codes.DeadlineExceeded, codes.Canceled:
		return broker.ReasonUpstreamTimeout, !sent
	}
	if !sent {
		return broker.ReasonUpstreamConnect, true
	}
	return broker.ReasonUpstreamUnavailable, false
}

func retryInfo(st *status.Status) *errdetails.RetryInfo {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info
		}
	}
	return nil
}

func retryAfter(st *status.Status) time.Duration {
	info := retryInfo(st)
	if info.GetRetryDelay().CheckValid() != nil {
		return 0
	}
	return min(max(info.GetRetryDelay().AsDuration(), 0), mostRetryAfter)
}

// shownMessage returns ": " and what of a status's message may be shown to operators:
// its beginning, unless it quotes a secret, which the contract forbids.
func shownMessage(message string, call broker.RotatorCall) string {
	if message == "" {
		return ""
	}
	for _, value := range []string{call.New.RevealString(), call.Current.RevealString()} {
		if value != "" && strings.Contains(message, value) {
			return " (its message quotes a secret, and is not shown)"
		}
	}
	message = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c > 0xffff {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(message, " "))
	if len(message) > mostMessageEnd {
		message = strings.ToValidUTF8(message[:mostMessageEnd], "") + "…"
	}
	return ": " + message
}

func (r *Rotator) failed(call broker.RotatorCall, reason broker.Reason, detail string) *broker.Error {
	return &broker.Error{Reason: reason, Client: call.ID, Detail: "rotator " + r.config.Name + ": " + detail}
}

// malformed is about an answer: what it was about may have been done.
func (r *Rotator) malformed(call broker.RotatorCall, format string, args ...any) error {
	return r.failed(call, broker.ReasonUpstreamMalformed, fmt.Sprintf(format, args...))
}
