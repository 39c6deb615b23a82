package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// collector is an OTLP receiver on loopback.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	address string
	stop    func()

	mu      sync.Mutex // guards what follows
	refuse  error
	exports []*collectorpb.ExportTraceServiceRequest
	headers metadata.MD
}

func newCollector(t *testing.T, options ...grpc.ServerOption) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: listener.Addr().String()}
	server := grpc.NewServer(options...)
	collectorpb.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	c.stop = sync.OnceFunc(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("collector: %v", err)
		}
	})
	t.Cleanup(c.stop)
	return c
}

// Export implements the OTLP trace service.
func (c *collector) Export(ctx context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.exports = append(c.exports, req)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (c *collector) setRefuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = err
}

// span is one received span with its attributes as text.
type span struct {
	*tracepb.Span
	attributes map[string]string
}

func texts(attributes []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range attributes {
		m[a.GetKey()] = a.GetValue().GetStringValue()
		if m[a.GetKey()] == "" {
			m[a.GetKey()] = fmt.Sprint(a.GetValue())
		}
	}
	return m
}

// spans returns what was received, in the order of its ends.
func (c *collector) spans() (list []span, resource map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, export := range c.exports {
		for _, ofResource := range export.GetResourceSpans() {
			resource = texts(ofResource.GetResource().GetAttributes())
			for _, ofScope := range ofResource.GetScopeSpans() {
				for _, s := range ofScope.GetSpans() {
					list = append(list, span{s, texts(s.GetAttributes())})
				}
			}
		}
	}
	return list, resource
}

// wire returns everything that was received, as bytes and as text.
func (c *collector) wire(t *testing.T) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := fmt.Sprint(c.headers)
	for _, export := range c.exports {
		encoded, err := proto.Marshal(export)
		if err != nil {
			t.Fatal(err)
		}
		all += string(encoded) + export.String()
	}
	return all
}

// tracing returns tracing of everything towards c; the test may change the settings.
func (c *collector) tracing(t *testing.T, edit func(*telemetry.TracingConfig)) *telemetry.Tracing {
	t.Helper()
	cfg := telemetry.TracingConfig{
		Endpoint: "http://" + c.address, InsecureLoopback: true, SampleRatio: 1, MaxTracesPerSecond: 1000, Version: "v1",
	}
	if edit != nil {
		edit(&cfg)
	}
	tracing, err := telemetry.NewTracing(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracing.Close() })
	return tracing
}

// flush closes tracing, which sends what is left.
func flush(t *testing.T, tracing *telemetry.Tracing) {
	t.Helper()
	began := time.Now()
	if err := tracing.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
}
