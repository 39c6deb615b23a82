package diagnosis_test

import (
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// TestCatalogue injects every fault and has every healthy set-up checked.
func TestCatalogue(t *testing.T) {
	count := new(tally)
	t.Run("embedded", func(t *testing.T) {
		s := newSite(t, embeddedStore(t), settings{})
		together(t, onEmbedded(), faultName, func(t *testing.T, f fault) { f.show(t, s, count) })
	})
	t.Run("vault", func(t *testing.T) {
		realvault.Shared(t) // or skip
		together(t, storeFaults, storeFaultName, func(t *testing.T, f storeFault) { f.show(t, count) })
	})
	count.tell()
}

// onEmbedded are the faults that no Vault is needed for.
func onEmbedded() []fault {
	return slices.Concat(indexFaults, settingsFaults, secretFaults, wayFaults, httpFaults, tokenFaults, enforcementFaults)
}
