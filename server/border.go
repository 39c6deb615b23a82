package server

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// border is what every call passes, in one interceptor instead of a chain because
// each link of a chain costs: identity, access, limit, deadline, handler (with
// recovery around it), status, audit, log line.
type border struct {
	log         *slog.Logger
	metrics     *telemetry.Metrics
	maxDeadline time.Duration
	// What needs no identity is counted by itself, so that strangers cannot use up what
	// callers need, nor a busy server fail the health check that keeps it alive; and so
	// are watches, which last.
	calls, watches, anonymous *pool
	// watching has the streams whose callers are asked for again.
	watching watching
	// stopping ends when the server stops: streams end then, or those of load
	// balancers would hold the stop up until its grace is over.
	stopping context.Context
	// table returns the access table in force.
	table func() *access.Table
	// labels returns a client's labels, for rows that speak of them.
	labels func(context.Context, string) (map[string]string, error)
	quotas quotas
	// strangers bounds the entries and log lines that peers cause whom no table lists;
	// unrecorded counts those that were left out.
	strangers  *rate.Limiter
	unrecorded atomic.Int64
	// recovered calls a handler and turns a panic into an error.
	recovered grpc.UnaryServerInterceptor
	// bearer verifies the tokens of callers; nil if only connections identify them.
	bearer *bearer.Verifier
	// audit takes an entry for each decision; nil for none.
	audit *audit.Log
	// failures has the last calls that failed.
	failures *failures
	// used notes who was given which token.
	used func(token *broker.Token, caller string, now time.Time)
}

// begin begins one call: it finds out who calls, under the table that is in force
// now and stays so for this call.
func (b *border) begin(ctx context.Context, method string, req any) *call {
	c := &call{
		method: method, visit: visit{labels: b.labels, started: time.Now()}, client: clientOf(req), requestID: requestIDOf(ctx),
		traceID: telemetry.TraceID(ctx), need: needs[method],
	}
	c.visit.identify(ctx, c.visit.started, b.table(), b.bearer)
	return c
}

// unary is a grpc.UnaryServerInterceptor.
func (b *border) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := b.begin(ctx, info.FullMethod, req)
	// GetToken is bounded by the broker's own timeouts; a timer for each call would
	// be its greatest cost.
	if info.FullMethod != pb.TokenService_GetToken_FullMethodName {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.maxDeadline)
		defer cancel()
	}
	err := b.admit(ctx, c, req)
	var response any
	if err == nil {
		if err = b.announce(c); err == nil {
			response, err = b.recovered(context.WithValue(ctx, visitKey{}, &c.visit), req, info, handler)
		}
		c.leave()
	}
	if err := b.finish(ctx, c, err); err != nil {
		return nil, err
	}
	if c.visit.answer != nil {
		return c.visit.answer, nil
	}
	return response, nil
}

// admit counts the call in, if it may pass; whoever calls it then calls leave. Access
// comes before the limits, so that a stranger learns nothing of our load.
func (b *border) admit(ctx context.Context, c *call, req any) error {
	v := &c.visit
	if err := v.authorize(ctx, c.method, req); err != nil {
		return err
	}
	c.pool = b.poolOf(c.need)
	if err := c.pool.enter(c); err != nil {
		return err
	}
	if v.decision.Limits != nil {
		v.quota = b.quotas.of(v.caller.Table(), v.decision.Limits)
		if err := v.quota.enter(c); err != nil {
			c.leave()
			return err
		}
	}
	return nil
}

func (b *border) poolOf(n need) *pool {
	switch {
	case n.kind == forNobody:
		return b.anonymous
	case n.lasts:
		return b.watches
	default:
		return b.calls
	}
}

// enter counts the call in a bucket; leave will count it out.
func (c *call) enter(b *bucket, what string) error {
	if err := b.enter(what); err != nil {
		return err
	}
	c.buckets[c.entered] = b
	c.entered++
	return nil
}

// leave counts the call out wherever it was counted in.
func (c *call) leave() {
	c.pool.underway.Add(-1)
	c.leaveBuckets()
}

func (c *call) leaveBuckets() {
	for _, b := range c.buckets[:c.entered] {
		b.leave()
	}
	c.entered = 0
}

// quiet methods have no log line when they succeed.
func quiet(method string) bool {
	return method == pb.TokenService_GetToken_FullMethodName || strings.HasPrefix(method, "/grpc.health.")
}

// traced methods are those of our own services: not health, which load balancers ask
// for all the time, nor names that a peer made up.
func traced(method string) bool {
	_, registered := needs[method]
	return registered && !strings.HasPrefix(method, "/grpc.")
}

// call is one RPC: what its log line and its entry in the audit log are made of.
type call struct {
	method    string
	need      need
	visit     visit
	client    string
	requestID string
	traceID   string // "" if the call belongs to no trace
	// pool is what the call counts in while it is under way.
	pool    *pool
	buckets [3]*bucket // the caller's, the row's, and the row's for the client
	entered int
	// silent says that neither log nor audit log have the call.
	silent bool
	// recorded says that the audit log has the call's outcome.
	recorded bool
}

// finish turns err into what the peer is told, writes the entry and the log line: the
// peer's faults at info, ours at error with the cause. If the entry cannot be written,
// the error says so and nothing else.
func (b *border) finish(ctx context.Context, c *call, err error) error {
	if err == nil {
		err = b.record(c, audit.Allowed, "")
	}
	if err == nil {
		if c.visit.token != nil {
			b.used(c.visit.token, c.visit.name(), c.visit.started)
		}
		b.metrics.RPC(c.method, codes.OK.String(), "", time.Since(c.visit.started))
		if !quiet(c.method) {
			b.log.LogAttrs(ctx, slog.LevelInfo, "rpc", append(c.attrs(), slog.String("code", codes.OK.String()))...)
		}
		return nil
	}
	st, reason := c.status(ctx, err)
	if unrecorded := b.record(c, outcomeOf(reason), reason); unrecorded != nil {
		err = unrecorded
		st, reason = c.status(ctx, err)
	}
	attrs := append(c.attrs(), slog.String("code", st.Code().String()))
	if told := reasonOf(st); told != "" || !strings.HasPrefix(c.method, "/grpc.") {
		attrs = append(attrs, slog.String("reason", string(reason)), slog.String("cause", err.Error()))
	}
	telemetry.NoteReason(ctx, broker.Reason(reasonOf(st)))
	b.metrics.RPC(c.method, st.Code().String(), reasonOf(st), time.Since(c.visit.started))
	if c.silent {
		return st.Err()
	}
	b.failures.note(failedCall{
		time: c.visit.started, took: time.Since(c.visit.started), requestID: c.requestID, method: c.method, caller: c.visit.name(),
		client: c.client, reason: reason, detail: broker.AsError(err).Detail,
	})
	b.log.LogAttrs(ctx, levelOf(st.Code(), reason), "rpc", attrs...)
	return st.Err()
}

// status returns what the peer is told of err, and its reason. Only gRPC's own
// services answer in its terms: in an error of ours a status may be the cause, whose
// text is not for the peer.
func (c *call) status(ctx context.Context, err error) (*status.Status, broker.Reason) {
	st, isStatus := status.FromError(err)
	if isStatus && strings.HasPrefix(c.method, "/grpc.") && broker.ReasonOf(err) == broker.ReasonInternal {
		return st, broker.ReasonInternal
	}
	err = ofContext(err)
	told := tellings{requestID: c.requestID, details: c.visit.told(), nextCheck: c.nextCheck(ctx, broker.AsError(err))}
	return statusOf(err, told), broker.ReasonOf(err)
}

// attrs are what each log line of a call has.
func (c *call) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("method", c.method), slog.String("client", c.client),
		slog.String("request_id", c.requestID), slog.Duration("duration", time.Since(c.visit.started)),
	}
	if name := c.visit.name(); name != "" {
		attrs = append(attrs, slog.String("caller", name))
	}
	if c.traceID != "" {
		attrs = append(attrs, slog.String("trace_id", c.traceID))
	}
	return attrs
}

// levelOf returns error for what this service or its store is to blame for, warn
// for what a client's settings or its provider are, info for the peer's faults.
func levelOf(code codes.Code, reason broker.Reason) slog.Level {
	if reason == broker.ReasonShuttingDown { // all watches of a server end so
		return slog.LevelInfo
	}
	switch reason.Info().Recovery {
	case broker.RecoveryFixStore, broker.RecoveryContactOperator:
		if reason != broker.ReasonInternal { // also what has no reason: gRPC's own answers
			return slog.LevelError
		}
	}
	switch code {
	case codes.Internal, codes.Unavailable, codes.DataLoss, codes.Unknown, codes.Unimplemented:
		return slog.LevelError
	case codes.FailedPrecondition:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// ofContext gives the end of a call's context its reason where the work returned
// the bare error.
func ofContext(err error) error {
	if broker.ReasonOf(err) == broker.ReasonInternal && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return &broker.Error{Reason: broker.ReasonDeadlineExceeded, Err: err}
	}
	return err
}

// reasonOf returns the reason that the peer is told; "" for a status that is not
// made from one, such as gRPC's own.
func reasonOf(st *status.Status) string {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// clientOf returns the client that a request names, for the log: bounded, because
// it is whatever the peer sent.
func clientOf(req any) string {
	var name string
	switch r := req.(type) {
	case namesAuthorization:
		name = clientOfAuthorization(r)
	case interface{ GetClient() string }:
		name = r.GetClient()
	case interface{ GetName() string }:
		name = r.GetName()
	case interface{ GetClient() *pb.Client }:
		name = r.GetClient().GetName()
	case interface{ GetCheck() *pb.CheckLookupRequest }:
		name = r.GetCheck().GetClient()
	}
	const most = 160
	if len(name) > most {
		name = name[:most]
	}
	return strings.ToValidUTF8(name, "?")
}

// requestIDOf returns the x-request-id that the peer sent, if it is a sound one,
// or a new one.
func requestIDOf(ctx context.Context) string {
	const most = 64
	for _, id := range metadata.ValueFromIncomingContext(ctx, "x-request-id") {
		if id != "" && len(id) <= most && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return id
		}
	}
	return rand.Text()
}
