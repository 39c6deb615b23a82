package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Reloaded is something that is read again while the process runs.
type Reloaded string

// What is read again.
const (
	// AccessTable is the file of access.file.
	AccessTable Reloaded = "access_table"
	// TLSFiles are certificate, key, authorities and revocation lists of listen.
	TLSFiles Reloaded = "tls_files"
	// RevocationLists are those in force; they fail once they were to be replaced.
	RevocationLists Reloaded = "revocation_lists"
)

func newReloads() *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tokenbroker_reload_failing", Help: "1 while a changed file is not taken and the last good one stays in force, else 0.",
	}, []string{"what"})
}

// ReloadFailing says whether what is in its file could not be taken; call it with
// false once, or nothing shows before the first failure.
func (m *Metrics) ReloadFailing(what Reloaded, failing bool) {
	if m == nil {
		return
	}
	value := 0.0
	if failing {
		value = 1
	}
	m.reloads.WithLabelValues(string(what)).Set(value)
}

// ObserveReady adds a gauge that asks ready.
func (m *Metrics) ObserveReady(ready func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tokenbroker_ready", Help: "1 once the store was read and while tokens are handed out, else 0.",
	}, func() float64 {
		if ready() {
			return 1
		}
		return 0
	}))
}
