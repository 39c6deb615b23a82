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

// TestRotationFaults fails, hangs, and loses the answer of each call that a flow makes
// to the store, the provider and the authorization server, and kills the process before
// and after each of them. Another process then takes over, and the request is repeated.
func TestRotationFaults(t *testing.T) {
	for i, flow := range rotationFlows() {
		all := os.Getenv("TOKENBROKER_TEST_FAULTS") == "all"
		if testing.Short() && i%7 != 0 || raced && !all && i%3 != 0 { // the race detector sees the same code in each
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
	faults := []brokertest.Fault{brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Hang(), brokertest.CrashBefore(), stopped()}
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
	if r.Reason == broker.ReasonUpstreamSecretLost && !slices.Contains(flow.ends, broker.RotationFailed) && (fault.stops || storeFault.Name == stopped().Name) {
		t.Error("a process that ended in peace has lost a secret")
	}
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
