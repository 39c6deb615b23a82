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
	t.Run("healthy", func(t *testing.T) {
		s := newSite(t, embeddedStore(t), settings{})
		together(t, healthySetups, healthyName, func(t *testing.T, h healthy) { h.show(t, s, count) })
	})
	t.Run("vault", func(t *testing.T) {
		server := realvault.Shared(t) // or skip
		together(t, storeFaults, storeFaultName, func(t *testing.T, f storeFault) { f.show(t, count) })
		t.Run("healthy", func(t *testing.T) { referencedSecret(t, newMount(t, server, server.NewKV()), count) })
	})
	count.tell()
}

// onEmbedded are the faults that no Vault is needed for.
func onEmbedded() []fault {
	return slices.Concat(indexFaults, settingsFaults, secretFaults, wayFaults, httpFaults, tokenFaults, enforcementFaults, grantFaults, metadataFaults)
}

// TestTwoFaultsAtOnce: the earlier link is named, and the later fault is not denied.
func TestTwoFaultsAtOnce(t *testing.T) {
	s := newSite(t, embeddedStore(t), settings{})
	together(t, pairs, pairName, func(t *testing.T, p pair) { p.show(t, s) })
}

// TestHarm: what would do harm is refused, one test for each kind.
func TestHarm(t *testing.T) {
	s := newSite(t, embeddedStore(t), settings{})
	together(t, harms, harmName, func(t *testing.T, h harm) { h.show(t, s) })
}
