package server

import (
	"context"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/broker"
)

// lookForSight is how often it is looked whether the broker has become blind.
const lookForSight = time.Second

// Ready reports whether the store was read once since Serve began, the broker is not blind
// ([broker.Broker.Blind]), and the server is not about to go.
func (s *Server) Ready() bool { return s.ready.Load() && !s.stopping.Load() }

func (s *Server) setReady(ready bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.setServing(status)
	s.ready.Store(ready)
}

// watchStore declares the services healthy once the store was read, and unhealthy while
// the broker is blind, until ctx ends.
func (s *Server) watchStore(ctx context.Context) {
	if !s.waitForStore(ctx) {
		return
	}
	ticker := time.NewTicker(lookForSight)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		blind := s.broker.Blind()
		switch ready := s.ready.Load(); {
		case blind != nil && ready:
			s.setReady(false)
			s.log.Error("not serving", "reason", broker.ReasonOf(blind), "remedy", broker.ReasonOf(blind).Info().Remedy, "cause", blind)
		case blind == nil && !ready:
			s.setReady(true)
			s.log.Info("the feed was read again, serving")
		}
	}
}

// waitForStore reads the store until it answers once, then declares the services
// healthy. It reports false when ctx ended before.
func (s *Server) waitForStore(ctx context.Context) bool {
	const most = 10 * time.Second
	last := broker.Reason("")
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		err := s.broker.Ready(ctx)
		if err == nil {
			s.setReady(true)
			s.log.Info("store read, serving")
			return true
		}
		if reason := broker.ReasonOf(err); reason != last && ctx.Err() == nil {
			last = reason
			s.log.Error("store not ready", "reason", reason, "remedy", reason.Info().Remedy, "cause", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}
