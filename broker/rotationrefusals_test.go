package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// rotationSteps are the operations on a rotation, by name.
var rotationSteps = []struct {
	name string
	do   func(t *testing.T, p *process) error
}{
	{"rotate", func(t *testing.T, p *process) error {
		_, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "another", Secret: input("another")})
		return err
	}},
	{"stage", func(t *testing.T, p *process) error {
		_, err := p.StageSecret(t.Context(), "acme", input("another"), "")
		return err
	}},
	{"verify", func(t *testing.T, p *process) error {
		_, _, err := p.VerifySecret(t.Context(), "acme", 0)
		return err
	}},
	{"promote", func(t *testing.T, p *process) error {
		_, err := p.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
		return err
	}},
	{"roll back", func(t *testing.T, p *process) error {
		_, err := p.RollbackSecret(t.Context(), "acme", 0)
		return err
	}},
	{"retire the new one", func(t *testing.T, p *process) error { return p.RetireSecret(t.Context(), "acme", 2) }},
	{"abort", func(t *testing.T, p *process) error { return abortAcme(t.Context(), p) }},
}

const (
	underWay  = broker.ReasonRotationUnderWay
	wrong     = broker.ReasonRotationWrongState
	stage     = broker.ReasonSecretWrongStage
	noVersion = broker.ReasonSecretVersionNotFound
)

// TestStepsInEachState does each step where a rotation stands in each state.
func TestStepsInEachState(t *testing.T) {
	overlapping := kindOf(t, "overlapping")
	failing := brokertest.Step{Err: rejected(broker.ReasonUpstreamUnavailable)}
	slow := brokertest.ProviderStep{Delay: time.Hour}
	byHandStaged := func(t *testing.T, p *process) { p.stage(t, "acme", "given") }
	tests := []struct {
		name  string
		kind  brokertest.ProviderKind
		lead  func(t *testing.T, p *process)
		state broker.RotationState
		// want are the reasons, in the order of rotationSteps.
		want [7]broker.Reason
	}{
		{"none", byHand, func(*testing.T, *process) {}, "", [...]broker.Reason{"", "", stage, stage, stage, noVersion, broker.ReasonRotationNotFound}},
		{"creating", overlapping, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderCreate, slow)
			p.rotate(t)
		}, broker.RotationCreating, [...]broker.Reason{underWay, underWay, stage, stage, stage, noVersion, ""}},
		{"staged by hand", byHand, byHandStaged, broker.RotationStaged, [...]broker.Reason{"", "", "", "", stage, "", ""}},
		{"verifying by itself", overlapping, func(t *testing.T, p *process) {
			p.upstream.Always(failing)
			p.rotate(t)
		}, broker.RotationVerifying, [...]broker.Reason{underWay, underWay, underWay, underWay, stage, underWay, ""}},
		{"verifying by hand", byHand, func(t *testing.T, p *process) {
			byHandStaged(t, p)
			p.upstream.Script(brokertest.Step{Delay: 5 * time.Second})
			go func() { _, _, _ = p.VerifySecret(p.ctx, "acme", 0) }()
		}, broker.RotationVerifying, [...]broker.Reason{"", "", underWay, wrong, stage, "", ""}},
		{"verified by hand", byHand, func(t *testing.T, p *process) {
			byHandStaged(t, p)
			if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
		}, broker.RotationVerified, [...]broker.Reason{"", "", "", "", stage, "", ""}},
		{"promoted by hand", byHand, func(t *testing.T, p *process) {
			byHandStaged(t, p)
			p.promote(t, "acme")
		}, broker.RotationPromoted, [...]broker.Reason{"", "", stage, stage, "", stage, wrong}},
		{"promoted by itself", overlapping, func(t *testing.T, p *process) {
			p.rotate(t)
			p.until(t, broker.RotationPromoted)
			time.Sleep(time.Second)
		}, broker.RotationPromoted, [...]broker.Reason{underWay, underWay, stage, stage, "", underWay, wrong}},
		{"retiring", overlapping, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderRevoke, slow)
			p.rotate(t)
			p.until(t, broker.RotationRetiring)
		}, broker.RotationRetiring, [...]broker.Reason{underWay, underWay, stage, stage, stage, underWay, wrong}},
		{"aborting", overlapping, func(t *testing.T, p *process) {
			p.upstream.Always(failing)
			p.world.provider.Script(brokertest.ProviderRevoke, slow)
			p.rotate(t)
			p.until(t, broker.RotationVerifying)
			go func() { _ = abortAcme(p.ctx, p) }()
			p.until(t, broker.RotationAborting)
		}, broker.RotationAborting, [...]broker.Reason{underWay, underWay, underWay, underWay, stage, underWay, ""}},
		{"needs an operator", overlapping, func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderCreate, refusedForGood)
			p.rotate(t)
		}, broker.RotationNeedsOperator, [...]broker.Reason{"", "", stage, stage, stage, noVersion, ""}},
		{"completed", overlapping, func(t *testing.T, p *process) {
			p.rotate(t)
			p.until(t, broker.RotationCompleted)
		}, broker.RotationCompleted, [...]broker.Reason{"", "", stage, stage, stage, stage, ""}},
		{"aborted", byHand, func(t *testing.T, p *process) {
			byHandStaged(t, p)
			p.abort(t)
		}, broker.RotationAborted, [...]broker.Reason{"", "", stage, stage, stage, "", ""}},
		{"rolled back", byHand, func(t *testing.T, p *process) {
			byHandStaged(t, p)
			p.promote(t, "acme")
			if _, err := p.RollbackSecret(t.Context(), "acme", 0); err != nil {
				t.Fatal(err)
			}
		}, broker.RotationRolledBack, [...]broker.Reason{"", "", stage, stage, stage, "", ""}},
		{"failed", kindOf(t, "replaced, tells"), func(t *testing.T, p *process) {
			p.world.provider.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Acts: true, Err: rejected(broker.ReasonUpstreamTimeout)})
			p.rotate(t)
			p.until(t, broker.RotationFailed)
		}, broker.RotationFailed, [...]broker.Reason{"", "", stage, stage, stage, noVersion, ""}},
	}
	for _, test := range tests {
		for i, step := range rotationSteps {
			t.Run(test.name+": "+step.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(test.kind)
					p := w.process(t)
					p.createAcme(t, func(n *broker.NewClient) {
						if test.kind.Name == byHand.Name {
							withoutRotator(n)
						}
					})
					p.run(t)
					test.lead(t, p)
					synctest.Wait()
					if r := w.journal(t); r.State != test.state && !(test.name == "staged by hand" && r.State == "") {
						t.Fatalf("the rotation is %q, want it %q", r.State, test.state)
					}
					wantReason(t, step.name, step.do(t, p), test.want[i])
					p.stopRun()
					p.Close() // what goes on by itself must not go on while it is looked at
					wantSound(t, w.memory, "acme")
				})
			})
		}
	}
}
