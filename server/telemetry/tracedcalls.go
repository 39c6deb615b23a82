package telemetry

import (
	"context"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// NoteReason puts the reason of a failure on the span of the call that ctx belongs
// to; it does nothing for a call that is not traced.
func NoteReason(ctx context.Context, reason broker.Reason) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attributeReason.String(string(reason)))
	}
}

// end ends a span with its outcome, of which a reason is all that is shown.
func end(span trace.Span, err error) {
	span.SetAttributes(attributeReason.String(outcome(err)))
	if err != nil {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// CarryTrace returns to within the trace of from. It is what a broker needs for the
// work that calls share.
func (t *Tracing) CarryTrace(from, to context.Context) context.Context {
	if t == nil {
		return to
	}
	return trace.ContextWithSpan(to, trace.SpanFromContext(from))
}

// RequestToken returns request with a span around each call. One that no call waits
// for, such as a refresh in the background, may be a trace of its own.
func (t *Tracing) RequestToken(request broker.RequestToken) broker.RequestToken {
	if t == nil {
		return request
	}
	return func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
		ctx, span := t.tracer.Start(ctx, "token request", trace.WithSpanKind(trace.SpanKindClient))
		if !span.IsRecording() {
			return request(ctx, req)
		}
		span.SetAttributes(attributeOperation.String("request_token"), attributeGrant.String("client_credentials"), attributeHost.String(hostOf(req.Endpoint)))
		answer, err := request(ctx, req)
		end(span, err)
		return answer, err
	}
}

// hostOf returns the host of a token endpoint, without what may be said in a path, a
// query or before an "@".
func hostOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Store returns store with a span around each call that is part of a trace. The
// broker's own rounds begin none.
func (t *Tracing) Store(store broker.Store) broker.Store {
	if t == nil {
		return store
	}
	return &tracedStore{store, t.tracer}
}

type tracedStore struct {
	broker.Store
	tracer trace.Tracer
}

func (s *tracedStore) start(ctx context.Context, operation, key string) (context.Context, func(error)) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := s.tracer.Start(ctx, "store "+operation, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attributeOperation.String(operation), attributeRecord.String(recordOf(key))))
	return ctx, func(err error) { end(span, err) }
}

// recordOf returns what kind of record a key is of: its first segment, which is the
// broker's own word. The rest names a client.
func recordOf(key string) string {
	kind, _, _ := strings.Cut(key, "/")
	return kind
}

// Read implements broker.Store.
func (s *tracedStore) Read(ctx context.Context, key string) (broker.Record, error) {
	ctx, finish := s.start(ctx, "read", key)
	record, err := s.Store.Read(ctx, key)
	finish(err)
	return record, err
}

// ReadLatest implements broker.Store.
func (s *tracedStore) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	ctx, finish := s.start(ctx, "read", key)
	record, err := s.Store.ReadLatest(ctx, key)
	finish(err)
	return record, err
}

// Write implements broker.Store.
func (s *tracedStore) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	ctx, finish := s.start(ctx, "write", key)
	written, err := s.Store.Write(ctx, key, data, version)
	finish(err)
	return written, err
}

// Destroy implements broker.Store.
func (s *tracedStore) Destroy(ctx context.Context, key string) error {
	ctx, finish := s.start(ctx, "destroy", key)
	err := s.Store.Destroy(ctx, key)
	finish(err)
	return err
}

// List implements broker.Store.
func (s *tracedStore) List(ctx context.Context, prefix string) ([]string, error) {
	ctx, finish := s.start(ctx, "list", prefix)
	names, err := s.Store.List(ctx, prefix)
	finish(err)
	return names, err
}
