package telemetry

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
)

// Bounds on what the collector can cost us.
const (
	// exportTimeout bounds one export.
	exportTimeout = 5 * time.Second
	// flushTimeout bounds the last export, at the end of the process.
	flushTimeout = 3 * time.Second
)

// TracingConfig says where traces go and how many.
type TracingConfig struct {
	// Endpoint of the collector, OTLP over gRPC: https://HOST:PORT, or, with
	// InsecureLoopback, http:// and a loopback address. Required.
	Endpoint string
	// InsecureLoopback permits a collector on loopback without TLS.
	InsecureLoopback bool
	// RootCAs verify the collector; nil means the system's.
	RootCAs *x509.CertPool
	// SampleRatio of the calls whose caller sent no trace context are traced, 0 to 1.
	SampleRatio float64
	// MaxTracesPerSecond bounds all traces, those that callers ask for included. Required.
	MaxTracesPerSecond float64
	// Version stands in the resource as service.version.
	Version string
	// Logger is told when exports fail; nil discards.
	Logger *slog.Logger
}

// Validate returns what is wrong, joined; each error begins with the key of the
// configuration file, without its section.
func (c *TracingConfig) Validate() error {
	var errs []error
	if _, _, err := c.target(); err != nil {
		errs = append(errs, fmt.Errorf("otlp_endpoint: %w", err))
	}
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) { // also not a number
		errs = append(errs, fmt.Errorf("sample_ratio: is %v; it must be between 0 and 1", c.SampleRatio))
	}
	if most := 10_000.0; !(c.MaxTracesPerSecond > 0 && c.MaxTracesPerSecond <= most) {
		errs = append(errs, fmt.Errorf("max_traces_per_second: is %v; it must be above 0 and at most %v", c.MaxTracesPerSecond, most))
	}
	return errors.Join(errs...)
}

// target returns host:port and whether TLS is spoken there.
func (c *TracingConfig) target() (address string, secure bool, err error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Port() == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return "", false, errors.New("must be https://HOST:PORT and nothing else") // without its text, which may hold a password
	}
	switch u.Scheme {
	case "https":
		return u.Host, true, nil
	case "http":
		if !c.InsecureLoopback || !isLoopbackHost(u.Hostname()) {
			return "", false, errors.New("plain http needs insecure_loopback and an address on loopback")
		}
		return u.Host, false, nil
	}
	return "", false, errors.New("must begin with https://")
}

func isLoopbackHost(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.Unmap().IsLoopback()
}

// LoopbackAddress reports whether address, a host:port to listen on, can be
// reached from this machine only.
func LoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopbackHost(host)
}

// Tracing makes spans of calls, token requests and store calls, and sends some to a
// collector. Nothing of a span comes from a request: names are those of methods and
// operations, attributes are those of [openAttributes], and there are no events and
// no texts of errors. Exports never hold a call up: what the collector does not take
// in time is dropped. A nil *Tracing does nothing. It is safe for concurrent use.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	conn     *grpc.ClientConn
}

// NewTracing returns tracing towards a collector, which need not be there yet. The
// caller calls Close.
func NewTracing(cfg TracingConfig) (*Tracing, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	address, secure, _ := cfg.target() // validated
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewClientTLSFromCert(cfg.RootCAs, "")
	}
	// A connection of our own, so that no OTEL_EXPORTER_ variable changes where spans
	// go or takes TLS away; and none through a proxy, which is for token endpoints.
	conn, err := grpc.NewClient("dns:///"+address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	// No retries: spans are worth less than the memory that an outage would fill.
	client, err := otlptracegrpc.New(context.Background(), otlptracegrpc.WithGRPCConn(conn), otlptracegrpc.WithHeaders(nil),
		otlptracegrpc.WithTimeout(exportTimeout), otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tracing: %w", err), conn.Close())
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(newSampler(cfg.SampleRatio, cfg.MaxTracesPerSecond)),
		sdktrace.WithResource(ourResource(cfg.Version)),
		sdktrace.WithBatcher(&exporter{SpanExporter: client, log: cfg.Logger}, sdktrace.WithExportTimeout(exportTimeout)),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("tokenbroker"), conn: conn}, nil
}

func ourResource(version string) *resource.Resource {
	attributes := []attribute.KeyValue{attribute.String("service.name", "tokenbroker"), attribute.String("service.version", version)}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, attribute.String("host.name", host))
	}
	return resource.NewSchemaless(attributes...)
}

// Close sends what is left, for at most some seconds, and ends. Spans that end
// later are dropped.
func (t *Tracing) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // the collector is away; what is lost was logged or is the last batch
	}
	return errors.Join(err, t.conn.Close())
}

// ServerOptions returns what makes a server trace its calls: nothing if t is nil,
// because even calls that are not sampled cost half as much again then. traced says
// which methods are; it must be false for whatever the server did not register, or
// names of spans would come from peers.
func (t *Tracing) ServerOptions(traced func(method string) bool) []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithMeterProvider(noopmetric.NewMeterProvider()),
		otelgrpc.WithPropagators(traceparent{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return traced(info.FullMethodName) }),
	))}
}
