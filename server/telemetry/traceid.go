package telemetry

import (
	"context"
	"encoding/hex"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// traceparentHeader is where a caller says what its call belongs to (W3C Trace
// Context, Level 2, §3.2).
const traceparentHeader = "traceparent"

// TraceID returns the id of the trace that a call belongs to, 32 lower-case hex
// digits: that of the span that is exported, else the one that the caller sent, for
// which tracing need not be on; "" if there is neither. It does not allocate where
// the caller sent none.
func TraceID(ctx context.Context) string {
	if own := trace.SpanContextFromContext(ctx); own.IsSampled() {
		return own.TraceID().String()
	}
	values := metadata.ValueFromIncomingContext(ctx, traceparentHeader)
	if len(values) != 1 {
		return ""
	}
	parent, ok := parseTraceparent(values[0])
	if !ok {
		return ""
	}
	return parent.TraceID().String()
}

// parseTraceparent reads a traceparent header strictly: what is not sound to the
// letter is as if it was not sent. Of versions after 00 it reads what 00 has, as the
// standard demands.
func parseTraceparent(text string) (trace.SpanContext, bool) {
	const (
		length                           = len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		versionEnd, traceEnd, parentsEnd = 2, 35, 52
	)
	if len(text) < length || text[versionEnd] != '-' || text[traceEnd] != '-' || text[parentsEnd] != '-' {
		return trace.SpanContext{}, false
	}
	version := text[:versionEnd]
	if version == "00" && len(text) != length || len(text) > length && text[length] != '-' || version == "ff" {
		return trace.SpanContext{}, false
	}
	// The standard knows no upper-case digits, which package hex would take.
	if strings.ContainsFunc(text[:length], func(r rune) bool { return r >= 'A' && r <= 'Z' }) {
		return trace.SpanContext{}, false
	}
	var ignored, flags [1]byte
	var config trace.SpanContextConfig
	for _, part := range []struct {
		into []byte
		from string
	}{
		{ignored[:], version},
		{config.TraceID[:], text[versionEnd+1 : traceEnd]},
		{config.SpanID[:], text[traceEnd+1 : parentsEnd]},
		{flags[:], text[parentsEnd+1 : length]},
	} {
		if _, err := hex.Decode(part.into, []byte(part.from)); err != nil {
			return trace.SpanContext{}, false
		}
	}
	config.TraceFlags, config.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	parent := trace.NewSpanContext(config)
	return parent, parent.IsValid()
}

// traceparent takes the caller's trace context over: ids and whether it samples,
// never tracestate or baggage, which are free text that would end up in our spans.
type traceparent struct{}

// Extract implements propagation.TextMapPropagator.
func (traceparent) Extract(ctx context.Context, carrier propagation.TextMapCarrier) context.Context {
	parent, ok := parseTraceparent(carrier.Get(traceparentHeader))
	if !ok {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, parent)
}

// Inject implements propagation.TextMapPropagator. Nothing is sent on: neither the
// store nor an authorization server is to learn which calls belong together.
func (traceparent) Inject(context.Context, propagation.TextMapCarrier) {}

// Fields implements propagation.TextMapPropagator.
func (traceparent) Fields() []string { return []string{traceparentHeader} }
