// Package telemetry counts and times what the broker does, and serves that to
// operators on a listener of its own.
//
// Label sets are closed: methods, codes, reasons and operations come from tables,
// never from a request. No metric names a client, a caller, a scope or a secret.
package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/server/audit"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

// Metrics holds all metrics of one process. It is safe for concurrent use. What counts
// does nothing on a nil *Metrics.
type Metrics struct {
	registry *prometheus.Registry

	rpcs           *prometheus.CounterVec
	rpcSeconds     *prometheus.HistogramVec
	served         map[ServedFrom]prometheus.Counter
	upstream       *prometheus.CounterVec
	upstreamTime   prometheus.Histogram
	store          *prometheus.CounterVec
	storeSeconds   *prometheus.HistogramVec
	reloads        *prometheus.GaugeVec
	audited        map[audit.Outcome]prometheus.Counter
	refused        map[identity.Bound]prometheus.Counter
	jwks           *prometheus.CounterVec
	callbacks      *prometheus.CounterVec
	vaultLogins    *prometheus.CounterVec
	warmRPC        prometheus.Counter  // resolved beforehand: a label lookup costs more than the count
	warmRPCSeconds prometheus.Observer // the same for the time
}

// ServedFrom says where a token that is handed out came from.
type ServedFrom string

// The places.
const (
	// ServedFromMemory: it was there before the call.
	ServedFromMemory ServedFrom = "memory"
	// ServedFromMint: it was requested during the call, for it or for another one.
	ServedFromMint ServedFrom = "mint"
)

// WarmMethod is the method whose successes are counted without a look-up.
const WarmMethod = "/tokenbroker.v1.TokenService/GetToken"

// latencyBuckets reach from a warm token, some ten microseconds, to a mint that
// waits for a slow authorization server.
var latencyBuckets = []float64{.00005, .0001, .00025, .001, .0025, .01, .025, .1, .25, 1, 2.5, 10, 30}

// New returns metrics of a registry of their own. version stands in
// tokenbroker_build_info.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpcs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_rpcs_total", Help: "Calls that were answered, by method, gRPC code and reason.",
		}, []string{"method", "code", "reason"}),
		rpcSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tokenbroker_rpc_duration_seconds", Help: "How long calls took, by method.", Buckets: latencyBuckets,
		}, []string{"method"}),
		upstream: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_token_requests_total", Help: "Requests to authorization servers, by reason; OK for a token.",
		}, []string{"reason"}),
		upstreamTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tokenbroker_token_request_duration_seconds", Help: "How long authorization servers took.", Buckets: latencyBuckets,
		}),
		store: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_store_calls_total", Help: "Calls to the store, by operation and reason; OK for success.",
		}, []string{"operation", "reason"}),
		storeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tokenbroker_store_call_duration_seconds", Help: "How long the store took, by operation.", Buckets: latencyBuckets,
		}, []string{"operation"}),
		vaultLogins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_vault_logins_total", Help: "Attempts to log in to Vault, by method and reason; OK for success.",
		}, []string{"method", "outcome"}),
	}
	m.reloads = newReloads()
	m.jwks, m.callbacks = newJWKS(), newCallbacks()
	served := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_tokens_served_total", Help: "Tokens handed out, by where they came from: memory, or a mint.",
	}, []string{"from"})
	m.served = map[ServedFrom]prometheus.Counter{}
	for _, from := range []ServedFrom{ServedFromMemory, ServedFromMint} {
		m.served[from] = served.WithLabelValues(string(from))
	}
	audited := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_audit_entries_total", Help: "Entries written to the audit log, by outcome.",
	}, []string{"outcome"})
	m.audited = map[audit.Outcome]prometheus.Counter{}
	for _, outcome := range audit.Outcomes() {
		m.audited[outcome] = audited.WithLabelValues(string(outcome))
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_connections_refused_total", Help: "Connections that were closed at accept, by the bound that they would have exceeded.",
	}, []string{"bound"})
	m.refused = map[identity.Bound]prometheus.Counter{}
	for _, bound := range identity.Bounds() {
		m.refused[bound] = refused.WithLabelValues(string(bound))
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tokenbroker_build_info", Help: "Always 1; the label says which release runs.",
	}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.warmRPC = m.rpcs.WithLabelValues(WarmMethod, "OK", "")
	m.warmRPCSeconds = m.rpcSeconds.WithLabelValues(WarmMethod)
	m.registry.MustRegister(m.rpcs, m.rpcSeconds, served, audited, refused, m.upstream, m.upstreamTime, m.store, m.storeSeconds, m.reloads, m.jwks, m.callbacks, m.vaultLogins, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// RPC counts one answered call. method must be one that the server registered.
func (m *Metrics) RPC(method, code, reason string, took time.Duration) {
	if m == nil {
		return
	}
	if method == WarmMethod && code == "OK" {
		m.warmRPC.Inc()
		m.warmRPCSeconds.Observe(took.Seconds())
		return
	}
	m.rpcs.WithLabelValues(method, code, reason).Inc()
	m.rpcSeconds.WithLabelValues(method).Observe(took.Seconds())
}

// TokenServed counts a token that was handed out.
func (m *Metrics) TokenServed(from ServedFrom) {
	if m != nil {
		m.served[from].Inc()
	}
}

// AuditEntry counts an entry of the audit log.
func (m *Metrics) AuditEntry(outcome audit.Outcome) {
	if m != nil {
		m.audited[outcome].Inc()
	}
}

// ObserveAudit adds gauges that ask status how the audit log fares.
func (m *Metrics) ObserveAudit(status func() audit.Status) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tokenbroker_audit_lag_seconds", Help: "Age of the oldest audit entry that would not survive a loss of power.",
	}, func() float64 { return status().Lag.Seconds() }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tokenbroker_audit_sinks_failing", Help: "Sinks of the audit log that do not work.",
	}, func() float64 {
		failing := 0
		for _, is := range status().Failing {
			if is {
				failing++
			}
		}
		return float64(failing)
	}))
}

// ConnectionRefused counts a connection that was closed at accept.
func (m *Metrics) ConnectionRefused(bound identity.Bound) {
	if m != nil {
		m.refused[bound].Inc()
	}
}

// RequestToken returns request with its outcomes counted and timed.
func (m *Metrics) RequestToken(request broker.RequestToken) broker.RequestToken {
	return func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
		started := time.Now()
		answer, err := request(ctx, req)
		m.upstream.WithLabelValues(outcome(err)).Inc()
		m.upstreamTime.Observe(time.Since(started).Seconds())
		return answer, err
	}
}

// ObserveSecretExpiry adds a gauge that asks expiry for the soonest declared expiry
// of a current secret among the clients in memory; zero time means none.
func (m *Metrics) ObserveSecretExpiry(expiry func() time.Time) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tokenbroker_secret_expiry_seconds",
		Help: "Seconds until the first current secret of a client in memory expires, negative if it has; +Inf if none is declared to.",
	}, func() float64 {
		soonest := expiry()
		if soonest.IsZero() {
			return infinity
		}
		return time.Until(soonest).Seconds()
	}))
}

func outcome(err error) string {
	if err == nil {
		return "OK"
	}
	return string(broker.ReasonOf(err))
}

// Store returns store with its calls counted and timed.
func (m *Metrics) Store(store broker.Store) broker.Store { return &observedStore{store, m} }

type observedStore struct {
	broker.Store
	metrics *Metrics
}

func (s *observedStore) observe(operation string, started time.Time, err error) {
	s.metrics.store.WithLabelValues(operation, outcome(err)).Inc()
	s.metrics.storeSeconds.WithLabelValues(operation).Observe(time.Since(started).Seconds())
}

// Read implements broker.Store.
func (s *observedStore) Read(ctx context.Context, key string) (broker.Record, error) {
	started := time.Now()
	record, err := s.Store.Read(ctx, key)
	s.observe("read", started, err)
	return record, err
}

// ReadLatest implements broker.Store.
func (s *observedStore) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	started := time.Now()
	record, err := s.Store.ReadLatest(ctx, key)
	s.observe("read", started, err)
	return record, err
}

// Write implements broker.Store.
func (s *observedStore) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	started := time.Now()
	written, err := s.Store.Write(ctx, key, data, version)
	s.observe("write", started, err)
	return written, err
}

// Destroy implements broker.Store.
func (s *observedStore) Destroy(ctx context.Context, key string) error {
	started := time.Now()
	err := s.Store.Destroy(ctx, key)
	s.observe("destroy", started, err)
	return err
}

// List implements broker.Store.
func (s *observedStore) List(ctx context.Context, prefix string) ([]string, error) {
	started := time.Now()
	names, err := s.Store.List(ctx, prefix)
	s.observe("list", started, err)
	return names, err
}
