package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// quietRate is what a caller asks for that keeps within its limits, in calls a second.
	quietRate = 500
	// noisyRate is what one asks for whose row allows noisyAllowed.
	noisyRate, noisyAllowed = 5000, 100
)

// measureNoisy measures what a caller that asks for fifty times its limit does to the
// latency of another one.
func measureNoisy(ctx context.Context, w *world, p plan, measured figures) (err error) {
	request, answerBytes, err := w.warmRequest(ctx)
	if err != nil {
		return err
	}
	quiet := &target{process: w.broker, conns: w.conns, method: getToken, request: request, answerBytes: answerBytes, slack: answerSlack}
	conns, err := w.connectAs("noisy", w.broker.address, p.connections)
	if err != nil {
		return err
	}
	noisy := &target{process: w.broker, conns: conns, method: getToken, request: request, answerBytes: answerBytes, slack: answerSlack}
	defer func() { err = joinClose(err, noisy.close) }()
	var p50, p99 []float64
	var refused int
	for round := range p.rounds {
		var alone, beside []time.Duration
		steps := []func() error{
			func() (err error) { alone, err = quiet.openLoop(ctx, quietRate, p.open); return err },
			func() (err error) {
				beside, refused, err = besideNoise(ctx, quiet, noisy, p.open)
				return err
			},
		}
		for i := range steps {
			if err := steps[(i+round)%2](); err != nil {
				return err
			}
		}
		p.printf("noisy round %d: p50 %v against %v, p99 %v against %v, %d of %.0f noisy calls refused", round+1, percentile(beside, 0.5), percentile(alone, 0.5),
			percentile(beside, 0.99), percentile(alone, 0.99), refused, noisyRate*p.open.Seconds())
		p50 = append(p50, float64(percentile(beside, 0.5))/float64(percentile(alone, 0.5)))
		p99 = append(p99, float64(percentile(beside, 0.99))/float64(percentile(alone, 0.99)))
	}
	measured["noisy_caller_p50_vs_alone"], measured["noisy_caller_p99_vs_alone"] = median(p50), median(p99)
	return nil
}

// besideNoise measures quiet while noisy makes its calls, and counts those refused.
func besideNoise(ctx context.Context, quiet, noisy *target, duration time.Duration) (latencies []time.Duration, refused int, err error) {
	type result struct {
		refused int
		err     error
	}
	noise := make(chan result, 1)
	go func() {
		r := result{}
		_, errs := noisy.attempt(ctx, noisyRate, duration)
		for _, err := range errs {
			switch {
			case status.Code(err) == codes.ResourceExhausted:
				r.refused++
			case err != nil:
				r.err = err
			}
		}
		noise <- r
	}()
	latencies, err = quiet.openLoop(ctx, quietRate, duration)
	r := <-noise
	return latencies, r.refused, errors.Join(err, r.err)
}
