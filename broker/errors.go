package broker

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Error is the one error type that leaves this package and the adapters around
// it (vault, embedded, oauth). Its Reason is stable and travels to the caller;
// the wrapped Err is for our own log only.
//
// No field may hold a secret, a token, or an upstream body.
type Error struct {
	// Reason names the cause. It equals ErrorInfo.reason on the wire (AIP-193).
	Reason Reason
	// Op says what was being done, lower case: "read client record".
	Op string
	// Client is the id of the registered client concerned; empty if none is.
	Client string
	// Detail adds what the reason alone does not say: a path, a capability, an
	// upstream's bounded description. Shown to operators only.
	Detail string
	// Told is what every caller is told beside the reason, as ErrorInfo.metadata: what it
	// needs for its next try, such as "dpop_nonce". nil for nothing.
	Told map[string]string
	// Fields lists what is wrong with a request; set for INVALID_REQUEST.
	Fields []FieldViolation
	// RetryAfter is how long to wait before another try; 0 says nothing.
	RetryAfter time.Duration
	// Err is the underlying error; nil when this is the first cause.
	Err error
}

// FieldViolation says what is wrong with one field of a request.
type FieldViolation struct {
	// Field is the path as the request spells it: "client.token_endpoint".
	Field string
	// Problem says which rule was broken and what is accepted. It never quotes
	// the value of a secret.
	Problem string
}

// Error returns op, client, reason, detail and cause on one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	if e.Client != "" {
		b.WriteString("client " + e.Client + ": ")
	}
	// An error that only adds what was being done would repeat all of the one within.
	if inner, ok := e.Err.(*Error); ok && inner.Reason == e.Reason && (inner.Detail == e.Detail || e.Detail == "") && len(e.Fields) == 0 {
		b.WriteString(inner.Error())
		return b.String()
	}
	b.WriteString(string(e.Reason))
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	for _, f := range e.Fields {
		b.WriteString("; " + f.Field + ": " + f.Problem)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of err, ReasonInternal for an error that has
// none, and "" for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ReasonInternal
}

// AsError returns the [Error] within err, or wraps err as ReasonInternal.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Reason: ReasonInternal, Err: err}
}

// Invalid returns an INVALID_REQUEST error about one field.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Reason: ReasonInvalidRequest, Fields: []FieldViolation{{Field: field, Problem: fmt.Sprintf(format, args...)}}}
}

// violations collects what is wrong with one request, so that all of it is
// reported at once.
type violations []FieldViolation

func (v *violations) add(field, format string, args ...any) {
	*v = append(*v, FieldViolation{Field: field, Problem: fmt.Sprintf(format, args...)})
}

// err returns nil when nothing was added. At most 20 violations are reported:
// a request with 10,000 bad scopes must not get an answer of a megabyte.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	const most = 20
	if len(v) > most {
		v = append(v[:most:most], FieldViolation{Field: v[most].Field, Problem: fmt.Sprintf("and %d more problems", len(v)-most)})
	}
	return &Error{Reason: ReasonInvalidRequest, Fields: v}
}

func newError(reason Reason, client, detail string, args ...any) *Error {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	return &Error{Reason: reason, Client: client, Detail: detail}
}
