package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// target is one method of one server, called with the same bytes again and again.
type target struct {
	process *process
	conns   []*grpc.ClientConn
	method  string
	// request is the encoded request, answerBytes the size of the encoded answer: the
	// clients of both servers do equal work, and no server gets away with less.
	request     mem.BufferSlice
	answerBytes int
	// requests, if there are any, are made in turn instead of request.
	requests []mem.BufferSlice
	// slack is how much answers may differ from answerBytes, in bytes: times and
	// numbers in them are longer or shorter.
	slack int
	// tls, if not nil, makes closedLoop call by wires, as many as conns, which it connects
	// so when it is first called.
	tls   *tls.Config
	wires []*wire
}

// close closes the connections.
func (t *target) close() error {
	var errs []error
	for _, conn := range t.conns {
		errs = append(errs, conn.Close())
	}
	for _, w := range t.wires {
		w.close()
	}
	return errors.Join(errs...)
}

// nth returns the nth request.
func (t *target) nth(n int) mem.BufferSlice {
	if len(t.requests) > 0 {
		return t.requests[n%len(t.requests)]
	}
	return t.request
}

// checkAnswer returns what is wrong with an answer of that size.
func (t *target) checkAnswer(got int) error {
	if off := got - t.answerBytes; max(off, -off) > t.slack {
		return fmt.Errorf("%s answered %d bytes instead of %d", t.method, got, t.answerBytes)
	}
	return nil
}

// call makes the nth call.
func (t *target) call(ctx context.Context, n int) error {
	var got int
	if err := t.conns[n%len(t.conns)].Invoke(ctx, t.method, t.nth(n), &got, grpc.ForceCodecV2(encoded{})); err != nil {
		return err
	}
	return t.checkAnswer(got)
}

// encoded is a codec for messages that are encoded already, and of whose answers
// only the size matters: encoding is the client's time, which is not measured but
// would be taken from the server's.
type encoded struct{}

// Name implements encoding.CodecV2. The server must think it is its usual codec.
func (encoded) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (encoded) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

// Unmarshal implements encoding.CodecV2.
func (encoded) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// closedLoop has callers call one after the other for the duration, and returns
// how many calls were answered and in what time.
func (t *target) closedLoop(ctx context.Context, callers int, duration time.Duration) (calls int, took time.Duration, err error) {
	if t.tls != nil {
		if err := t.connectWires(ctx); err != nil {
			return 0, 0, err
		}
	}
	var over atomic.Bool
	timer := time.AfterFunc(duration, func() { over.Store(true) })
	defer timer.Stop()
	began := time.Now()
	counts, err := t.until(ctx, &over, callers)
	for _, n := range counts {
		calls += n
	}
	return calls, time.Since(began), err
}

// until has callers call until it is over, and returns how many calls each
// goroutine made.
func (t *target) until(ctx context.Context, over *atomic.Bool, callers int) ([]int, error) {
	var running sync.WaitGroup
	counts, errs := make([]int, callers), make([]error, callers)
	if len(t.wires) == 0 {
		for i := range callers {
			running.Go(func() {
				for !over.Load() && errs[i] == nil {
					errs[i] = t.call(ctx, i+callers*counts[i])
					counts[i]++
				}
			})
		}
	}
	for i, w := range t.wires {
		running.Go(func() {
			asked := make([]int, (callers+len(t.wires)-1-i)/len(t.wires)) // this wire's share of callers
			counts[i], errs[i] = w.loop(len(asked), over.Load, func(caller int) []byte {
				n := i + len(t.wires)*caller + callers*asked[caller]
				asked[caller]++
				return t.nth(n).Materialize()
			}, t.checkAnswer)
		})
	}
	running.Wait()
	return counts, first(errs)
}

// connectWires connects as many wires as there are connections.
func (t *target) connectWires(ctx context.Context) error {
	for len(t.wires) < len(t.conns) {
		w, err := dialWire(ctx, t.process.address, t.method, t.tls)
		if err != nil {
			return err
		}
		t.wires = append(t.wires, w)
	}
	return nil
}

// openLoop makes calls at a rate, whether or not earlier ones were answered, and
// returns how long each took from the moment at which it was due: a server that
// stalls does not get fewer calls by stalling.
func (t *target) openLoop(ctx context.Context, rate float64, duration time.Duration) ([]time.Duration, error) {
	latencies, errs := t.attempt(ctx, rate, duration)
	return latencies, first(errs)
}

// attempt is openLoop with the error of each call.
func (t *target) attempt(ctx context.Context, rate float64, duration time.Duration) ([]time.Duration, []error) {
	return paced(ctx, rate, duration, func(n int) error { return t.call(ctx, n) })
}

// paced makes calls at a rate and returns how long each took from when it was due, and
// its error. When ctx ends it makes no more of them, and its error is the last one.
func paced(ctx context.Context, rate float64, duration time.Duration, call func(n int) error) ([]time.Duration, []error) {
	calls := max(1, int(rate*duration.Seconds()))
	latencies, errs := make([]time.Duration, calls), make([]error, calls)
	var running sync.WaitGroup
	began := time.Now()
	for i := range calls {
		if err := ctx.Err(); err != nil {
			running.Wait()
			return latencies[:i], append(errs[:i], err)
		}
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		running.Go(func() {
			errs[i] = call(i)
			latencies[i] = time.Since(due)
		})
	}
	running.Wait()
	return latencies, errs
}

// eachOnce has callers make n calls, each one once.
func eachOnce(n, callers int, call func(n int) error) error {
	errs := make([]error, callers)
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			for k := i; k < n && errs[i] == nil; k += callers {
				errs[i] = call(k)
			}
		})
	}
	running.Wait()
	return first(errs)
}

// first returns the first error of many that most likely say the same.
func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// single makes one call after the other for the duration, and returns how long
// each took.
func (t *target) single(ctx context.Context, duration time.Duration) ([]time.Duration, error) {
	var latencies []time.Duration
	for end := time.Now().Add(duration); ; {
		began := time.Now()
		if began.After(end) {
			return latencies, nil
		}
		if err := t.call(ctx, 0); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(began))
	}
}
