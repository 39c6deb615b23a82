package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// VaultLogin counts an attempt to log in to Vault. method must be one of the keys
// of the configuration that name a way to log in.
func (m *Metrics) VaultLogin(method string, err error) {
	m.vaultLogins.WithLabelValues(method, outcome(err)).Inc()
}

// ObserveVaultTokenExpiry adds a gauge that asks expiry when the token in use at
// Vault ends, zero time if never, and whether the broker sees to that by itself.
func (m *Metrics) ObserveVaultTokenExpiry(expiry func() (end time.Time, byItself bool)) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tokenbroker_vault_token_expiry_seconds",
		Help: "Seconds until somebody must have put another Vault token into the token file, negative if that is overdue; +Inf if nobody must.",
	}, func() float64 {
		end, byItself := expiry()
		if end.IsZero() || byItself {
			return infinity
		}
		return time.Until(end).Seconds()
	}))
}
