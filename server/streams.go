package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/audit"
)

// stream is a grpc.StreamServerInterceptor.
func (b *border) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := b.begin(ss.Context(), info.FullMethod, nil)
	ctx, cancel := context.WithCancelCause(context.WithValue(ss.Context(), visitKey{}, &c.visit))
	defer cancel(nil)
	s := &boundStream{ServerStream: ss, ctx: ctx, border: b, call: c}
	c.visit.recheck = func(check func(*access.Decision) error) func() {
		return b.watching.add(&watchedStream{stream: s, check: check, end: cancel})
	}
	c.visit.item = func(client string, authorize, work func(context.Context, *visit) error) (failed, ended error) {
		return b.item(s, client, authorize, work)
	}
	var err error
	if c.need.permission == 0 { // else its request says which client it is about
		err = s.letIn(nil)
	}
	if err == nil {
		defer context.AfterFunc(b.stopping, func() { cancel(&broker.Error{Reason: broker.ReasonShuttingDown}) })()
		err = handler(srv, s)
	}
	if s.entered {
		c.leave()
	}
	switch cause := context.Cause(ctx); {
	case ctx.Err() == nil:
	case strings.HasPrefix(c.method, "/grpc."):
		return err // how a watch of health ends, and reflection when the server stops
	case ss.Context().Err() != nil && s.sent:
		b.metrics.RPC(c.method, codes.Canceled.String(), "", time.Since(c.visit.started))
		return err // its caller left
	case !errors.Is(cause, context.Canceled):
		err = cause
	}
	// That the server stops is no decision about the call.
	c.recorded = c.recorded || s.sent && broker.ReasonOf(err) == broker.ReasonShuttingDown
	return b.finish(ss.Context(), c, err)
}

// boundStream is a stream with a context of its own, which lets nothing out that is
// not in the audit log.
type boundStream struct {
	grpc.ServerStream
	ctx    context.Context
	border *border
	call   *call
	// request is the message that the stream was let in with; nil without one.
	request any
	// entered says that the call is counted, sent that a watch has sent something, or that
	// an import has begun: how it ends is then no decision about it.
	entered, sent bool
}

// Context implements grpc.ServerStream.
func (s *boundStream) Context() context.Context { return s.ctx }

// letIn lets the call in and records it, unless its messages are recorded one by one.
func (s *boundStream) letIn(request any) error {
	c := s.call
	s.request = request
	if c.need.kind != forAny { // whose items are about a client each
		c.client = clientOf(request)
	}
	if err := s.border.admit(s.ctx, c, request); err != nil {
		return err
	}
	s.entered = true
	if c.need.permission == access.TokenWatch {
		return nil
	}
	// It reveals while it lasts, so what its end is comes too late.
	if err := s.border.record(c, audit.Allowed, ""); err != nil {
		return err
	}
	s.sent = c.need.kind == forAny && !c.need.observes
	return nil
}

// RecvMsg implements grpc.ServerStream. It returns when the context ends, which the
// stream's own would not: reflection waits in it for as long as its peer likes. The
// message must not be used after an error.
func (s *boundStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { received <- s.ServerStream.RecvMsg(m) }() // ends with the stream, which the handler's return ends
	select {
	case err := <-received:
		if err != nil || s.entered {
			return err
		}
		return s.letIn(m)
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// SendMsg implements grpc.ServerStream. Each message with a token has an entry of its
// own, written before.
func (s *boundStream) SendMsg(m any) error {
	switch m.(type) {
	case *pb.WatchRotationResponse:
		s.sent = true
	case *pb.WatchTokenResponse:
		s.call.recorded = false
		if err := s.border.record(s.call, audit.Allowed, ""); err != nil {
			return err
		}
		s.border.used(s.call.visit.token, s.call.visit.name(), time.Now())
		s.sent = true
		defer func() { s.call.recorded = false }() // how it ends is yet to come
	case *pb.ImportClientsResponse:
		return s.sendUntil(m)
	case *pb.StreamCheckResponse, *pb.SweepLookupsResponse:
		err := s.sendUntil(m)
		s.sent = s.sent || err == nil
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// sendUntil is SendMsg until the context ends: one whose peer does not read waits for it
// to read, and nothing more is received meanwhile.
func (s *boundStream) sendUntil(m any) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	sent := make(chan error, 1)
	go func() { sent <- s.ServerStream.SendMsg(m) }() // ends with the stream, which the handler's return ends
	select {
	case err := <-sent:
		return err
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// recheckEvery is how often the callers of streams are asked for again. It costs some
// ten nanoseconds for each, unless the access table has changed.
const recheckEvery = time.Second

// watching is the streams that last. Safe for concurrent use.
type watching struct {
	mu      sync.Mutex // guards streams
	streams map[*watchedStream]bool
}

// watchedStream is a stream whose caller must still be allowed to have it.
type watchedStream struct {
	stream *boundStream
	check  func(*access.Decision) error
	end    context.CancelCauseFunc
	// table is the one that was asked last; it belongs to the goroutine of recheck.
	table *access.Table
}

func (w *watching) add(s *watchedStream) (remove func()) {
	s.table = s.stream.call.visit.caller.Table()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams[s] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.streams, s)
	}
}

func (w *watching) all() []*watchedStream {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*watchedStream, 0, len(w.streams))
	for s := range w.streams {
		list = append(list, s)
	}
	return list
}

// recheck ends the streams whose callers may not have them any more, until ctx ends.
func (b *border) recheck(ctx context.Context) {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			streams := b.watching.all() // before the table: none of them was let in by a later one
			table := b.table()
			for _, s := range streams {
				if err := b.still(s, now, table); err != nil {
					s.end(err)
				}
			}
		}
	}
}

// still returns why a stream's caller may not have it any more. It reads of the visit
// what does not change after the stream has begun.
func (b *border) still(s *watchedStream, now time.Time, table *access.Table) error {
	v := &s.stream.call.visit
	if _, _, err := connectionOf(s.stream.ctx, now); err != nil && !showsNothing(err) {
		return &broker.Error{Reason: broker.ReasonCallerUnauthenticated, Op: "identify the caller", Err: err}
	}
	if v.bearer != nil && !b.bearer.Valid(v.bearer) {
		return &broker.Error{Reason: broker.ReasonCallerUnauthenticated, Op: "identify the caller", Err: errTokenOver}
	}
	if s.table == table {
		return nil
	}
	again := visit{peer: v.peer, labels: b.labels}
	again.caller, _ = v.peer.Caller(table)
	if err := again.authorize(s.stream.ctx, s.stream.call.method, s.stream.request); err != nil {
		return err
	}
	s.table = table
	return s.check(&again.decision)
}

// errTokenOver is for the log.
var errTokenOver = errors.New("the bearer token has expired, or the key that signed it was withdrawn")
