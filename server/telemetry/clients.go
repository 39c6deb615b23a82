package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/tokenbroker/broker"
)

// ObserveCensus adds gauges that ask census what the last visit of all clients found.
// All replicas say the same, since all read what the one that visits wrote.
func (m *Metrics) ObserveCensus(census func() broker.Census) {
	gauge := func(name, help string, value func(broker.Census) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(census()) }))
	}
	gauge("tokenbroker_clients", "Clients that are registered, deleted ones among them, as the last visit of all found.",
		func(c broker.Census) float64 { return float64(c.Clients) })
	gauge("tokenbroker_clients_unreadable", "Clients whose record cannot be read, as the last visit of all found.",
		func(c broker.Census) float64 { return float64(c.Unreadable) })
	gauge("tokenbroker_rotations_stuck", "Rotations that do not go on without a person, as the last visit of all clients found.",
		func(c broker.Census) float64 { return float64(c.Stuck) })
	gauge("tokenbroker_client_secret_expiry_seconds", "Seconds until the first current secret of any client expires, negative if it has; +Inf if none is declared to.",
		func(c broker.Census) float64 {
			if c.SecretExpiry.IsZero() {
				return infinity
			}
			return time.Until(c.SecretExpiry).Seconds()
		})
	gauge("tokenbroker_census_age_seconds", "Seconds since the last visit of all clients ended; +Inf if this replica knows of none.",
		func(c broker.Census) float64 {
			if c.Time.IsZero() {
				return infinity
			}
			return time.Since(c.Time).Seconds()
		})
	m.registry.MustRegister(&byLabel[broker.Reason]{
		prometheus.NewDesc("tokenbroker_clients_unwell", "Active clients that can get no token, by root cause, as the last visit of all found by looking down to the secret.", []string{"reason"}, nil),
		prometheus.GaugeValue,
		func() map[broker.Reason]float64 {
			// One is always there, so that a query can tell that nothing is unwell from a metric that is not.
			values := map[broker.Reason]float64{broker.ReasonSecretNotSet: 0}
			for reason, n := range census().Unwell {
				values[reason] = float64(n)
			}
			return values
		},
	})
	m.registry.MustRegister(&byLabel[broker.RotationState]{
		prometheus.NewDesc("tokenbroker_client_rotations", "Clients by the state of their last rotation, as the last visit of all found.", []string{"state"}, nil),
		prometheus.GaugeValue,
		func() map[broker.RotationState]float64 {
			values, found := map[broker.RotationState]float64{}, census().Rotations
			for _, state := range broker.RotationStates() {
				values[state] = float64(found[state])
			}
			return values
		},
	})
}

// ObserveRotations adds counters that ask how many rotations this process has ended, by
// state, and how many secret values it has destroyed that no record named.
func (m *Metrics) ObserveRotations(ended func() map[broker.RotationState]int64, swept func() int64) {
	m.registry.MustRegister(&byLabel[broker.RotationState]{
		prometheus.NewDesc("tokenbroker_rotations_ended_total", "Rotations that ended, or were left to a person, by the state in which they are.", []string{"state"}, nil),
		prometheus.CounterValue,
		func() map[broker.RotationState]float64 {
			values := map[broker.RotationState]float64{}
			for state, n := range ended() {
				values[state] = float64(n)
			}
			return values
		},
	}, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tokenbroker_secret_values_swept_total", Help: "Secret values destroyed that no record named.",
	}, func() float64 { return float64(swept()) }))
}

// byLabel is a metric whose values, by its one label, are asked for.
type byLabel[L ~string] struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func() map[L]float64
}

// Describe implements prometheus.Collector.
func (s *byLabel[L]) Describe(into chan<- *prometheus.Desc) { into <- s.desc }

// Collect implements prometheus.Collector.
func (s *byLabel[L]) Collect(into chan<- prometheus.Metric) {
	for label, value := range s.values() {
		into <- prometheus.MustNewConstMetric(s.desc, s.kind, value, string(label))
	}
}
