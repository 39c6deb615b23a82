package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// measureMixed calls a server in all the ways in which it is called all day, and looks
// at what it holds meanwhile. The same clients come again and again, so that what grows
// is a leak.
func measureMixed(ctx context.Context, w *world, p plan, measured figures) (err error) {
	w.upstream.SetTokenLifetime(p.stormLifetime)
	defer w.upstream.SetTokenLifetime(ordinaryLifetime)
	file := w.files.path("mixed.db")
	if err := w.fill(ctx, file, 2*p.stormClients, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	process, err := startProcess(ctx, "broker under mixed load", childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: file}, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, process.stop) }()
	conns, err := w.connect(process.address)
	defer func() { err = joinClose(err, (&target{conns: conns}).close) }()
	if err != nil {
		return err
	}
	m := &mixed{p: p, conns: conns}
	var failures []error
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		failures = m.load(loading)
	}()
	held, sampleErr := samples(process, p, finished)
	cancel() // it is over, or the server is
	<-finished
	if sampleErr != nil {
		return sampleErr
	}
	m.report(held, failures, measured)
	return nil
}

// samples looks at what the server holds until the load has finished.
func samples(process *process, p plan, finished <-chan struct{}) (held []memory, err error) {
	ticker := time.NewTicker(p.long.sample)
	defer ticker.Stop()
	for {
		select {
		case <-finished:
			if len(held) >= 2 { // which is what there must be to compare
				return held, nil
			}
		case <-ticker.C:
		}
		now, err := process.memory()
		if err != nil {
			return nil, err
		}
		held = append(held, now)
	}
}

// mixed is the load.
type mixed struct {
	p     plan
	conns []*grpc.ClientConn
}

// load makes all calls and returns the errors of those that failed.
func (m *mixed) load(ctx context.Context) (failures []error) {
	rate := m.p.stormRate
	parts := []struct {
		name string
		rate float64
		call func(ctx context.Context, conn *grpc.ClientConn, n int) error
	}{
		// Half of the clients are called all the time: their tokens are warm, and renewed.
		{"warm tokens", rate, func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			return m.token(ctx, conn, n%m.p.stormClients)
		}},
		// The others are called so seldom that theirs have ended.
		{"cold tokens", rate / 50, func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			return m.token(ctx, conn, m.p.stormClients+n%m.p.stormClients)
		}},
		{"watches", rate / 50, m.watch},
		{"lists", rate / 100, func(ctx context.Context, conn *grpc.ClientConn, _ int) error {
			_, err := pb.NewClientServiceClient(conn).ListClients(ctx, &pb.ListClientsRequest{PageSize: 100})
			return err
		}},
	}
	errs := make([][]error, len(parts))
	var running sync.WaitGroup
	for i, part := range parts {
		running.Go(func() {
			_, errs[i] = paced(ctx, part.rate, m.p.long.mixed, func(n int) error { return part.call(ctx, m.conns[n%len(m.conns)], n) })
		})
	}
	running.Wait()
	for i, list := range errs {
		before := len(failures)
		for _, err := range list {
			if err != nil {
				failures = append(failures, err)
			}
		}
		m.p.printf("mixed: %d %s, of which %d failed (%v)", len(list), parts[i].name, len(failures)-before, first(list))
	}
	return failures
}

func (m *mixed) token(ctx context.Context, conn *grpc.ClientConn, client int) error {
	_, err := pb.NewTokenServiceClient(conn).GetToken(ctx, &pb.GetTokenRequest{Client: "clients/" + keyClient(client), MinValidity: durationpb.New(0)})
	return err
}

// watch holds a stream open for a moment.
func (m *mixed) watch(ctx context.Context, conn *grpc.ClientConn, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := watch(ctx, conn, keyClient(n%m.p.stormClients)); err != nil {
		return err
	}
	hold := time.NewTimer(min(m.p.long.mixed/20, 5*time.Second))
	defer hold.Stop()
	select {
	case <-hold.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// report compares the last quarter with the second: in the first, memory fills.
func (m *mixed) report(held []memory, failures []error, measured figures) {
	heaps := func(part []memory) float64 {
		return medianOf(part, func(h memory) float64 { return float64(h.Heap) })
	}
	goroutines := func(part []memory) float64 {
		return medianOf(part, func(h memory) float64 { return float64(h.Goroutines) })
	}
	begin, end := held[len(held)/4:len(held)/2], held[len(held)*3/4:]
	m.p.printf("mixed: heap %.1f MiB, then %.1f; goroutines %.0f, then %.0f",
		heaps(begin)/(1<<20), heaps(end)/(1<<20), goroutines(begin), goroutines(end))
	measured["mixed_failed_calls"] = float64(len(failures))
	measured["mixed_heap_end_vs_begin"] = heaps(end) / heaps(begin)
	measured["mixed_goroutines_end_vs_begin"] = goroutines(end) / goroutines(begin)
}

// medianOf returns the median of what of says of each.
func medianOf(held []memory, of func(memory) float64) float64 {
	var values []float64
	for _, h := range held {
		values = append(values, of(h))
	}
	return median(values)
}
