package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// rotationFlow is a change of a secret that must survive any fault of any call to the
// outside.
type rotationFlow struct {
	name string
	kind brokertest.ProviderKind
	// edit changes the client that it is about; nil leaves it.
	edit func(*broker.NewClient)
	// prepare leads to where it begins; nil if nowhere.
	prepare func(t *testing.T, p *process)
	// do may be repeated.
	do func(ctx context.Context, p *process) error
	// ends are the states that it may end in; the first one without a fault.
	ends []broker.RotationState
	// gone is a secret that is nowhere in the store afterwards; "" if none.
	gone string
	// untidy says that the provider is left with what a person has to remove.
	untidy bool
}

// rotateByItself is the flow of RotateSecret with the client's rotator.
func rotateByItself(kind brokertest.ProviderKind, compromised bool) rotationFlow {
	name := "rotate"
	if compromised {
		name = "rotate compromised"
	}
	return rotationFlow{
		name: name, kind: kind, gone: kind.First(password), ends: []broker.RotationState{broker.RotationCompleted},
		do: func(ctx context.Context, p *process) error {
			_, err := p.RotateSecret(ctx, broker.RotationRequest{ClientID: "acme", RequestID: "r", Compromised: compromised})
			return err
		},
	}
}

// byHand is the kind of provider that a person speaks to.
var byHand = brokertest.ProviderKind{Name: "by hand", Traits: broker.RotatorTraits{Shape: broker.ShapeOverlapping}}

func withoutRotator(n *broker.NewClient) {
	n.Rotation.Rotator, n.Rotation.OverlappingSecrets = "", true
}

func rotationFlows() []rotationFlow {
	var flows []rotationFlow
	for _, kind := range brokertest.ProviderKinds() {
		flows = append(flows, rotateByItself(kind, false), rotateByItself(kind, true), abortWhile(kind))
	}
	completed := []broker.RotationState{broker.RotationCompleted}
	return append(
		flows,
		rotationFlow{
			name: "rotate with a given secret", kind: byHand, edit: withoutRotator, ends: completed, gone: password, untidy: true,
			prepare: func(t *testing.T, p *process) { p.upstream.Register(acmeID, "given") },
			do: func(ctx context.Context, p *process) error {
				_, err := p.RotateSecret(ctx, broker.RotationRequest{ClientID: "acme", RequestID: "r", Secret: input("given")})
				return err
			},
		},
		rotationFlow{
			name: "step by step", kind: byHand, edit: withoutRotator, ends: completed, gone: password, untidy: true,
			prepare: func(t *testing.T, p *process) { p.upstream.Register(acmeID, "given") },
			do:      stepByStep,
		},
		rotationFlow{
			name: "roll back", kind: byHand, edit: withoutRotator, ends: []broker.RotationState{broker.RotationRolledBack}, untidy: true,
			prepare: func(t *testing.T, p *process) {
				p.stage(t, "acme", "given")
				p.promote(t, "acme")
			},
			do: func(ctx context.Context, p *process) error {
				_, err := p.RollbackSecret(ctx, "acme", 1)
				return err
			},
		},
		rotationFlow{
			name: "retire, at the provider too", kind: brokertest.ProviderKinds()[0], ends: completed, gone: password,
			prepare: func(t *testing.T, p *process) {
				beginAndWait(t, p, broker.RotationPromoted)
			},
			do: func(ctx context.Context, p *process) error { return p.RetireSecret(ctx, "acme", 1) },
		},
		rotationFlow{
			name: "abort what is staged", kind: byHand, edit: withoutRotator, untidy: true, gone: `"given"`,
			ends:    []broker.RotationState{broker.RotationAborted},
			prepare: func(t *testing.T, p *process) { p.stage(t, "acme", "given") },
			do:      abortAcme,
		},
		rotationFlow{
			name: "abort what is verified", kind: byHand, edit: withoutRotator, untidy: true, gone: `"given"`,
			ends: []broker.RotationState{broker.RotationAborted},
			prepare: func(t *testing.T, p *process) {
				p.stage(t, "acme", "given")
				if _, _, err := p.VerifySecret(t.Context(), "acme", 0); err != nil {
					t.Fatalf("VerifySecret: %v", err)
				}
			},
			do: abortAcme,
		},
	)
}

// stepByStep is a rotation by hand, each call as somebody would repeat it.
func stepByStep(ctx context.Context, p *process) error {
	version, err := p.StageSecret(ctx, "acme", input("given"), "r")
	if err != nil {
		return err
	}
	if version.Stage == broker.Pending {
		if _, _, err := p.VerifySecret(ctx, "acme", version.Number); err != nil {
			return err
		}
	}
	if _, err := p.PromoteSecret(ctx, broker.Promotion{ClientID: "acme", Number: version.Number}); err != nil {
		return err
	}
	return p.RetireSecret(ctx, "acme", 1)
}

func abortAcme(ctx context.Context, p *process) error {
	_, err := p.AbortRotation(ctx, "acme", "")
	return err
}

// abortWhile aborts a rotation whose Create has an answer that was lost and cannot be
// found out yet. Where the provider has ended the present secret it leads forward.
func abortWhile(kind brokertest.ProviderKind) rotationFlow {
	flow := rotationFlow{
		name: "abort while creating", kind: kind,
		do: func(ctx context.Context, p *process) error {
			err := abortAcme(ctx, p)
			if broker.ReasonOf(err) == broker.ReasonRotationWrongState {
				return nil // it went on before anybody could abort it, and is past that
			}
			return err
		},
		ends: []broker.RotationState{broker.RotationAborted, broker.RotationCompleted},
		prepare: func(t *testing.T, p *process) {
			timeout := rejected(broker.ReasonUpstreamTimeout)
			p.world.provider.Script(brokertest.ProviderCreate, brokertest.ProviderStep{Err: timeout, Acts: true}, brokertest.ProviderStep{Err: timeout})
			p.world.provider.Script(brokertest.ProviderRecover, brokertest.ProviderStep{Err: timeout})
			if _, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r"}); err != nil {
				t.Fatalf("RotateSecret: %v", err)
			}
			for p.world.journal(t).NextTime.IsZero() {
				time.Sleep(100 * time.Millisecond)
			}
		},
	}
	switch {
	case kind.Traits.Shape != broker.ShapeReplaced:
	case kind.ShowsSecret || kind.Traits.TakesChosen:
		flow.ends = []broker.RotationState{broker.RotationCompleted}
	default:
		flow.ends = []broker.RotationState{broker.RotationFailed}
	}
	return flow
}

// beginAndWait begins a rotation by itself and waits until it is where it should be.
func beginAndWait(t *testing.T, p *process, state broker.RotationState) {
	t.Helper()
	if _, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "before"}); err != nil {
		t.Fatalf("RotateSecret: %v", err)
	}
	for range 600 {
		if p.world.journal(t).State == state {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("rotation is %+v, want it %s", p.world.journal(t), state)
}
