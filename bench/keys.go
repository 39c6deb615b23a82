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
func keyName(i int) string   { return "clients/" + keyClient(i) }

// measureKeys compares the same callers on many warm tokens, each of a client of its
// own, with one. They differ in what is touched and in nothing else: one server holds
// all tokens all the time. An echo that has an answer for each client in a map shows
// what of that no server can do without.
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
	broker, err := w.keyTarget(ctx, process, getToken, requests)
	defer func() { err = joinClose(err, broker.close) }()
	if err != nil {
		return err
	}
	cfg = childConfig{TLS: cfg.TLS, EchoBytes: broker.answerBytes, EchoKeys: p.keys}
	echoing, err := startProcess(ctx, "echo with many keys", cfg, p.progress)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, echoing.stop) }()
	echo, err := w.keyTarget(ctx, echoing, echoMethod, requests)
	defer func() { err = joinClose(err, echo.close) }()
	if err != nil {
		return err
	}
	began := time.Now()
	for range 2 { // the first call gets a token, the second is served what lies in memory
		if err := eachOnce(p.keys, p.callers, func(n int) error { return broker.call(ctx, n) }); err != nil {
			return fmt.Errorf("warm: %w", err)
		}
	}
	p.printf("keys: %d tokens warm after %v", p.keys, time.Since(began).Round(time.Millisecond))
	return measureSets(ctx, p, broker, echo, requests, measured)
}

// keySet is how one server did with so many keys.
type keySet struct {
	target   *target
	requests []mem.BufferSlice
	keys     int
	// figures are named so; "" is what the next ones are compared with.
	name   string
	rounds []load
}

// measureSets compares the broker's sets of keys with each other, and the echo's.
func measureSets(ctx context.Context, p plan, broker, echo *target, requests []mem.BufferSlice, measured figures) error {
	thousand := min(1000, p.keys)
	sets := []keySet{
		{target: broker, keys: 1},
		{target: broker, keys: thousand, name: "keys_1k"},
		{target: broker, keys: p.keys, name: "keys_100k"},
		{target: echo, keys: 1},
		{target: echo, keys: p.keys, name: "keys_100k_echo"},
	}
	for i := range sets {
		sets[i].requests = repeated(requests, sets[i].keys)
	}
	for round := range p.costRounds {
		for i := range sets {
			set := &sets[(i+round)%len(sets)] // whoever comes first is not always the same
			if err := set.measure(ctx, p); err != nil {
				return err
			}
		}
		for _, set := range sets {
			l := set.rounds[round]
			p.printf("keys round %d: %d keys of %s, CPU %.1f µs a call, %.0f calls a second", round+1, set.keys, set.target.method, l.cpu/1e3, l.rate)
		}
	}
	var one keySet
	for _, set := range sets {
		if set.name == "" {
			one = set
			continue
		}
		var rate, cpu []float64
		for round, l := range set.rounds {
			rate, cpu = append(rate, l.rate/one.rounds[round].rate), append(cpu, l.cpu/one.rounds[round].cpu)
		}
		measured[set.name+"_vs_1"], measured[set.name+"_cpu_vs_1"] = median(rate), median(cpu)
	}
	return nil
}

func (s *keySet) measure(ctx context.Context, p plan) error {
	s.target.requests = s.requests
	// Collecting garbage takes as long as many calls and would fall into one half of a
	// round or the other; just after it, none is due for the length of one.
	if _, err := s.target.process.memory(); err != nil {
		return err
	}
	l, err := s.target.fullLoad(ctx, p)
	s.rounds = append(s.rounds, l)
	return err
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
		encodedRequest, err := proto.Marshal(&pb.GetTokenRequest{Client: keyName(i)})
		if err != nil {
			return nil, err
		}
		requests = append(requests, mem.BufferSlice{mem.SliceBuffer(encodedRequest)})
	}
	return requests, nil
}

// keyTarget connects to the server and makes the first of the requests. The target is
// the caller's to close also when there is an error.
func (w *world) keyTarget(ctx context.Context, process *process, method string, requests []mem.BufferSlice) (t *target, err error) {
	t = &target{process: process, method: method, requests: requests, slack: answerSlack}
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
