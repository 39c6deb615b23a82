package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// breakAfter failures in a row an endpoint is taken to be down: for breakFor,
	// doubled with each failed trial up to maxBreak, nobody asks it.
	breakAfter = 5
	breakFor   = 5 * time.Second
	maxBreak   = 10 * time.Second

	defaultMints            = 256
	defaultMintsPerEndpoint = 32
)

// endpoints guards token endpoints from too many requests: a limit of those under
// way at one and at all, and a circuit breaker for each, so that a server which is
// down is asked by one mint and not by that of every client. Safe for concurrent use.
type endpoints struct {
	perEndpoint int64
	all         *semaphore.Weighted

	mu sync.Mutex // guards open and what is in it
	// open :: endpoint → its state, as long as there is anything to know of it
	open map[string]*endpointState
}

// endpointState is what is known of one endpoint.
type endpointState struct {
	slots *semaphore.Weighted
	users int
	// failures in a row; trials of them that failed while the circuit was broken.
	failures, trials int
	last             error
	brokenUntil      time.Time
	// trial is closed when the one request that may find out has its answer; nil if
	// there is none under way.
	trial chan struct{}
}

func newEndpoints(all, perEndpoint int) *endpoints {
	if all <= 0 {
		all = defaultMints
	}
	if perEndpoint <= 0 {
		perEndpoint = defaultMintsPerEndpoint
	}
	return &endpoints{perEndpoint: int64(perEndpoint), all: semaphore.NewWeighted(int64(all)), open: map[string]*endpointState{}}
}

// do runs request once there is room, or returns the endpoint's last failure while
// it is down, with the time until somebody may try as RetryAfter.
func (e *endpoints) do(ctx context.Context, endpoint string, request func() error) error {
	s := e.enter(endpoint)
	defer e.leave(endpoint, s)
	if err := acquire(ctx, s.slots); err != nil {
		return err
	}
	defer s.slots.Release(1)
	finish, err := e.admit(ctx, s)
	if err != nil {
		return err
	}
	// Last: those who wait for a trial must not take the room of other endpoints.
	if err := acquire(ctx, e.all); err != nil {
		finish(endpointUnknown, nil)
		return err
	}
	defer e.all.Release(1)
	outcome := endpointFailed // unless request returns
	defer func() { finish(outcome, err) }()
	err = request()
	outcome = outcomeOf(err)
	return err
}

func acquire(ctx context.Context, limit *semaphore.Weighted) error {
	if err := limit.Acquire(ctx, 1); err != nil {
		return &Error{Reason: ReasonTooManyRequests, Op: "request token", Detail: "as many requests to authorization servers are under way as may be", Err: err}
	}
	return nil
}

// errNotAsked is in the errors of requests that were not made, because the endpoint
// is known to be down.
var errNotAsked = errors.New("not asked, the endpoint failed repeatedly")

// endpointOutcome is what a request tells of its endpoint.
type endpointOutcome int

const (
	endpointUnknown endpointOutcome = iota
	endpointAnswered
	endpointFailed
)

func outcomeOf(err error) endpointOutcome {
	switch reason := ReasonOf(err); {
	case err == nil:
		return endpointAnswered
	case transient(reason) || reason == ReasonUpstreamTLS:
		return endpointFailed
	case answered(reason) && reason != ReasonUpstreamAddressRefused:
		return endpointAnswered
	default:
		return endpointUnknown // nothing was sent, or nobody waited for the answer
	}
}

func (e *endpoints) enter(endpoint string) *endpointState {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.open[endpoint]
	if !ok {
		s = &endpointState{slots: semaphore.NewWeighted(e.perEndpoint)}
		e.open[endpoint] = s
	}
	s.users++
	return s
}

func (e *endpoints) leave(endpoint string, s *endpointState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.users--; s.users == 0 && s.failures == 0 {
		delete(e.open, endpoint)
	}
}

// admit lets a request through, and returns what must be called with its end. When
// the time of a broken circuit is over, one request goes on trial and the others wait
// for what becomes of it.
func (e *endpoints) admit(ctx context.Context, s *endpointState) (func(endpointOutcome, error), error) {
	for {
		e.mu.Lock()
		now := time.Now()
		switch {
		case s.failures < breakAfter:
			e.mu.Unlock()
			return func(o endpointOutcome, err error) { e.note(s, nil, o, err) }, nil
		case now.Before(s.brokenUntil):
			last := *AsError(s.last)
			e.mu.Unlock()
			last.RetryAfter, last.Err = s.brokenUntil.Sub(now), errNotAsked
			return nil, &last
		case s.trial == nil:
			trial := make(chan struct{})
			s.trial = trial
			e.mu.Unlock()
			return func(o endpointOutcome, err error) { e.note(s, trial, o, err) }, nil
		}
		trial := s.trial
		e.mu.Unlock()
		select {
		case <-trial:
		case <-ctx.Done():
			return nil, &Error{Reason: ReasonUpstreamTimeout, Op: "wait for another request's answer", Err: ctx.Err()}
		}
	}
}

// note takes in what became of a request.
func (e *endpoints) note(s *endpointState, trial chan struct{}, outcome endpointOutcome, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if trial != nil {
		s.trial = nil
		defer close(trial)
	}
	switch outcome {
	case endpointUnknown:
		return
	case endpointAnswered:
		s.failures, s.trials, s.last = 0, 0, nil
		return
	}
	if err != nil {
		s.last = err
	}
	s.failures++
	if trial != nil {
		s.trials++
	}
	if s.failures == breakAfter || trial != nil {
		s.brokenUntil = time.Now().Add(min(breakFor<<min(s.trials, 4), maxBreak))
	}
}
