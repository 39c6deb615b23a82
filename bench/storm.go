package main

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// ordinaryLifetime is what tokens live for outside of the storm.
const ordinaryLifetime = 24 * time.Hour

// storm calls for the tokens of many clients and notes which it gets.
type storm struct {
	world *world
	mu    sync.Mutex      // guards seen
	seen  map[string]bool // ids of tokens
}

// measureStorm has the tokens of many clients end at nearly the same time, while all
// are in use.
func measureStorm(ctx context.Context, w *world, p plan, measured figures) error {
	w.upstream.SetTokenLifetime(p.stormLifetime)
	defer w.upstream.SetTokenLifetime(ordinaryLifetime)
	s := &storm{world: w, seen: map[string]bool{}}
	call := func(n int) error { return s.call(ctx, n) }
	before, began := w.upstream.Requests(), time.Now()
	if err := eachOnce(p.stormClients, p.callers, call); err != nil {
		return err
	}
	warm := time.Since(began)
	// A token is replaced when four fifths of its life are over, give or take a little:
	// at half of it none is yet, and some time after its end all are, once.
	calm, errs := paced(ctx, p.stormRate, max(p.stormLifetime/2-warm, p.stormLifetime/10), call)
	if err := first(errs); err != nil {
		return err
	}
	stormy, errs := paced(ctx, p.stormRate, max(p.stormLifetime*5/4-time.Since(began), p.stormLifetime/2), call)
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	requests := w.upstream.Requests() - before
	if err := eachOnce(p.stormClients, p.callers, call); err != nil { // a token of the last second may have been served to nobody yet
		return err
	}
	p.printf("storm: %d clients warm after %v; %d calls, %d failed (%v); %d requests, %d tokens; p99 %v, before it %v", p.stormClients, warm.Round(time.Millisecond),
		len(errs), failed, first(errs), requests, len(s.seen), percentile(stormy, 0.99), percentile(calm, 0.99))
	measured["refresh_storm_failed_calls"] = float64(failed)
	measured["refresh_storm_requests_per_token"] = float64(requests) / float64(len(s.seen))
	measured["refresh_storm_p99_vs_calm"] = float64(percentile(stormy, 0.99)) / float64(percentile(calm, 0.99))
	return nil
}

// call makes the nth call. It takes a token however soon that ends: tokens so
// short-lived would else be replaced at half of their life.
func (s *storm) call(ctx context.Context, n int) error {
	conn := s.world.conns[n%len(s.world.conns)]
	token, err := pb.NewTokenServiceClient(conn).GetToken(ctx, &pb.GetTokenRequest{
		Client: "clients/" + stormClient(n%s.world.p.stormClients), MinValidity: durationpb.New(0),
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[token.GetTokenId()] = true
	return nil
}
