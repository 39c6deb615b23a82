package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/tokenbroker/server/notify"
)

// webhooks asks for the counts of webhooks when they are wanted. Its labels are names of
// the configuration.
type webhooks struct {
	status               func() []notify.Status
	deliveries, queueing *prometheus.Desc
}

// ObserveWebhooks adds metrics that ask status how the webhooks fare.
func (m *Metrics) ObserveWebhooks(status func() []notify.Status) {
	m.registry.MustRegister(&webhooks{
		status: status,
		deliveries: prometheus.NewDesc("tokenbroker_webhook_deliveries_total",
			"Tries to tell a webhook of an event, by outcome: delivered, failed, given_up; and dropped for events that there was no room or time for.",
			[]string{"webhook", "outcome"}, nil),
		queueing: prometheus.NewDesc("tokenbroker_webhook_queue_length", "Events that wait for a webhook.", []string{"webhook"}, nil),
	})
}

// Describe implements prometheus.Collector.
func (w *webhooks) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- w.deliveries
	descriptions <- w.queueing
}

// Collect implements prometheus.Collector.
func (w *webhooks) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range w.status() {
		for _, outcome := range notify.Outcomes() {
			metrics <- prometheus.MustNewConstMetric(w.deliveries, prometheus.CounterValue, float64(s.Counts[outcome]), s.Webhook, string(outcome))
		}
		metrics <- prometheus.MustNewConstMetric(w.queueing, prometheus.GaugeValue, float64(s.Queued), s.Webhook)
	}
}
