package diagnosis_test

import (
	"slices"
	"testing"
)

// TestCatalogue injects every fault and has every healthy set-up checked.
func TestCatalogue(t *testing.T) {
	count := new(tally)
	t.Run("embedded", func(t *testing.T) {
		s := newSite(t, embeddedStore(t), settings{})
		together(t, onEmbedded(), faultName, func(t *testing.T, f fault) { f.show(t, s, count) })
	})
	count.tell()
}

// onEmbedded are the faults that no Vault is needed for.
func onEmbedded() []fault {
	return slices.Concat(indexFaults, settingsFaults, secretFaults, wayFaults, httpFaults, tokenFaults, enforcementFaults)
}
