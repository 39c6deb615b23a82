package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// tasks counts the work that belongs to no caller. Safe for concurrent use.
type tasks struct {
	mu      sync.Mutex // guards what follows
	closed  bool
	running int
	idle    []chan struct{} // closed when nothing runs any more
}

// begin reports whether work may begin; whoever begins calls end.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running++
	return true
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 {
		for _, idle := range t.idle {
			close(idle)
		}
		t.idle = nil
	}
}

// whenIdle returns what is closed once nothing runs; last lets nothing begin any more.
func (t *tasks) whenIdle(last bool) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = t.closed || last
	idle := make(chan struct{})
	if t.running == 0 {
		close(idle)
	} else {
		t.idle = append(t.idle, idle)
	}
	return idle
}

// Drain brings to its end what was begun at authorization servers and providers, for as
// long as ctx lasts: their answers, which may be the only token, refresh token or secret
// that there is, are stored. What only waits gives up, and nothing is begun any more:
// tokens in memory are served, and whoever needs another one gets SHUTTING_DOWN. Call it
// before Close, when the last call was answered; Run may go on meanwhile. It reports
// whether everything came to its end.
func (b *Broker) Drain(ctx context.Context) bool {
	b.stop()
	select {
	case <-b.tasks.whenIdle(false):
		return true
	case <-ctx.Done():
		return false
	}
}

// Close stops detached work and waits for it; see [Broker.Drain] for what must not be
// broken off. Calls that wait for that work get SHUTTING_DOWN. The Broker must not be
// used afterwards.
func (b *Broker) Close() {
	idle := b.tasks.whenIdle(true)
	b.stop()
	b.abandon()
	<-idle
	b.secrets.forget()
	for _, stop := range []func() bool{
		b.clients.StopAllGoroutines, b.tokens.StopAllGoroutines, b.failures.StopAllGoroutines, b.parked.StopAllGoroutines,
		b.seen.StopAllGoroutines, b.skews.StopAllGoroutines, b.publicKeys.StopAllGoroutines, b.grants.StopAllGoroutines,
	} {
		stop()
	}
}

// wait is sleep that also ends, with false, when the Broker is to stop: for waits that
// another replica, or the next start, can begin anew.
func (b *Broker) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.stopping.Done():
	case <-ctx.Done():
	}
	return false
}

// gaveUp is the error of a wait that was not to the end.
func (b *Broker) gaveUp(ctx context.Context, c *Client, op string) error {
	if b.stopping.Err() != nil {
		return &Error{Reason: ReasonShuttingDown, Op: op, Client: c.ID}
	}
	return &Error{Reason: ReasonUpstreamTimeout, Op: op, Client: c.ID, Err: ctx.Err()}
}

// detached runs work that belongs to no caller, on a context that ends with Close
// or after timeout. begun is the context of the call that began it, of which only
// the trace is kept. It refuses to start after Close.
func (b *Broker) detached(begun context.Context, timeout time.Duration, work func(context.Context) error) error {
	if !b.tasks.begin() {
		return newError(ReasonShuttingDown, "", "")
	}
	defer b.tasks.end()
	ctx, cancel := context.WithTimeout(b.carryTrace(begun, b.working), timeout)
	defer cancel()
	err := b.guarded(ctx, func() error { return work(ctx) })
	if err != nil && b.stopping.Err() != nil {
		return &Error{Reason: ReasonShuttingDown, Err: err}
	}
	return err
}

// beside runs work in a goroutine of its own that Close waits for, and reports whether it
// was begun: not when the Broker is to stop.
func (b *Broker) beside(work func()) bool {
	if b.stopping.Err() != nil || !b.tasks.begin() {
		return false
	}
	go func() {
		defer b.tasks.end()
		work()
	}()
	return true
}

// guarded turns a panic of work into INTERNAL. It is for goroutines that nobody
// else guards: singleflight and errgroup let a panic end the process, and print
// its value, which may hold anything.
func (b *Broker) guarded(ctx context.Context, work func() error) (err error) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		text := fmt.Sprintf("panic of type %T", cause)
		if e, ok := cause.(runtime.Error); ok {
			text = e.Error() // holds no data of ours
		}
		b.log.ErrorContext(ctx, "shared work panicked", "cause", text, "stack", string(debug.Stack()))
		err = &Error{Reason: ReasonInternal, Op: "shared work", Err: errors.New(text)}
	}()
	return work()
}

// await waits for a flight, or for the caller to give up, which cancels nothing.
func await(ctx context.Context, flight <-chan singleflight.Result) (any, error) {
	select {
	case result := <-flight:
		return result.Val, result.Err
	case <-ctx.Done():
		return nil, &Error{Reason: ReasonDeadlineExceeded, Op: "wait for the answer", Err: ctx.Err()}
	}
}
