package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// border is what every call passes, in one interceptor instead of a chain because
// each link of a chain costs: limit, identity, access, deadline, handler (with
// recovery around it), status, log line.
type border struct {
	log         *slog.Logger
	maxDeadline time.Duration
	maxInFlight int64
	inFlight    atomic.Int64
}

// unary is a grpc.UnaryServerInterceptor.
func (b *border) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	caller := callerOf(ctx)
	started := time.Now()
	// GetToken is bounded by the broker's own timeouts; a timer for each call would
	// be its greatest cost.
	if info.FullMethod != pb.TokenService_GetToken_FullMethodName {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.maxDeadline)
		defer cancel()
	}
	err := b.admit(info.FullMethod, caller)
	var response any
	if err == nil {
		response, err = handler(ctx, req)
		b.inFlight.Add(-1)
	}
	if err == nil && quiet(info.FullMethod) {
		return response, nil
	}
	return response, b.finish(ctx, call{method: info.FullMethod, caller: caller, client: clientOf(req), started: started}, err)
}

// stream is a grpc.StreamServerInterceptor, for health and reflection.
func (b *border) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	caller := callerOf(ss.Context())
	started := time.Now()
	err := b.admit(info.FullMethod, caller)
	if err == nil {
		err = handler(srv, ss)
		b.inFlight.Add(-1)
	}
	if err == nil && quiet(info.FullMethod) {
		return nil
	}
	return b.finish(ss.Context(), call{method: info.FullMethod, caller: caller, started: started}, err)
}

// admit counts the call in, if it may pass. Access comes before the limit, so that
// a stranger learns nothing of our load.
func (b *border) admit(method string, caller *Caller) error {
	if err := authorize(method, caller); err != nil {
		return err
	}
	if b.inFlight.Add(1) > b.maxInFlight {
		b.inFlight.Add(-1)
		return &broker.Error{Reason: broker.ReasonTooManyRequests, RetryAfter: time.Second}
	}
	return nil
}

// quiet methods have no log line when they succeed.
func quiet(method string) bool {
	return method == pb.TokenService_GetToken_FullMethodName || strings.HasPrefix(method, "/grpc.health.")
}

// call is what the log line of one RPC is made of.
type call struct {
	method  string
	caller  *Caller
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
	if c.caller != nil {
		attrs = append(attrs, slog.String("caller", c.caller.Name))
	}
	if err == nil {
		b.log.LogAttrs(ctx, slog.LevelInfo, "rpc", append(attrs, slog.String("code", codes.OK.String()))...)
		return nil
	}
	st, isStatus := status.FromError(err)
	reason := broker.ReasonOf(err)
	if !isStatus || reason != broker.ReasonInternal {
		st = statusOf(err, requestID, c.caller != nil && c.caller.Role == RoleOperator)
		attrs = append(attrs, slog.String("reason", string(reason)), slog.String("cause", err.Error()))
	}
	level := slog.LevelInfo
	switch st.Code() {
	case codes.Internal, codes.Unavailable, codes.DataLoss, codes.Unknown, codes.Unimplemented:
		level = slog.LevelError
	case codes.FailedPrecondition:
		level = slog.LevelWarn
	}
	b.log.LogAttrs(ctx, level, "rpc", append(attrs, slog.String("code", st.Code().String()))...)
	return st.Err()
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
