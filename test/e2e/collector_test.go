package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collector keeps all spans that it is sent.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	address string

	mu       sync.Mutex // guards the rest
	received []byte
	spans    int
}

func newCollector(t testing.TB) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, server := &collector{address: listener.Addr().String()}, grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return c
}

// Export implements the OTLP trace service.
func (c *collector) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	encoded, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, encoded...)
	for _, ofResource := range req.GetResourceSpans() {
		for _, ofScope := range ofResource.GetScopeSpans() {
			c.spans += len(ofScope.GetSpans())
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// config is the configuration of a server that traces every call here.
func (c *collector) config() map[string]any {
	return map[string]any{"otlp_endpoint": "http://" + c.address, "insecure_loopback": true, "sample_ratio": 1, "max_traces_per_second": 10_000}
}

// all returns what was received once at least so many spans have come.
func (c *collector) all(t *testing.T, least int) []byte {
	t.Helper()
	const batch = 5 * time.Second // the SDK sends what there is that often
	eventually(t, 3*batch, "spans", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.spans < least {
			return fmt.Errorf("%d spans", c.spans)
		}
		return nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// adminAddress waits for the log line that says where the admin listener is.
func (p *process) adminAddress(t *testing.T) (address string) {
	t.Helper()
	eventually(t, startsWithin, "admin listener", func() error {
		for line := range strings.Lines(p.log.String()) {
			var entry struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving metrics" {
				address = entry.Address
				return nil
			}
		}
		return errors.New("no log line \"serving metrics\"")
	})
	return address
}

// page reads a page of the admin listener.
func (p *process) page(t *testing.T, path string) []byte {
	t.Helper()
	answer, err := http.Get("http://" + p.adminAddress(t) + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", path, answer.StatusCode, err)
	}
	return content
}
