package brokertest_test

import (
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestProviders changes a secret at each kind of provider, as a rotation does, and asks
// the authorization server which secrets it takes after each step.
func TestProviders(t *testing.T) {
	const id = "client-1"
	for _, kind := range brokertest.ProviderKinds() {
		t.Run(kind.Name, func(t *testing.T) {
			upstream := brokertest.NewUpstream()
			p := brokertest.NewProvider(upstream, kind)
			p.SetByHand(id, "first")
			works := func(text string) bool {
				_, err := upstream.RequestToken(t.Context(), broker.TokenRequest{
					Endpoint: "https://as.example/token", Destinations: []string{"https://as.example"}, ClientID: id, Secret: secret.NewString(text),
				})
				return err == nil
			}
			call := broker.RotatorCall{Token: "t", ClientID: id}
			if kind.Traits.TakesChosen {
				call.New, _ = p.MakeSecret(call)
			}
			created, err := p.Create(t.Context(), call)
			if err != nil {
				t.Fatalf("Create: %v", err)
			}
			if call.Handle = created.Handle; !kind.Traits.TakesChosen {
				call.New = created.Value
			}
			shape, next := kind.Traits.Shape, call.New.RevealString()
			if got, want := works("first"), shape != broker.ShapeReplaced; got != want {
				t.Errorf("the first one works: %t, want %t", got, want)
			}
			if got, want := works(next), shape != broker.ShapeActivated || kind.Traits.WorksBeforeActivation; got != want {
				t.Errorf("the next one works: %t, want %t", got, want)
			}
			if shape == broker.ShapeActivated {
				for range 2 {
					if err := p.Activate(t.Context(), call); err != nil {
						t.Errorf("Activate: %v", err)
					}
				}
				if works("first") || !works(next) {
					t.Error("activating has not ended the first one, or not begun the next one")
				}
			}
			for range 2 {
				if err := p.Revoke(t.Context(), call); err != nil {
					t.Errorf("Revoke: %v", err)
				}
			}
			if works(next) || slices.Contains(p.Secrets(id), next) {
				t.Error("a revoked secret works")
			}
		})
	}
}

// TestProviderRecovers: what became of a Create whose answer is lost, as each kind tells.
func TestProviderRecovers(t *testing.T) {
	want := map[string]broker.CreateOutcome{
		"overlapping": broker.CreateNotDone, "overlapping, shows": broker.CreateDone, "activated": broker.CreateDone,
		"activated, works before": broker.CreateNotDone, "replaced, shows": broker.CreateDone, "replaced, tells": broker.CreateLost,
	}
	for _, kind := range brokertest.ProviderKinds() {
		if kind.Traits.TakesChosen {
			continue // is told the same secret again
		}
		p := brokertest.NewProvider(brokertest.NewUpstream(), kind)
		p.SetByHand("client-1", "first")
		call := broker.RotatorCall{Token: "t", ClientID: "client-1"}
		if found, err := p.Recover(t.Context(), call); err != nil || found.Outcome != broker.CreateNotDone {
			t.Errorf("%s: Recover before = %q, %v", kind.Name, found.Outcome, err)
		}
		p.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Acts: true, Err: &broker.Error{Reason: broker.ReasonUpstreamTimeout}})
		if _, err := p.Create(t.Context(), call); broker.ReasonOf(err) != broker.ReasonUpstreamTimeout {
			t.Errorf("%s: Create = %v", kind.Name, err)
		}
		if found, err := p.Recover(t.Context(), call); err != nil || found.Outcome != want[kind.Name] {
			t.Errorf("%s: Recover = %q, %v, want %q", kind.Name, found.Outcome, err, want[kind.Name])
		}
	}
}
