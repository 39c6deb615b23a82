package broker_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// rotationFaults counts what rotations went through; TestMain prints it.
var rotationFaults struct {
	mu                             sync.Mutex
	tried, survived, unrecoverable int
}

// faultFigures are the figures of the rotation faults, if any were tried.
func faultFigures() string {
	f := &rotationFaults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tried == 0 {
		return ""
	}
	return fmt.Sprintf("figure rotation_faults_tried %d\nfigure rotation_faults_survived %d\nfigure rotation_faults_unrecoverable %d\n", f.tried, f.survived, f.unrecoverable)
}

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
			name: "abort what is staged", kind: byHand, edit: withoutRotator, untidy: true, gone: "given",
			ends:    []broker.RotationState{broker.RotationAborted},
			prepare: func(t *testing.T, p *process) { p.stage(t, "acme", "given") },
			do:      abortAcme,
		},
		rotationFlow{
			name: "abort what is verified", kind: byHand, edit: withoutRotator, untidy: true, gone: "given",
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

// TestRotationFaults fails, hangs, and loses the answer of each call that a flow makes
// to the store, the provider and the authorization server, and kills the process before
// and after each of them. Another process then takes over, and the request is repeated.
func TestRotationFaults(t *testing.T) {
	for i, flow := range rotationFlows() {
		if testing.Short() && i%7 != 0 {
			continue
		}
		t.Run(flow.kind.Name+": "+flow.name, func(t *testing.T) {
			var calls []outsideCall
			if !t.Run("clean", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { calls = oneFault(t, flow, outsideCall{}, lineFault{}, brokertest.Fault{}) })
			}) {
				return
			}
			for _, target := range targetsOf(t, calls) {
				eachFaultOf(t, flow, target)
			}
		})
	}
}

// targetsOf returns the calls that are worth a fault: the first few of each name, fewer
// unless all faults are asked for.
func targetsOf(t *testing.T, calls []outsideCall) []outsideCall {
	t.Helper()
	most := 1
	if os.Getenv("TOKENBROKER_TEST_FAULTS") == "all" {
		most = 6
	}
	return slices.DeleteFunc(calls, func(c outsideCall) bool {
		looks := c.name == "read active-rotations" && c.n > 2 // how often it is polled is chance
		return c.n > most || looks || strings.HasSuffix(c.name, " sweep")
	})
}

func eachFaultOf(t *testing.T, flow rotationFlow, target outsideCall) {
	t.Helper()
	name := strings.ReplaceAll(target.String(), "/", ":")
	if target.op == "" {
		rotator := target.name != "token" && target.name != "revoke token"
		for _, fault := range lineFaults(rotator) {
			t.Run(name+" "+fault.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { oneFault(t, flow, target, fault, brokertest.Fault{}) })
			})
		}
		return
	}
	faults := []brokertest.Fault{brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Hang(), brokertest.CrashBefore()}
	if target.op.Writes() {
		faults = append(faults, brokertest.LoseBefore(), brokertest.LoseAfter(), brokertest.CrashAfter())
	}
	for _, fault := range faults {
		t.Run(name+" "+fault.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { oneFault(t, flow, target, lineFault{}, fault) })
		})
	}
}

// oneFault runs a flow with one fault in the way, or none, and returns the calls that
// it made.
func oneFault(t *testing.T, flow rotationFlow, target outsideCall, fault lineFault, storeFault brokertest.Fault) []outsideCall {
	w := newWorld(flow.kind)
	first := w.process(t)
	first.createAcme(t, func(n *broker.NewClient) {
		if flow.edit != nil {
			flow.edit(n)
		}
	})
	first.run(t)
	if flow.prepare != nil {
		flow.prepare(t, first)
	}
	synctest.Wait()
	first.line.reset(target, fault, storeFault)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	err := flow.do(limited, first)
	cancel()
	if target.name == "" && err != nil {
		t.Fatalf("%s without a fault: %v", flow.name, err)
	}
	for try := 0; err != nil && try < 5 && !first.line.isDead(); try++ {
		time.Sleep(10 * time.Second)
		err = flow.do(t.Context(), first)
	}
	w.overBy(t, first)
	calls, struck := first.line.seen()
	if target.name != "" && !struck {
		t.Skipf("the flow has not made the call %s this time", target)
	}
	first.stopRun()
	next := w.process(t).run(t)
	repeat(t, flow, next)
	var r *broker.Rotation
	for range 720 {
		if r = next.rotation(t); r.State.Over() || r.State == broker.RotationNeedsOperator {
			break
		}
		time.Sleep(10 * time.Second)
	}
	verdict(t, flow, w, next, r, target.name == "")
	return calls
}

// overBy waits until the rotation is over, or the process that is at work is dead.
func (w *world) overBy(t *testing.T, p *process) {
	t.Helper()
	for range 720 {
		r := w.journal(t)
		alone := !r.Automatic && r.State != broker.RotationAborting // what else there is to do, a person does
		if r.State.Over() || r.State == broker.RotationNeedsOperator || alone || p.line.isDead() {
			return
		}
		time.Sleep(10 * time.Second)
	}
	t.Errorf("the rotation does not end: %+v", w.journal(t))
}

// rotation returns acme's rotation as somebody who asks is told.
func (p *process) rotation(t *testing.T) *broker.Rotation {
	t.Helper()
	r, err := p.GetRotation(t.Context(), "acme")
	if err != nil {
		t.Fatalf("GetRotation: %v", err)
	}
	return r
}

// repeat repeats the request in another process: it ends the work.
func repeat(t *testing.T, flow rotationFlow, p *process) {
	t.Helper()
	err := flow.do(t.Context(), p)
	for try := 0; err != nil && try < 10; try++ {
		time.Sleep(max(broker.AsError(err).RetryAfter, 5*time.Second))
		err = flow.do(t.Context(), p)
	}
	if err != nil {
		t.Errorf("%s again: %v", flow.name, err)
	}
}

// verdict checks what is left behind, and counts it.
func verdict(t *testing.T, flow rotationFlow, w *world, p *process, r *broker.Rotation, clean bool) {
	t.Helper()
	lost := r.State == broker.RotationFailed && r.Reason == broker.ReasonUpstreamSecretLost
	switch {
	case lost:
		if kind := flow.kind; kind.Traits.Shape != broker.ShapeReplaced || kind.ShowsSecret || kind.Traits.TakesChosen {
			t.Errorf("the secret is lost at a provider that could have told it: %+v", r)
		}
		mendLost(t, w, p)
	case !slices.Contains(flow.ends, r.State):
		t.Errorf("the rotation is %s (%s %s), want one of %q; %+v", r.State, r.Reason, r.Detail, flow.ends, r.Events)
	default:
		w.wantWorking(t)
		if !flow.untidy {
			w.wantTidy(t)
		}
		if left := w.memory.Contains(flow.gone); flow.gone != "" && len(left) > 0 {
			t.Errorf("%q is still at %q", flow.gone, left)
		}
	}
	if clean {
		return
	}
	f := &rotationFaults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	switch {
	case t.Failed():
	case lost:
		f.unrecoverable++
	default:
		f.survived++
	}
}

// mendLost has a person make another secret at the provider and stage it.
func mendLost(t *testing.T, w *world, p *process) {
	t.Helper()
	wantSound(t, w.memory, "acme")
	w.provider.SetByHand(acmeID, "by-hand")
	if _, err := p.StageSecret(t.Context(), "acme", input("by-hand"), ""); err != nil {
		t.Fatalf("StageSecret by hand: %v", err)
	}
	p.promote(t, "acme")
	w.wantWorking(t)
}

func (l *line) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *line) seen() ([]outsideCall, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order), l.struck
}
