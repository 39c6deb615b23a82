package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/status"
)

// Attributes of our own spans. Their values come from tables of the code, but for
// the host, which stands in a client's settings.
const (
	attributeOperation = attribute.Key("tokenbroker.operation")
	attributeRecord    = attribute.Key("tokenbroker.record")
	attributeReason    = attribute.Key("tokenbroker.reason")
	attributeGrant     = attribute.Key("tokenbroker.grant")
	attributeHost      = attribute.Key("tokenbroker.authorization_server")
)

// openAttributes are all that leave the process. What else an instrumentation sets,
// such as a peer's address, is left out at export.
var openAttributes = []attribute.Key{
	attributeOperation, attributeRecord, attributeReason, attributeGrant, attributeHost,
	"rpc.system", "rpc.system.name", "rpc.service", "rpc.method", "rpc.response.status_code", "rpc.grpc.status_code",
}

// openSpan is what the collector is shown of a span: no attribute that is not in the
// list, no event, no link, no text of an error.
type openSpan struct{ sdktrace.ReadOnlySpan }

// Attributes returns those that may leave.
func (s openSpan) Attributes() []attribute.KeyValue {
	return slices.DeleteFunc(slices.Clone(s.ReadOnlySpan.Attributes()), func(a attribute.KeyValue) bool {
		return !slices.Contains(openAttributes, a.Key)
	})
}

// Events returns none: an event holds the text of an error.
func (s openSpan) Events() []sdktrace.Event { return nil }

// Links returns none.
func (s openSpan) Links() []sdktrace.Link { return nil }

// Status returns the code without its text.
func (s openSpan) Status() sdktrace.Status {
	return sdktrace.Status{Code: s.ReadOnlySpan.Status().Code}
}

// complaintInterval is how often failing exports are logged at most.
const complaintInterval = time.Minute

// exporter shows the collector open spans, and logs instead of returning errors:
// those would go to the SDK's global handler, which prints them as they are.
type exporter struct {
	sdktrace.SpanExporter
	log *slog.Logger

	mu         sync.Mutex     // guards the rest
	complaints rate.Sometimes // set at the first failure
	lost       int            // spans since the last complaint
	failing    bool
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	open := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		open[i] = openSpan{span}
	}
	e.note(ctx, e.SpanExporter.ExportSpans(ctx, open), len(spans))
	return nil
}

// note logs the beginning and the end of an outage, and in between once in a while
// how much was lost. Of the error only the code is shown: its text is the collector's.
func (e *exporter) note(ctx context.Context, err error, spans int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		if e.failing {
			e.log.InfoContext(ctx, "traces are exported again", "spans_lost", e.lost)
		}
		e.failing, e.lost, e.complaints = false, 0, rate.Sometimes{}
		return
	}
	if !e.failing {
		e.complaints = rate.Sometimes{First: 1, Interval: complaintInterval}
	}
	e.failing, e.lost = true, e.lost+spans
	e.complaints.Do(func() {
		e.log.WarnContext(ctx, "traces cannot be exported; spans are dropped", "code", status.Code(err).String(), "spans_lost", e.lost)
		e.lost = 0
	})
}
