package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/tokenbroker/broker"
)

func newCallbacks() *prometheus.CounterVec {
	callbacks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_authorization_callbacks_total", Help: "Browsers that came back from consent, by reason; OK for a grant.",
	}, []string{"reason"})
	callbacks.WithLabelValues("OK")
	return callbacks
}

// CallbackAnswered counts a browser that came back from consent; "" is for a grant.
func (m *Metrics) CallbackAnswered(reason broker.Reason) {
	if m == nil {
		return
	}
	if reason == "" {
		reason = "OK"
	}
	m.callbacks.WithLabelValues(string(reason)).Inc()
}
