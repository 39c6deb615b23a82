package telemetry

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// jwksStatuses are what a request for public keys is answered with. The set is closed.
var jwksStatuses = []int{http.StatusOK, http.StatusNotModified, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusServiceUnavailable}

func newJWKS() *prometheus.CounterVec {
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tokenbroker_jwks_requests_total", Help: "Requests for public keys of clients, by HTTP status.",
	}, []string{"status"})
	for _, status := range jwksStatuses {
		answers.WithLabelValues(strconv.Itoa(status))
	}
	return answers
}

// JWKSAnswered counts a request for the public keys of a client. status must be one
// that package jwks answers with.
func (m *Metrics) JWKSAnswered(status int) {
	if m != nil {
		m.jwks.WithLabelValues(strconv.Itoa(status)).Inc()
	}
}
