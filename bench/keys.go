package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

func keyClient(i int) string { return fmt.Sprintf("bench-key-%07d", i) }

// measureKeys compares the same callers on many warm tokens, each of a client of its
// own, with one. They differ in what is touched and in nothing else: one server holds
// all tokens all the time.
func measureKeys(ctx context.Context, w *world, p plan, measured figures) (err error) {
	file := w.files.path("keys.db")
	if err := w.fill(ctx, file, p.keys, keyClient); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	requests, err := keyRequests(p.keys)
	if err != nil {
		return err
	}
	cfg := childConfig{TLS: w.files.tlsFiles(), Caller: callerIdentity, StoreFile: file, LocalTokens: true, Cached: 2 * p.keys}
	process, err := startProcess(ctx, "broker with many keys", cfg, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, process.stop) }()
	all, err := w.keyTarget(ctx, process, requests)
	defer func() { err = joinClose(err, all.close) }()
	if err != nil {
		return err
	}
	began := time.Now()
	for range 2 { // the first call gets a token, the second is served what lies in memory
		if err := eachOnce(p.keys, p.callers, func(n int) error { return all.call(ctx, n) }); err != nil {
			return fmt.Errorf("warm: %w", err)
		}
	}
	p.printf("keys: %d tokens warm after %v", p.keys, time.Since(began).Round(time.Millisecond))
	sets := []struct {
		requests []mem.BufferSlice
		keys     int
		rounds   []load
		name     string
	}{{keys: 1}, {keys: min(1000, p.keys), name: "keys_1k"}, {keys: p.keys, name: "keys_100k"}}
	for i := range sets {
		sets[i].requests = repeated(requests, sets[i].keys)
	}
	for round := range p.costRounds {
		for i := range sets {
			set := &sets[(i+round)%len(sets)] // whoever comes first is not always the same
			all.requests = set.requests
			// Collecting garbage takes as long as many calls and would fall into one half of
			// a round or the other; just after it, none is due for the length of one.
			if _, err := process.memory(); err != nil {
				return err
			}
			l, err := all.fullLoad(ctx, p)
			if err != nil {
				return err
			}
			set.rounds = append(set.rounds, l)
		}
		for _, set := range sets {
			l := set.rounds[round]
			p.printf("keys round %d: %d keys, CPU %.1f µs a call, %.0f calls a second", round+1, set.keys, l.cpu/1e3, l.rate)
		}
	}
	for _, set := range sets[1:] {
		var rate, cpu []float64
		for round, l := range set.rounds {
			one := sets[0].rounds[round]
			rate, cpu = append(rate, l.rate/one.rate), append(cpu, l.cpu/one.cpu)
		}
		measured[set.name+"_vs_1"], measured[set.name+"_cpu_vs_1"] = median(rate), median(cpu)
	}
	return nil
}

// repeated returns as many requests as there are, all of their own, for the first so
// many keys in turn: the client touches equally much memory whatever the keys.
func repeated(requests []mem.BufferSlice, keys int) []mem.BufferSlice {
	return each(len(requests), func(i int) mem.BufferSlice {
		return mem.BufferSlice{mem.SliceBuffer(requests[i%keys].Materialize())}
	})
}

// keyRequests are encoded requests for n keys, in an order in which no two that follow
// each other were made after each other.
func keyRequests(n int) ([]mem.BufferSlice, error) {
	requests := make([]mem.BufferSlice, 0, n)
	for _, i := range rand.Perm(n) {
		encodedRequest, err := proto.Marshal(&pb.GetTokenRequest{Client: "clients/" + keyClient(i)})
		if err != nil {
			return nil, err
		}
		requests = append(requests, mem.BufferSlice{mem.SliceBuffer(encodedRequest)})
	}
	return requests, nil
}

// keyTarget connects to the server and makes the first of the requests. The target is
// the caller's to close also when there is an error.
func (w *world) keyTarget(ctx context.Context, process *process, requests []mem.BufferSlice) (t *target, err error) {
	t = &target{process: process, method: getToken, requests: requests, slack: answerSlack}
	if t.conns, err = w.connect(process.address); err != nil {
		return t, err
	}
	t.answerBytes, err = t.answerSize(ctx)
	return t, err
}

// answerSlack is how much answers with tokens of equal length differ in size: their
// times do, and the clock's nanoseconds.
const answerSlack = 16

// answerSize makes the first request and returns how large the answer is.
func (t *target) answerSize(ctx context.Context) (size int, err error) {
	request := t.request
	if len(t.requests) > 0 {
		request = t.requests[0]
	}
	if err := t.conns[0].Invoke(ctx, t.method, request, &size, grpc.ForceCodecV2(encoded{})); err != nil {
		return 0, fmt.Errorf("get token: %w", err)
	}
	return size, nil
}
