// Package server is the gRPC border: who calls, whether they may, what they sent,
// and what they are told. The work itself is package broker's.
//
// It guards these invariants: no method runs for a peer that the access table
// does not admit, no response or log line holds a request's message, and no error
// leaves with its cause. It holds no state but connections.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/answer"
	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/bearer"
	"github.com/tokenbroker/tokenbroker/server/identity"
	"github.com/tokenbroker/tokenbroker/server/telemetry"
)

// Limits bound what peers can make the server hold. Zero fields take the default.
type Limits struct {
	// MaxMessageBytes bounds a request message; default 2 MiB, so that a secret
	// that is too large gets a precise error instead of a broken call.
	MaxMessageBytes int `yaml:"max_message_bytes"`
	// MaxDeadline caps the deadline of calls; default 60 s.
	MaxDeadline time.Duration `yaml:"max_deadline"`
	// MaxConcurrentRequests bounds the calls under way; default 8,192.
	MaxConcurrentRequests int `yaml:"max_concurrent_requests"`
	// MaxConcurrentRequestsPerCaller bounds those of one caller, so that no caller alone
	// can use up the server; default a quarter of MaxConcurrentRequests, but at least 1.
	MaxConcurrentRequestsPerCaller int `yaml:"max_concurrent_requests_per_caller"`
	// MaxWatches bounds the streams of WatchToken; default 16,384. MaxWatchesPerCaller
	// bounds those of one caller; default a quarter, but at least 1.
	MaxWatches          int `yaml:"max_watches"`
	MaxWatchesPerCaller int `yaml:"max_watches_per_caller"`
	// MaxConcurrentStreams bounds the calls under way on one connection; default 1,024.
	MaxConcurrentStreams int `yaml:"max_concurrent_streams"`
	// MaxConnections bounds the open connections; default 10,000.
	MaxConnections int `yaml:"max_connections"`
	// MaxConnectionsPerPeer bounds those from one IP address or user; default 1,000.
	MaxConnectionsPerPeer int `yaml:"max_connections_per_peer"`
	// ShutdownDelay is how long calls are still taken after a stop, while health says
	// NOT_SERVING: for load balancers that go on sending callers for a while; default 0.
	ShutdownDelay time.Duration `yaml:"shutdown_delay"`
	// ShutdownGrace is how long calls under way may take after that, and what was begun at
	// authorization servers and providers, which has 5 s at least; default 20 s.
	ShutdownGrace time.Duration `yaml:"shutdown_grace"`
}

func (l *Limits) setDefaults() {
	for field, value := range map[*int]int{
		&l.MaxMessageBytes: 2 << 20, &l.MaxConcurrentRequests: 8192, &l.MaxConcurrentStreams: 1024,
		&l.MaxConnections: 10_000, &l.MaxConnectionsPerPeer: 1000, &l.MaxWatches: 16384,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	if l.MaxConcurrentRequestsPerCaller <= 0 {
		l.MaxConcurrentRequestsPerCaller = max(1, l.MaxConcurrentRequests/4)
	}
	if l.MaxWatchesPerCaller <= 0 {
		l.MaxWatchesPerCaller = max(1, l.MaxWatches/4)
	}
	for field, value := range map[*time.Duration]time.Duration{&l.MaxDeadline: time.Minute, &l.ShutdownGrace: 20 * time.Second} {
		if *field <= 0 {
			*field = value
		}
	}
}

// Config is what a [Server] is made of. Broker is required, and so is one of TLS,
// Plaintext and UNIX.
type Config struct {
	// Broker does the work. The caller closes it after Serve has returned.
	Broker *broker.Broker
	// TLS names the files of TCP listeners; nil with Plaintext, or if there are none.
	TLS *TLSFiles
	// Plaintext serves TCP without TLS. Serve then refuses any listener that is not on loopback.
	Plaintext bool
	// UNIX says that a UNIX socket ([identity.ListenUnix]) is served, be it beside TCP.
	UNIX bool
	// Callers says who may do what, the simple way: roles for all clients. With
	// neither Callers nor Access nobody may do anything.
	Callers []Caller
	// Access, if not nil, is the access table instead of Callers. Whoever made it runs it.
	Access *access.Reloader
	Limits Limits
	// Version is what callers are told of the release; "" tells nothing.
	Version string
	// Bearer verifies the tokens that callers show in the authorization metadata; nil
	// looks at none. Whoever made it runs it.
	Bearer *bearer.Verifier
	// Audit takes an entry for each decision before anything is revealed; nil writes
	// none. The caller runs it, until after Serve has returned.
	Audit *audit.Log
	// Metrics counts calls and tokens; nil counts nothing.
	Metrics *telemetry.Metrics
	// Tracing makes spans of calls; nil makes none. Whoever made it closes it, after Serve.
	Tracing *telemetry.Tracing
	// Logger gets one line per call, successful GetToken calls excepted; nil discards.
	Logger *slog.Logger
}

// Server serves the API. It is made once and served once.
type Server struct {
	broker      *broker.Broker
	grpc        *grpc.Server
	health      *health.Server
	log         *slog.Logger
	identities  *identity.Credentials
	connections *identity.Connections
	border      *border
	// delay and grace are the Limits' of a stop.
	delay, grace time.Duration
	// endStreams ends health watches, which would outlast a graceful stop.
	endStreams context.CancelFunc
	// ready says that the store was read, stopping that this server is about to go.
	ready, stopping atomic.Bool
}

// New returns a server, or what is wrong with its configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Broker == nil {
		return nil, errors.New("server: Broker is required")
	}
	if cfg.TLS != nil && cfg.Plaintext || cfg.TLS == nil && !cfg.Plaintext && !cfg.UNIX {
		return nil, errors.New("server: either TLS or Plaintext is required, not both, or UNIX")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Limits.setDefaults()
	creds, err := cfg.credentials()
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	table, err := cfg.table()
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	stopping, endStreams := context.WithCancel(context.Background())
	s := &Server{
		broker: cfg.Broker, health: health.NewServer(), log: cfg.Logger,
		identities: creds, delay: cfg.Limits.ShutdownDelay, grace: cfg.Limits.ShutdownGrace, endStreams: endStreams,
		connections: &identity.Connections{
			Max: cfg.Limits.MaxConnections, MaxPerPeer: cfg.Limits.MaxConnectionsPerPeer,
			UserTimeout: keepaliveTimeout, Refused: cfg.Metrics.ConnectionRefused,
		},
	}
	border := &border{
		failures: newFailures(),
		log:      cfg.Logger, metrics: cfg.Metrics, maxDeadline: cfg.Limits.MaxDeadline,
		calls: &pool{
			most: int64(cfg.Limits.MaxConcurrentRequests), perCaller: cfg.Limits.MaxConcurrentRequestsPerCaller,
			what: "limits.max_concurrent_requests_per_caller",
		},
		watches:   &pool{most: int64(cfg.Limits.MaxWatches), perCaller: cfg.Limits.MaxWatchesPerCaller, what: "limits.max_watches_per_caller"},
		anonymous: &pool{most: int64(cfg.Limits.MaxConcurrentRequests)},
		watching:  watching{streams: map[*watchedStream]bool{}}, stopping: stopping,
		strangers: rate.NewLimiter(strangersPerSecond, strangersBurst),
		table:     table, labels: cfg.Broker.Labels, used: cfg.Broker.NoteUse, audit: cfg.Audit, bearer: cfg.Bearer,
		recovered: recovery.UnaryServerInterceptor(onPanic(cfg.Logger)),
	}
	s.border = border
	s.grpc = grpc.NewServer(append(append(options(border, cfg.Limits, cfg.Logger), grpc.Creds(creds)), cfg.Tracing.ServerOptions(traced)...)...)
	pb.RegisterTokenServiceServer(s.grpc, &tokenService{broker: cfg.Broker, metrics: cfg.Metrics})
	pb.RegisterClientServiceServer(s.grpc, &clientService{broker: cfg.Broker})
	pb.RegisterRotationServiceServer(s.grpc, &rotationService{broker: cfg.Broker})
	pb.RegisterAuthorizationServiceServer(s.grpc, &authorizationService{broker: cfg.Broker})
	pb.RegisterDiagnosticsServiceServer(s.grpc, &diagnosticsService{broker: cfg.Broker, failures: s.border.failures})
	pb.RegisterAccessServiceServer(s.grpc, accessService{version: cfg.Version})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.setServing(healthpb.HealthCheckResponse_NOT_SERVING)
	return s, nil
}

// table returns what to ask for the access table in force. An identity in the list
// that can never come up is a mistake.
func (cfg *Config) table() (func() *access.Table, error) {
	if cfg.Access != nil {
		if len(cfg.Callers) > 0 {
			return nil, errors.New("either Callers or Access is required, not both")
		}
		return cfg.Access.Table, nil
	}
	table, err := Callers(cfg.Callers)
	if err != nil {
		return nil, err
	}
	for _, listed := range table.Identities() {
		if err := cfg.presents(listed); err != nil {
			return nil, err
		}
	}
	return func() *access.Table { return table }, nil
}

// onPanic makes an error of a handler's panic.
func onPanic(log *slog.Logger) recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(ctx context.Context, cause any) error {
		// The value may hold anything, so only a runtime error's text is logged.
		text := fmt.Sprintf("panic of type %T", cause)
		if e, ok := cause.(runtime.Error); ok {
			text = e.Error()
		}
		method, _ := grpc.Method(ctx)
		log.ErrorContext(ctx, "handler panicked", "method", method, "cause", text, "stack", string(debug.Stack()))
		return &broker.Error{Reason: broker.ReasonInternal, Op: "handle request", Err: errors.New(text)}
	})
}

func options(border *border, limits Limits, log *slog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(border.unary),
		grpc.ChainStreamInterceptor(border.stream, recovery.StreamServerInterceptor(onPanic(log))),
		grpc.ForceServerCodecV2(answer.Codec{CodecV2: encoding.GetCodecV2(protocodec.Name)}),
		grpc.MaxRecvMsgSize(limits.MaxMessageBytes),
		// What a peer that never reads makes us hold: a stream counts until its answer is
		// written, so at most this many answers, of some 64 KiB, for a connection.
		grpc.MaxConcurrentStreams(uint32(limits.MaxConcurrentStreams)),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		// Workers that live on keep their grown stacks; without them each call grows a
		// new one through the handler's depth (docs/performance.md).
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// gRPC spreads it by up to a tenth either way, for each connection, so that a
			// fleet that came at once does not come back at once.
			MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: time.Minute,
			Time: time.Minute, Timeout: keepaliveTimeout,
		}),
	}
}

// keepaliveTimeout is how long a peer may leave pings, or data, unacknowledged.
const keepaliveTimeout = 20 * time.Second

// streamWorkers is as many calls as are usually under way at once.
const streamWorkers = 64

func (s *Server) setServing(serving healthpb.HealthCheckResponse_ServingStatus) {
	for _, service := range services() {
		s.health.SetServingStatus(service, serving)
	}
}

// services lists the names of the services whose health depends on the store. The
// empty name, liveness, does not: an outage of the store must not restart a fleet
// and empty its caches.
func services() []string {
	return []string{
		pb.TokenService_ServiceDesc.ServiceName, pb.ClientService_ServiceDesc.ServiceName,
		pb.RotationService_ServiceDesc.ServiceName, pb.DiagnosticsService_ServiceDesc.ServiceName,
		pb.AuthorizationService_ServiceDesc.ServiceName,
	}
}

// Serve serves on the listeners, which it closes, until ctx ends; then it says so to
// health checks, takes calls for ShutdownDelay more, lets those under way finish for the
// grace period, drains the Broker, and returns.
// Health is NOT_SERVING until the store was read once. If one listener fails, all end.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	defer s.grpc.Stop() // does nothing after a graceful stop
	defer s.endStreams()
	if err := s.mayServe(listeners); err != nil {
		for _, listener := range listeners {
			err = errors.Join(err, listener.Close())
		}
		return err
	}
	var owned sync.WaitGroup
	watching, stopWatching := context.WithCancel(ctx)
	owned.Go(func() { s.watchStore(watching) })
	// Files count until the last call has been answered.
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	if s.identities.TLS != nil {
		owned.Go(func() { _ = s.identities.TLS.Run(looking) }) // ends with looking, in no other way
	}
	owned.Go(func() { s.border.recheck(looking) })
	served := make(chan error, len(listeners))
	for _, listener := range listeners {
		owned.Go(func() { served <- s.grpc.Serve(s.connections.Listen(listener)) })
	}
	defer owned.Wait()
	defer stopLooking()
	defer stopWatching()
	select {
	case err := <-served:
		s.Close() // and with it the other listeners
		s.drain(time.Now())
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.shutdown()
	for range listeners {
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve: %w", err)
		}
	}
	return nil
}

// Close stops what New started, for a server that will not be served; after Serve
// has returned it does nothing.
func (s *Server) Close() {
	s.endStreams()
	s.grpc.Stop()
}

const (
	// tellWatchers is how long watches of health have to send that it is over.
	tellWatchers = 100 * time.Millisecond
	// leastDrain is how long what was begun at authorization servers and providers may
	// take when calls have used up the grace.
	leastDrain = 5 * time.Second
)

// shutdown stops in the order health, new calls, watches of health, calls under way, and
// what they and nobody in particular have begun elsewhere.
func (s *Server) shutdown() {
	s.stopping.Store(true)
	s.health.Shutdown()
	s.log.Info("stopping", "delay", s.delay, "grace", s.grace)
	time.Sleep(s.delay)
	latest := time.Now().Add(s.grace)
	end := time.AfterFunc(tellWatchers, s.endStreams)
	defer end.Stop()
	kill := time.AfterFunc(s.grace, s.grpc.Stop)
	defer kill.Stop()
	s.grpc.GracefulStop()
	s.drain(latest)
}

// drain has the Broker end what it has begun, until latest but for leastDrain at least.
func (s *Server) drain(latest time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), max(time.Until(latest), leastDrain))
	defer cancel()
	if !s.broker.Drain(ctx) {
		s.log.Warn("requests to authorization servers or providers are broken off", "grace", s.grace)
	}
}
