package server

import (
	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

// Refusals of peers whom no table lists leave at most so many entries and log lines a
// second: whoever reaches the port could fill the disk otherwise, and so stop the
// service.
const (
	strangersPerSecond = 100
	strangersBurst     = 1000
)

// announce records a change before it is made: whoever dies in the middle of one, or
// finds no sink for its outcome, has left word of it.
func (b *border) announce(c *call) error {
	if c.need.observes {
		return nil
	}
	if err := b.record(c, audit.Begun, ""); err != nil {
		return err
	}
	c.recorded = false // how it ends is yet to come
	return nil
}

// record writes what was decided about a call into the audit log, once.
// AUDIT_UNAVAILABLE, after which the call must neither do nor reveal anything more.
func (b *border) record(c *call, outcome audit.Outcome, reason broker.Reason) error {
	if c.recorded || c.need.kind == forNobody {
		return nil
	}
	c.recorded = true
	v := &c.visit
	if outcome != audit.Allowed && v.caller.Table() == nil && !b.strangers.Allow() {
		b.unrecorded.Add(1)
		c.silent = true
		return nil
	}
	if b.audit == nil {
		return nil
	}
	entry := audit.Entry{
		RequestID: c.requestID, TraceID: c.traceID, Caller: v.name(), Identity: v.identity(), Method: c.method, Client: c.client,
		Subject: c.visit.subject,
		Outcome: outcome, Reason: string(reason),
	}
	if v.caller.Table() == nil {
		entry.LeftOut = b.unrecorded.Swap(0)
	}
	if token := v.token; token != nil && outcome == audit.Allowed {
		entry.TokenID, entry.SecretVersion, entry.ServedFrom = token.ID, token.SecretVersion, string(v.servedFrom)
		entry.Scopes = token.Scopes
	}
	if err := b.audit.Append(&entry); err != nil {
		b.unrecorded.Add(entry.LeftOut) // the next one says so
		return &broker.Error{Reason: broker.ReasonAuditUnavailable, Op: "write the audit entry", Err: err}
	}
	b.metrics.AuditEntry(outcome)
	return nil
}

// outcomeOf tells who may not from what did not work.
func outcomeOf(reason broker.Reason) audit.Outcome {
	switch reason {
	case broker.ReasonCallerUnauthenticated, broker.ReasonCallerNotAllowed, broker.ReasonScopeNotAllowed, broker.ReasonTargetNotAllowed:
		return audit.Denied
	default:
		return audit.Failed
	}
}
