package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/identity"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// border is what every call passes, in one interceptor instead of a chain because
// each link of a chain costs: limit, identity, access, deadline, handler (with
// recovery around it), status, log line.
type border struct {
	log         *slog.Logger
	metrics     *telemetry.Metrics
	maxDeadline time.Duration
	maxInFlight int64
	// inFlight counts the calls under way; those that need no identity have a count
	// of their own, so that strangers cannot use up what callers need, nor a busy
	// server fail the health check that keeps it alive.
	inFlight, anonymous atomic.Int64
	// stopping ends when the server stops: streams end then, or those of load
	// balancers would hold the stop up until its grace is over.
	stopping context.Context
	// table returns the access table in force.
	table func() *access.Table
	// labels returns a client's labels, for rows that speak of them.
	labels func(context.Context, string) (map[string]string, error)
	quotas quotas
}

// visit begins one call: it finds out who calls, under the table that is in force
// now and stays so for this call.
func (b *border) visit(ctx context.Context, now time.Time) *visit {
	caller, err := callerOf(ctx, b.table(), now)
	if err != nil {
		return &visit{stranger: err}
	}
	return &visit{caller: caller, labels: b.labels}
}

// callerOf returns who calls, by the table that is in force; its error is why that is
// nobody, for the log.
func callerOf(ctx context.Context, table *access.Table, now time.Time) (access.Caller, error) {
	info, ok := identity.FromContext(ctx)
	if !ok {
		return access.Caller{}, &identity.Error{Cause: identity.CauseNoCredentials}
	}
	peer, err := info.Peer(now)
	if err != nil {
		return access.Caller{}, err
	}
	caller, ok := peer.Caller(table)
	if !ok {
		return access.Caller{}, fmt.Errorf("the access table has no caller, or several, for %q", peer.Identities())
	}
	return caller, nil
}

// unary is a grpc.UnaryServerInterceptor.
func (b *border) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	started := time.Now()
	v := b.visit(ctx, started)
	// GetToken is bounded by the broker's own timeouts; a timer for each call would
	// be its greatest cost.
	if info.FullMethod != pb.TokenService_GetToken_FullMethodName {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.maxDeadline)
		defer cancel()
	}
	leave, err := b.admit(ctx, info.FullMethod, req, v)
	var response any
	if err == nil {
		response, err = handler(context.WithValue(ctx, visitKey{}, v), req)
		leave()
	}
	if err == nil && quiet(info.FullMethod) {
		b.metrics.RPC(info.FullMethod, codes.OK.String(), "", time.Since(started))
		return response, nil
	}
	return response, b.finish(ctx, call{method: info.FullMethod, visit: v, client: clientOf(req), started: started}, err)
}

// stream is a grpc.StreamServerInterceptor, for health and reflection.
func (b *border) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	started := time.Now()
	v := b.visit(ss.Context(), started)
	leave, err := b.admit(ss.Context(), info.FullMethod, nil, v)
	if err == nil {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(b.stopping, cancel)()
		err = handler(srv, &boundStream{ss, ctx})
		leave()
		if ctx.Err() != nil && quiet(info.FullMethod) {
			return err // how a watch of health ends
		}
	}
	if err == nil && quiet(info.FullMethod) {
		return nil
	}
	return b.finish(ss.Context(), call{method: info.FullMethod, visit: v, started: started}, err)
}

// boundStream is a stream with a context of its own.
type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *boundStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream. It returns when the context ends, which the
// stream's own would not: reflection waits in it for as long as its peer likes. The
// message must not be used after an error.
func (s *boundStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { received <- s.ServerStream.RecvMsg(m) }() // ends with the stream, which the handler's return ends
	select {
	case err := <-received:
		return err
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// admit counts the call in, if it may pass, and returns what counts it out. Access
// comes before the limits, so that a stranger learns nothing of our load.
func (b *border) admit(ctx context.Context, method string, req any, v *visit) (leave func(), err error) {
	if err := v.authorize(ctx, method, req); err != nil {
		return nil, err
	}
	counted := &b.inFlight
	if needs[method].kind == forNobody {
		counted = &b.anonymous
	}
	if counted.Add(1) > b.maxInFlight {
		counted.Add(-1)
		return nil, &broker.Error{Reason: broker.ReasonTooManyRequests, RetryAfter: time.Second}
	}
	if v.decision.Limits == nil {
		return func() { counted.Add(-1) }, nil
	}
	v.quota = b.quotas.of(v.caller.Table(), v.decision.Limits)
	if err := v.quota.enter(); err != nil {
		counted.Add(-1)
		return nil, err
	}
	return func() { counted.Add(-1); v.quota.leave() }, nil
}

// quiet methods have no log line when they succeed.
func quiet(method string) bool {
	return method == pb.TokenService_GetToken_FullMethodName || strings.HasPrefix(method, "/grpc.health.")
}

// call is what the log line of one RPC is made of.
type call struct {
	method  string
	visit   *visit
	client  string
	started time.Time
}

// finish turns err into what the peer is told and writes the log line: the peer's
// faults at info, ours at error with the cause.
func (b *border) finish(ctx context.Context, c call, err error) error {
	requestID := requestIDOf(ctx)
	attrs := []slog.Attr{
		slog.String("method", c.method), slog.String("client", c.client),
		slog.String("request_id", requestID), slog.Duration("duration", time.Since(c.started)),
	}
	if name := c.visit.name(); name != "" {
		attrs = append(attrs, slog.String("caller", name))
	}
	if err == nil {
		b.metrics.RPC(c.method, codes.OK.String(), "", time.Since(c.started))
		b.log.LogAttrs(ctx, slog.LevelInfo, "rpc", append(attrs, slog.String("code", codes.OK.String()))...)
		return nil
	}
	st, isStatus := status.FromError(err)
	reason := broker.ReasonOf(err)
	// Only gRPC's own services answer in its terms. In an error of ours a status may
	// be the cause, whose text is not for the peer.
	if !isStatus || reason != broker.ReasonInternal || !strings.HasPrefix(c.method, "/grpc.") {
		err = ofContext(err)
		reason = broker.ReasonOf(err)
		st = statusOf(err, requestID, c.visit.told())
		attrs = append(attrs, slog.String("reason", string(reason)), slog.String("cause", err.Error()))
	}
	b.metrics.RPC(c.method, st.Code().String(), reasonOf(st), time.Since(c.started))
	b.log.LogAttrs(ctx, levelOf(st.Code(), reason), "rpc", append(attrs, slog.String("code", st.Code().String()))...)
	return st.Err()
}

// levelOf returns error for what this service or its store is to blame for, warn
// for what a client's settings or its provider are, info for the peer's faults.
func levelOf(code codes.Code, reason broker.Reason) slog.Level {
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
	case interface{ GetClient() string }:
		name = r.GetClient()
	case interface{ GetName() string }:
		name = r.GetName()
	case interface{ GetClient() *pb.Client }:
		name = r.GetClient().GetName()
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
