package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

const (
	// A stream that ends is opened again after minWatchPause, doubled with each
	// stream that brought nothing up to maxWatchPause.
	minWatchPause = time.Second
	maxWatchPause = time.Minute
	// noWatchPause passes after the broker said that it has no such method or that we
	// may not call it: an operator may change that.
	noWatchPause = 5 * time.Minute
)

// watch keeps a stream of new tokens open until the source is closed. Without one the
// source asks by itself.
func (s *Source) watch() {
	for streams := 0; ; streams++ {
		brought, err := s.watchOnce()
		if brought {
			streams = 0
		}
		pause := min(maxWatchPause, minWatchPause<<min(streams, 10))
		e := errorOf(err)
		if e.Code == codes.Unimplemented || e.Code == codes.PermissionDenied {
			pause = noWatchPause
		}
		timer := time.NewTimer(max(jitter(pause), min(e.RetryAfter, maxRetryAfter)))
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// watchOnce reads one stream to its end, and says whether it brought a token.
func (s *Source) watchOnce() (brought bool, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel() // what is left of the stream
	r := s.request
	stream, err := s.client.tokens.WatchToken(ctx, &pb.WatchTokenRequest{
		Client: r.Client, Scopes: r.Scopes, Audience: r.Audience, Resources: r.Resources, Subject: r.Subject,
	}, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	defer s.setWatching(false)
	for {
		response, err := stream.Recv()
		if err != nil {
			return brought, err
		}
		token, err := tokenOf(response.GetToken())
		if err != nil {
			return brought, err
		}
		brought = true
		s.setWatching(true)
		s.push(token)
	}
}

func (s *Source) setWatching(watching bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watching = watching
}

// push takes a token that the broker sent by itself, which promises nothing about how
// long it is good for.
func (s *Source) push(token *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := time.Now()
	s.takeLocked(answer{token: token, sent: now, received: now, unasked: true}, 0)
	s.unchanged = 0
	s.publishLocked(now)
}
