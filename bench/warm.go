package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// measureWarm compares GetToken of a warm token with the echo. Each round
// measures both right after each other, and the other one first than the round
// before, so that a machine whose speed drifts favours neither.
func measureWarm(ctx context.Context, w *world, p plan, measured figures) (err error) {
	broker, echo, err := w.targets(ctx)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, echo.close, echo.process.stop) }()
	c := comparer{p: p, broker: broker, echo: echo}
	for _, t := range []*target{broker, echo} {
		if _, _, err := t.closedLoop(ctx, p.callers, p.warmup); err != nil {
			return err
		}
	}
	// The profile spans only the rounds that the CPU figure comes from.
	err = broker.process.profiled(p.profiles, func() error {
		return echo.process.profiled(p.profiles, func() error { return c.throughput(ctx, measured) })
	})
	if err != nil {
		return err
	}
	if err := c.tail(ctx, measured); err != nil {
		return err
	}
	return c.alone(ctx, measured)
}

// getToken is the method that is measured.
const getToken = pb.TokenService_GetToken_FullMethodName

// warmRequest makes the broker have the token, and returns the encoded request for it
// and the size of the encoded answer.
func (w *world) warmRequest(ctx context.Context) (request mem.BufferSlice, answerBytes int, err error) {
	message := &pb.GetTokenRequest{Client: "clients/" + warmClient}
	answer, err := pb.NewTokenServiceClient(w.conns[0]).GetToken(ctx, message)
	if err != nil {
		return nil, 0, fmt.Errorf("get token: %w", err)
	}
	encodedRequest, err := proto.Marshal(message)
	if err != nil {
		return nil, 0, err
	}
	w.p.printf("warm: a request of %d bytes, an answer of %d, of which the token is %d", len(encodedRequest), proto.Size(answer), len(answer.GetAccessToken()))
	return mem.BufferSlice{mem.SliceBuffer(encodedRequest)}, proto.Size(answer), nil
}

// targets starts an echo and makes one target of each server, of equal bytes.
func (w *world) targets(ctx context.Context) (broker, echo *target, err error) {
	request, size, err := w.warmRequest(ctx)
	if err != nil {
		return nil, nil, err
	}
	broker = &target{process: w.broker, conns: w.conns, method: getToken, request: request, answerBytes: size, slack: answerSlack, tls: w.tls}
	process, err := startProcess(ctx, "echo", childConfig{TLS: w.files.tlsFiles(), EchoBytes: size}, w.p.progress)
	if err != nil {
		return nil, nil, err
	}
	// A request for a client is one bytes field with tag 1, which is a BytesValue.
	echo = &target{process: process, method: echoMethod, request: broker.request, answerBytes: size, tls: w.tls}
	if echo.conns, err = w.connect(process.address); err != nil {
		return nil, nil, joinClose(err, echo.close, process.stop)
	}
	return broker, echo, nil
}

// comparer compares GetToken with the echo.
type comparer struct {
	p            plan
	broker, echo *target
	// echoRate is the echo's throughput, in calls a second.
	echoRate float64
}

// sides is one round's measurement of each.
type sides[T any] struct{ broker, echo T }

// rounds measures both, in turn.
func rounds[T any](c *comparer, measure func(*target) (T, error), each func(round int, s sides[T])) error {
	for round := range c.p.rounds {
		var s sides[T]
		steps := []struct {
			target *target
			into   *T
		}{{c.broker, &s.broker}, {c.echo, &s.echo}}
		if round%2 == 1 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, step := range steps {
			var err error
			if *step.into, err = measure(step.target); err != nil {
				return err
			}
		}
		each(round+1, s)
	}
	return nil
}

// load is what one half of a throughput round measured.
type load struct{ rate, cpu, mallocs float64 }

// fullLoad has all callers call for a while.
func (t *target) fullLoad(ctx context.Context, p plan) (load, error) {
	var calls int
	var took time.Duration
	used, err := t.process.during(func() (err error) {
		calls, took, err = t.closedLoop(ctx, p.callers, p.closed)
		return err
	})
	n := float64(calls)
	return load{rate: n / took.Seconds(), cpu: float64(used.CPU) / n, mallocs: float64(used.Mallocs) / n}, err
}

// throughput measures CPU time, allocations and calls a second under full load.
func (c *comparer) throughput(ctx context.Context, measured figures) error {
	var cpu, rate, allocs, echoRates []float64
	err := rounds(c, func(t *target) (load, error) { return t.fullLoad(ctx, c.p) }, func(round int, s sides[load]) {
		c.p.printf("warm round %d: CPU %.1f against %.1f µs a call, %.0f against %.0f calls a second, %.1f against %.1f objects a call", round,
			s.broker.cpu/1e3, s.echo.cpu/1e3, s.broker.rate, s.echo.rate, s.broker.mallocs, s.echo.mallocs)
		cpu = append(cpu, s.broker.cpu/s.echo.cpu)
		rate = append(rate, s.broker.rate/s.echo.rate)
		allocs = append(allocs, s.broker.mallocs)
		echoRates = append(echoRates, s.echo.rate)
	})
	measured["warm_server_cpu_vs_echo"], measured["warm_throughput_vs_echo"], measured["warm_allocs_per_call"] = median(cpu), median(rate), median(allocs)
	c.echoRate = median(echoRates)
	return err
}

// tail measures the 99th percentile at half of the rate that the echo can take.
func (c *comparer) tail(ctx context.Context, measured figures) error {
	var ratios []float64
	err := rounds(c, func(t *target) (time.Duration, error) {
		latencies, err := t.openLoop(ctx, c.echoRate/2, c.p.open)
		return percentile(latencies, 0.99), err
	}, func(round int, s sides[time.Duration]) {
		c.p.printf("p99 round %d at %.0f calls a second: %v against %v", round, c.echoRate/2, s.broker, s.echo)
		ratios = append(ratios, float64(s.broker)/float64(s.echo))
	})
	measured["warm_p99_vs_echo"] = median(ratios)
	return err
}

// alone measures the median of a caller that has the server for itself.
func (c *comparer) alone(ctx context.Context, measured figures) error {
	var ratios []float64
	err := rounds(c, func(t *target) (time.Duration, error) {
		latencies, err := t.single(ctx, c.p.single)
		return percentile(latencies, 0.5), err
	}, func(round int, s sides[time.Duration]) {
		c.p.printf("single caller round %d: p50 %v against %v", round, s.broker, s.echo)
		ratios = append(ratios, float64(s.broker)/float64(s.echo))
	})
	measured["single_caller_p50_vs_echo"] = median(ratios)
	return err
}
