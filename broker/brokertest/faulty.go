package brokertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Operation is a method of [broker.Store].
type Operation string

// The operations.
const (
	OpRead    Operation = "read"
	OpWrite   Operation = "write"
	OpDestroy Operation = "destroy"
	OpList    Operation = "list"
)

// Writes reports whether the operation changes the store.
func (o Operation) Writes() bool { return o == OpWrite || o == OpDestroy }

// Call is one call that reached a [Faulty] store.
type Call struct {
	// N counts the calls since the last [Faulty.Reset], starting at 1.
	N int
	// Op is the method.
	Op Operation
	// Key is the key, or the prefix of a list.
	Key string
}

// String returns "3 write clients/00/a".
func (c Call) String() string { return fmt.Sprintf("%d %s %s", c.N, c.Op, c.Key) }

// Match selects calls.
type Match func(Call) bool

// Any matches every call.
func Any(Call) bool { return true }

// Writing matches calls that change the store.
func Writing(c Call) bool { return c.Op.Writes() }

// On matches calls of op whose key begins with prefix.
func On(op Operation, prefix string) Match {
	return func(c Call) bool { return c.Op == op && strings.HasPrefix(c.Key, prefix) }
}

// Nth matches the call with that [Call.N].
func Nth(n int) Match { return func(c Call) bool { return c.N == n } }

// Fault is what becomes of a call. Its functions run without a lock held, in
// the goroutine of the caller.
type Fault struct {
	// Name is used in the names of subtests.
	Name string
	// Before runs in place of the call if it returns an error, which the caller
	// gets; the store is then not asked. nil lets the call through.
	Before func(ctx context.Context, c Call) error
	// After runs once the call has returned, whether or not it succeeded. An error
	// takes the place of its answer.
	After func(ctx context.Context, c Call) error
	// Dead fails every later call too, until [Faulty.Heal]: to the store, the
	// process that called it has died.
	Dead bool
}

// Fail answers with reason; the store is not asked.
func Fail(reason broker.Reason) Fault {
	return Fault{Name: "fails with " + string(reason), Before: func(_ context.Context, c Call) error { return faultError(reason, c) }}
}

// LoseBefore loses a call on its way to the store: nothing happens there, and
// the caller cannot know. A read or list is STORE_UNREACHABLE, since there is
// nothing about it that could be unknown.
func LoseBefore() Fault {
	return Fault{Name: "lost before", Before: func(_ context.Context, c Call) error { return faultError(lost(c), c) }}
}

// LoseAfter loses the answer of a call that took effect.
func LoseAfter() Fault {
	return Fault{Name: "lost after", After: func(_ context.Context, c Call) error { return faultError(lost(c), c) }}
}

// CrashBefore is LoseBefore, and no later call gets through.
func CrashBefore() Fault {
	f := LoseBefore()
	f.Name, f.Dead = "crash before", true
	return f
}

// CrashAfter is LoseAfter, and no later call gets through.
func CrashAfter() Fault {
	f := LoseAfter()
	f.Name, f.Dead = "crash after", true
	return f
}

// Before calls hook before the call, which then takes place: to end a process,
// to let another writer in, or to wait.
func Before(hook func(Call)) Fault {
	return Fault{Name: "hook before", Before: func(_ context.Context, c Call) error { hook(c); return nil }}
}

// After calls hook when the call has taken effect and before its caller knows.
func After(hook func(Call)) Fault {
	return Fault{Name: "hook after", After: func(_ context.Context, c Call) error { hook(c); return nil }}
}

// Delay holds the call up for d, or until its context ends; then it goes through
// with what is left of the context.
func Delay(d time.Duration) Fault {
	return Fault{Name: "delay", Before: func(ctx context.Context, _ Call) error {
		sleep(ctx, d)
		return nil
	}}
}

// Hang holds the call up until its context ends, after it took effect if it is
// one that writes: a store that has taken the request and answers no more.
func Hang() Fault {
	hang := func(ctx context.Context, c Call) error {
		<-ctx.Done()
		return &broker.Error{Reason: lost(c), Op: string(c.Op) + " record", Detail: c.Key, Err: ctx.Err()}
	}
	return Fault{Name: "hang", After: hang}
}

// Faulty is a [broker.Store] in front of another one. It counts the calls, and
// faults can be put in the way of those that a test selects. Safe for concurrent
// use; make one with [NewFaulty].
type Faulty struct {
	store broker.Store

	mu sync.Mutex // guards what follows
	// rules are asked in the order in which they were added; the first match counts.
	rules []*rule
	calls []Call
	// struck are the calls that met a fault.
	struck []Call
	dead   bool
}

type rule struct {
	match Match
	fault Fault
	once  bool
}

var _ broker.Store = (*Faulty)(nil)

// NewFaulty returns store with nothing in its way yet.
func NewFaulty(store broker.Store) *Faulty { return &Faulty{store: store} }

// Once puts fault in the way of the next call that matches.
func (f *Faulty) Once(fault Fault, match Match) { f.add(&rule{match: match, fault: fault, once: true}) }

// Always puts fault in the way of every call that matches, until [Faulty.Heal].
func (f *Faulty) Always(fault Fault, match Match) { f.add(&rule{match: match, fault: fault}) }

func (f *Faulty) add(r *rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, r)
}

// Heal takes all faults away and revives what a crash has stopped. Counts stay.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.dead = nil, false
}

// Reset forgets the calls so far, so that the next one is call 1. Faults stay.
func (f *Faulty) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.struck = nil, nil
}

// Calls returns the calls since the last Reset, in the order of their arrival.
func (f *Faulty) Calls() []Call { return f.selected(Any) }

// Count returns how many calls since the last Reset match.
func (f *Faulty) Count(match Match) int { return len(f.selected(match)) }

func (f *Faulty) selected(match Match) []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	var calls []Call
	for _, c := range f.calls {
		if match(c) {
			calls = append(calls, c)
		}
	}
	return calls
}

// Struck returns the calls since the last Reset that met a fault. Those that a
// crash turned away afterwards are not among them.
func (f *Faulty) Struck() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Call(nil), f.struck...)
}

// Read implements [broker.Store].
func (f *Faulty) Read(ctx context.Context, key string) (record broker.Record, err error) {
	err = f.call(ctx, OpRead, key, func() error {
		record, err = f.store.Read(ctx, key)
		return err
	})
	if err != nil {
		return broker.Record{}, err
	}
	return record, nil
}

// ReadLatest implements [broker.Store]. It counts as a read.
func (f *Faulty) ReadLatest(ctx context.Context, key string) (record broker.Record, err error) {
	err = f.call(ctx, OpRead, key, func() error {
		record, err = f.store.ReadLatest(ctx, key)
		return err
	})
	if err != nil {
		return broker.Record{}, err
	}
	return record, nil
}

// Write implements [broker.Store].
func (f *Faulty) Write(ctx context.Context, key string, data secret.Value, version uint64) (written uint64, err error) {
	err = f.call(ctx, OpWrite, key, func() error {
		written, err = f.store.Write(ctx, key, data, version)
		return err
	})
	if err != nil {
		return 0, err
	}
	return written, nil
}

// Destroy implements [broker.Store].
func (f *Faulty) Destroy(ctx context.Context, key string) error {
	return f.call(ctx, OpDestroy, key, func() error { return f.store.Destroy(ctx, key) })
}

// List implements [broker.Store].
func (f *Faulty) List(ctx context.Context, prefix string) (names []string, err error) {
	err = f.call(ctx, OpList, prefix, func() error {
		names, err = f.store.List(ctx, prefix)
		return err
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// call counts the call, and lets it through unless a fault stands in its way.
func (f *Faulty) call(ctx context.Context, op Operation, key string, do func() error) error {
	c, fault, err := f.admit(op, key)
	if err != nil {
		return err
	}
	if fault.Before != nil {
		if err := fault.Before(ctx, c); err != nil {
			return err
		}
	}
	err = do()
	if fault.After != nil {
		if after := fault.After(ctx, c); after != nil {
			return after
		}
	}
	return err
}

// admit counts a call and returns the fault that it meets: the zero Fault is none.
func (f *Faulty) admit(op Operation, key string) (Call, Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := Call{N: len(f.calls) + 1, Op: op, Key: key}
	f.calls = append(f.calls, c)
	if f.dead {
		return c, Fault{}, faultError(broker.ReasonStoreUnreachable, c)
	}
	for i, r := range f.rules {
		if !r.match(c) {
			continue
		}
		if r.once {
			f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
		}
		f.struck = append(f.struck, c)
		f.dead = r.fault.Dead
		return c, r.fault, nil
	}
	return c, Fault{}, nil
}

// lost is the reason of a call whose answer does not come.
func lost(c Call) broker.Reason {
	if c.Op.Writes() {
		return broker.ReasonStoreAnswerLost
	}
	return broker.ReasonStoreUnreachable
}

func faultError(reason broker.Reason, c Call) error {
	return &broker.Error{Reason: reason, Op: string(c.Op) + " record", Detail: c.Key + ": by order of the test"}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
