package audit

import (
	"strconv"
	"time"
)

// Outcome is what was decided.
type Outcome string

// The outcomes.
const (
	// Begun: the caller may, and a change begins. Another entry with the same request
	// id says how it ended; where there is none, the process died meanwhile.
	Begun Outcome = "begun"
	// Allowed: the call was carried out.
	Allowed Outcome = "allowed"
	// Denied: the caller may not.
	Denied Outcome = "denied"
	// Failed: the caller may, but it did not work.
	Failed Outcome = "failed"
)

// Outcomes lists all outcomes.
func Outcomes() []Outcome { return []Outcome{Begun, Allowed, Denied, Failed} }

// Entry is one decision. docs/audit.md says when which field is set. None may hold
// a secret or a token. Append does not keep it.
type Entry struct {
	// Time is when it was decided; zero means now.
	Time time.Time
	// RequestID is the call's, which its error and its log line carry too.
	RequestID string
	// TraceID is the id of the W3C trace that the call belongs to; "" if to none.
	TraceID string
	// Caller is the name from the access table; "" for somebody unknown.
	Caller string
	// Identity is how the caller was identified: a certificate's SPIFFE id, for one.
	Identity string
	// Method is the full gRPC method.
	Method string
	// Client is the client's resource name as the request has it; "" where the
	// method is not about one.
	Client string
	// Subject is whose authorization or token it is about, in the application's own
	// words; "" where it is nobody's, or it was not found out.
	Subject string
	// Scopes are those granted; set with TokenID.
	Scopes []string
	// Outcome is what was decided.
	Outcome Outcome
	// Reason is from docs/errors.md; set where denied or failed.
	Reason string
	// TokenID is the first 16 hex digits of the token's SHA-256; set where a token
	// is handed out.
	TokenID string
	// SecretVersion is the one that the token was got with; set with TokenID.
	SecretVersion int64
	// ServedFrom says where the token came from, such as memory or the
	// authorization server; set with TokenID.
	ServedFrom string
	// LeftOut is how many refusals of peers whom nobody knows were left out since the
	// last such entry, because there were too many.
	LeftOut int64
}

const (
	// maxString and maxScopes bound what a peer can make a line grow by, in bytes as
	// written. What is longer is cut and the entry says so: refusing it would let a
	// caller choose which of its attempts are written down.
	maxString = 2 << 10
	maxScopes = 16 << 10
	// maxLine is longer than any line can be; a test holds it against the others.
	maxLine = 64 << 10
)

// append appends e's fields as JSON, without braces, to line. Written by hand
// because an entry is part of the warm path and encoding/json takes more time
// than all else of it.
func (e *Entry) append(line []byte) []byte {
	at := e.Time
	if at.IsZero() {
		at = time.Now()
	}
	line = appendTime(append(line, `"time":`...), at)
	cut := false
	field := func(name, value string) {
		if value != "" {
			var short bool
			line, short = appendString(append(line, name...), value, maxString)
			cut = cut || short
		}
	}
	field(`,"request_id":`, e.RequestID)
	field(`,"trace_id":`, e.TraceID)
	field(`,"caller":`, e.Caller)
	field(`,"identity":`, e.Identity)
	field(`,"method":`, e.Method)
	field(`,"client":`, e.Client)
	field(`,"subject":`, e.Subject)
	field(`,"outcome":`, string(e.Outcome))
	field(`,"reason":`, e.Reason)
	field(`,"token_id":`, e.TokenID)
	if e.SecretVersion != 0 {
		line = strconv.AppendInt(append(line, `,"secret_version":`...), e.SecretVersion, 10)
	}
	field(`,"served_from":`, e.ServedFrom)
	if e.LeftOut != 0 {
		line = strconv.AppendInt(append(line, `,"left_out":`...), e.LeftOut, 10)
	}
	if len(e.Scopes) > 0 {
		line = append(line, `,"scopes":[`...)
		start := len(line)
		for i, scope := range e.Scopes {
			if len(line)-start > maxScopes {
				cut = true
				break
			}
			if i > 0 {
				line = append(line, ',')
			}
			var short bool
			line, short = appendString(line, scope, maxString)
			cut = cut || short
		}
		line = append(line, ']')
	}
	if cut {
		line = append(line, `,"truncated":true`...)
	}
	return line
}
