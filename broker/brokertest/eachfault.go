package brokertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Run is one run of a flow under [EachFault].
type Run struct {
	// Store is what the flow uses. Before Start and after Stop nothing fails.
	Store *Faulty
	// Fault is what is put in the way in this run; its Name is "" in the clean run.
	Fault Fault
	// Target is the call that the fault is meant for, as the clean run counted it;
	// zero in the clean run.
	Target Call
	// Ignore, set before Start, matches calls that come on a timer, in no order with the
	// others: they are neither counted nor struck. nil ignores none.
	Ignore Match

	// nth is the number of the target among the calls of its kind.
	nth     int
	started bool
	calls   []Call
	struck  []Call
}

// Clean reports whether this is the run without a fault, in which everything
// must succeed.
func (r *Run) Clean() bool { return r.Fault.Name == "" }

// Start ends the set-up: from here on calls are counted, and one meets the fault.
func (r *Run) Start() {
	r.started = true
	r.Store.Reset()
	if !r.Clean() {
		r.Store.Once(r.Fault, nthLike(r.nth, r.Target, r.Ignore))
	}
}

// counted are the calls that the clean run made, numbered without those it ignores.
func (r *Run) counted() []Call {
	var calls []Call
	for _, c := range r.calls {
		if r.Ignore == nil || !r.Ignore(c) {
			c.N = len(calls) + 1
			calls = append(calls, c)
		}
	}
	return calls
}

// Stop ends what is tested: from here on nothing fails, as after the restart of
// a process that crashed. What follows checks the state that was left behind.
func (r *Run) Stop() {
	r.calls, r.struck = r.Store.Calls(), r.Store.Struck()
	r.Store.Heal()
}

// EachFault runs a flow once to count its calls to the store, and then again for
// every call and every fault that can happen to it, each time in a subtest with a
// store of its own: every call can be unreachable, the process can die before
// it, and the answer of a write can also be lost before and after it took effect
// or the process die after it.
//
//	brokertest.EachFault(t, func(t *testing.T, run *brokertest.Run) {
//		b := newBroker(t, run.Store)
//		must(b.CreateClient(...)) // set-up: cannot fail
//		run.Start()
//		err := b.Promote(...) // what is tested
//		run.Stop()
//		if run.Clean() && err != nil { ... }
//		checkInvariants(t, run.Store)
//	})
//
// The flow should make its calls of one kind, which is an operation on one kind of
// record, in the same order each time; a run that does not reach its target call is
// reported as an error. The flow may open a
// testing/synctest bubble of its own.
func EachFault(t *testing.T, flow func(t *testing.T, run *Run)) {
	t.Helper()
	EachFaultOn(t, func(*testing.T) broker.Store { return NewMemory() }, flow)
}

// EachFaultOn is [EachFault] with stores of another kind than [Memory].
func EachFaultOn(t *testing.T, open func(t *testing.T) broker.Store, flow func(t *testing.T, run *Run)) {
	t.Helper()
	one := func(t *testing.T, run *Run) {
		run.Store = NewFaulty(open(t))
		flow(t, run)
		if run.started && run.calls == nil {
			run.Stop()
		}
	}
	clean := &Run{}
	if !t.Run("clean", func(t *testing.T) {
		one(t, clean)
		if len(clean.calls) == 0 {
			t.Fatal("the flow made no call to the store between Start and Stop")
		}
	}) {
		return // the other runs would only repeat what is wrong
	}
	counted := clean.counted()
	for i, target := range counted {
		nth := 1
		for _, before := range counted[:i] {
			if like(before, target) {
				nth++
			}
		}
		for _, fault := range faultsOf(target.Op) {
			name := fmt.Sprintf("%s %s", strings.ReplaceAll(target.String(), "/", ":"), fault.Name)
			t.Run(name, func(t *testing.T) {
				run := &Run{Fault: fault, Target: target, nth: nth}
				one(t, run)
				if len(run.struck) == 0 {
					t.Errorf("the flow made %d calls and never call %s", len(run.calls), target)
				}
			})
		}
	}
}

// faultsOf returns what can happen to an operation.
func faultsOf(op Operation) []Fault {
	faults := []Fault{Fail(broker.ReasonStoreUnreachable), CrashBefore()}
	if op.Writes() {
		faults = append(faults, LoseBefore(), LoseAfter(), CrashAfter())
	}
	return faults
}

// like reports whether two calls are of one kind. Of those that a flow makes at one
// time, which come in any order, the kinds differ.
func like(a, b Call) bool {
	kind, _, _ := strings.Cut(a.Key, "/")
	other, _, _ := strings.Cut(b.Key, "/")
	return a.Op == b.Op && kind == other
}

// nthLike matches the nth call that is like target.
func nthLike(n int, target Call, ignore Match) Match {
	seen := 0
	return func(c Call) bool {
		if !like(c, target) || ignore != nil && ignore(c) {
			return false
		}
		seen++
		return seen == n
	}
}
