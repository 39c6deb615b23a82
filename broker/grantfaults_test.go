package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// grantFaults counts what refreshes went through; TestMain prints it.
var grantFaults struct {
	mu                             sync.Mutex
	tried, survived, unrecoverable int
}

// grantFaultFigures are the figures of the faults of refreshes, if any were tried.
func grantFaultFigures() string {
	f := &grantFaults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tried == 0 {
		return ""
	}
	return fmt.Sprintf("figure grant_faults_tried %d\nfigure grant_faults_survived %d\nfigure grant_faults_unrecoverable %d\n", f.tried, f.survived, f.unrecoverable)
}

// oneLease is how long a process waits for one that died: as long as a lease lasts, and the
// pause between two looks.
const oneLease = 26 * time.Second

// TestGrantFaults fails, hangs, and loses the answer of each call that a refresh makes to
// the store and to the authorization server, and kills the process before and after each
// of them. Afterwards exactly one usable grant exists, or the one case where that is
// impossible has its name: the authorization server replaced the refresh token and its
// answer was lost.
func TestGrantFaults(t *testing.T) {
	for _, kind := range brokertest.RefreshKinds() {
		for _, earlier := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s after %d", kind.Name, earlier), func(t *testing.T) {
				flow := grantFlow{kind: kind, earlier: earlier}
				var calls []outsideCall
				if !t.Run("clean", func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { calls = flow.run(t, outsideCall{}, lineFault{}, brokertest.Fault{}) })
				}) {
					return
				}
				for _, target := range calls {
					flow.eachFault(t, target)
				}
			})
		}
	}
}

// grantFlow is one refresh after so many earlier ones.
type grantFlow struct {
	kind    brokertest.RefreshKind
	earlier int
}

func (flow grantFlow) eachFault(t *testing.T, target outsideCall) {
	t.Helper()
	name := strings.ReplaceAll(target.String(), "/", ":")
	if target.op == "" {
		faults := append(lineFaults(false), lineFault{name: "unsent", err: &broker.UnsentError{Err: &broker.Error{Reason: broker.ReasonUpstreamConnect}}})
		for _, fault := range faults {
			t.Run(name+" "+fault.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { flow.run(t, target, fault, brokertest.Fault{}) })
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
			synctest.Test(t, func(t *testing.T) { flow.run(t, target, lineFault{}, fault) })
		})
	}
}

// run makes one refresh with one fault in the way, or none, and returns the calls that it
// made.
func (flow grantFlow) run(t *testing.T, target outsideCall, fault lineFault, storeFault brokertest.Fault) []outsideCall {
	w := newGrantWorld(flow.kind)
	first := w.process(t)
	first.createUsers(t)
	w.consent(t, first, "alice")
	for range flow.earlier {
		first.tokenOf(t, "alice")
		time.Sleep(10 * time.Minute)
	}
	synctest.Wait()
	first.line.reset(target, fault, storeFault)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	_, _, err := first.GetToken(limited, of("alice"))
	cancel()
	clean := target.name == ""
	if clean && err != nil {
		t.Fatalf("GetToken without a fault: %v", err)
	}
	synctest.Wait()
	calls, struck := first.line.seen()
	if !clean && !struck {
		t.Fatalf("the refresh has not made the call %s, but %v; GetToken: %v", target, calls, err)
	}
	second := w.process(t)
	lost := false
	for try := 0; ; try++ { // also what the first one was about to do may yet come
		begun := time.Now()
		_, _, err := second.GetToken(t.Context(), of("alice"))
		if took := time.Since(begun); took > oneLease {
			t.Errorf("another process waited %v: for one lease after the other", took)
		}
		if err == nil {
			break
		}
		if lost = broker.ReasonOf(err) == broker.ReasonRefreshAnswerLost; lost || try == 6 {
			if !lost {
				t.Errorf("GetToken by another process: %v", err)
			}
			break
		}
		time.Sleep(10 * time.Second)
	}
	flow.verdict(t, w, second, lost, clean, !fault.stops && (first.line.isDead() && storeFault.Name != stopped().Name || fault.name != ""))
	w.wantNoPlainTokens(t, first, second)
	return calls
}

// verdict checks what is left behind, and counts it.
func (flow grantFlow) verdict(t *testing.T, w *grantWorld, p *process, lost, clean, mayLose bool) {
	t.Helper()
	if w.upstream.Reused() > 0 {
		t.Errorf("a refresh token was spent twice")
	}
	switch {
	case lost && (flow.kind.Declared.Grace > 0 || flow.kind.Declared.Rotation == broker.RotationNever || !mayLose):
		t.Errorf("the grant is lost without need")
	case lost: // only the user mends it
		w.consent(t, p, "alice")
		p.tokenOf(t, "alice")
	}
	for range 3 { // the grant goes on
		time.Sleep(10 * time.Minute)
		if _, _, err := p.GetToken(t.Context(), of("alice")); err != nil {
			t.Errorf("a later refresh: %v", err)
		}
	}
	if got := len(keysUnder(w.memory, "grants/")); got != 1 {
		t.Errorf("%d grants, want 1", got)
	}
	if clean {
		return
	}
	f := &grantFaults
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

// TestGrantFaultsAreMany: the faults of a refresh are those of its lease, its use and
// its successor, and no flow is left out.
func TestGrantFaultsAreMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := grantFlow{kind: rotating()}.run(t, outsideCall{}, lineFault{}, brokertest.Fault{})
		var names []string
		for _, c := range calls {
			names = append(names, c.name)
		}
		for _, want := range []string{"read grants/*/*", "write grants/*/*", "token", "write tokens/*/*"} {
			if !slices.Contains(names, want) {
				t.Errorf("no fault strikes %q of %q", want, names)
			}
		}
	})
}
