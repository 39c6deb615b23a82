package client

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
)

const (
	// After a failure nobody is asked for minPause, doubled with each further failure
	// up to maxPause; a longer RetryInfo wins, up to maxRetryAfter. The same holds
	// where asking brought the token that is held already.
	minPause      = time.Second
	maxPause      = 30 * time.Second
	maxRetryAfter = 5 * time.Minute
	// rejectPause is how long the broker is not told again of the same token.
	rejectPause = 5 * time.Second
)

// Source keeps one token and gets the next one in time. Until the broker said that
// asking may bring a newer token it serves the one it has without asking; from then on
// the first caller starts one request in the background, and all are served the old
// token until the new one is there. Whether that succeeds matters only when the held
// token expires.
//
// It is an oauth2.TokenSource, and needs no oauth2.ReuseTokenSource around it. Make it
// with [Client.Source]; close it, or its Client. It is safe for concurrent use.
type Source struct {
	client  *Client
	request Request
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // what runs until Close

	// fresh is the token while it may be served without looking at anything else; a
	// timer takes it away. So a warm call costs one atomic read and no clock.
	fresh atomic.Pointer[held]

	mu     sync.Mutex // guards what follows, and writes of fresh
	closed bool
	held   *held     // the newest token, nil before the first
	until  time.Time // when fresh is to be taken away
	timer  *time.Timer
	flight *flight // the request under way, nil if there is none
	// nextAsk is before when nobody asks: held is fresh, or asking failed or was vain.
	nextAsk   time.Time
	failure   error // of the last request; nil after a success
	failures  int   // in a row
	unchanged int   // how often in a row asking brought the held token
	watching  bool  // whether the broker sends new tokens by itself
	// rejectedID is the token that the broker was told of last, not again before rejectedUntil.
	rejectedID    string
	rejectedUntil time.Time
}

var _ oauth2.TokenSource = (*Source)(nil)

// flight is one request that everybody waits for who needs its answer.
type flight struct {
	rejectedID string
	done       chan struct{} // closed when what follows is set
	held       *held
	err        error
}

// Source returns a source of the tokens that r describes. It asks for the first one
// when it is first asked itself, or at once if r.Watch is set.
func (c *Client) Source(r Request) *Source {
	s := &Source{client: c, request: r.clone()}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.timer = time.AfterFunc(time.Hour, s.takeAway)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sources == nil {
		s.shut()
		return s
	}
	c.sources[s] = struct{}{}
	if r.Watch {
		s.tasks.Go(s.watch)
	}
	return s
}

// Close ends what s does in the background, and calls that wait with [ErrClosed]. When
// it returns nothing of s is left running. It may be called twice.
func (s *Source) Close() {
	s.shut()
	s.client.mu.Lock()
	delete(s.client.sources, s)
	s.client.mu.Unlock()
	s.tasks.Wait()
}

func (s *Source) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.held = true, nil
	s.fresh.Store(nil)
	s.timer.Stop()
	s.cancel()
}

// Token implements oauth2.TokenSource. Without a token that may be served it waits for
// the broker, for the client's timeout at most. The token's extra field "token_id" is
// its ID; its Expiry is a reading of the local clock. The token is shared and must not
// be changed. The error is an [*Error] or [ErrClosed].
func (s *Source) Token() (*oauth2.Token, error) {
	if h := s.fresh.Load(); h != nil {
		return h.oauth, nil
	}
	h, err := s.get(context.Background())
	if err != nil {
		return nil, err
	}
	return h.oauth, nil
}

// Get is Token for those who have a context to wait with, and want to know more of
// the token. A caller that leaves cancels nothing.
func (s *Source) Get(ctx context.Context) (*Token, error) {
	h, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return h.token, nil
}

func (s *Source) get(ctx context.Context) (*held, error) {
	if h := s.fresh.Load(); h != nil {
		return h, nil
	}
	s.mu.Lock()
	now := time.Now()
	if s.held.servable(now) {
		if s.flight == nil && !now.Before(s.nextAsk) {
			s.startLocked("")
		}
		s.publishLocked(now)
		h := s.held
		s.mu.Unlock()
		return h, nil
	}
	f, err := s.joinLocked(now)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.wait(ctx)
}

// Reject tells the broker that the API refused the token of that ID although it had
// not expired, and waits for the answer. If it is not the token that is held, or the
// broker was just told of it, nothing is to be done. Other callers are served the held
// token until there is a new one: one API's refusal must not stop the others. The
// error, an [*Error] or [ErrClosed], says why there is no new one.
func (s *Source) Reject(ctx context.Context, tokenID string) error {
	for {
		f, err := s.rejectFlight(tokenID)
		if f == nil {
			return err
		}
		if _, err := f.wait(ctx); f.rejectedID == tokenID || ctx.Err() != nil {
			return err
		}
		// It was a request that did not name the token: does its answer?
	}
}

// rejectFlight returns what to wait for, or nil.
func (s *Source) rejectFlight(tokenID string) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.held == nil || s.held.token.ID != tokenID:
		return nil, nil
	case s.flight != nil:
		return s.flight, nil
	case s.rejectedID == tokenID && now.Before(s.rejectedUntil):
		return nil, nil
	case s.failure != nil && now.Before(s.nextAsk):
		return nil, s.failureLocked(now)
	}
	s.rejectedID, s.rejectedUntil = tokenID, now.Add(rejectPause)
	return s.startLocked(tokenID), nil
}

// joinLocked returns the request under way, or a new one, unless one failed lately.
func (s *Source) joinLocked(now time.Time) (*flight, error) {
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.flight != nil:
		return s.flight, nil
	case s.failure != nil && now.Before(s.nextAsk):
		return nil, s.failureLocked(now)
	}
	return s.startLocked(""), nil
}

// failureLocked is the last failure, with what is left of its pause.
func (s *Source) failureLocked(now time.Time) error {
	e, ok := s.failure.(*Error)
	if !ok {
		return s.failure
	}
	again := *e
	again.RetryAfter = s.nextAsk.Sub(now)
	return &again
}

// startLocked asks the broker in the background. The request belongs to the source
// and to no caller.
func (s *Source) startLocked(rejectedID string) *flight {
	f := &flight{rejectedID: rejectedID, done: make(chan struct{})}
	s.flight = f
	s.tasks.Go(func() {
		a, err := s.client.ask(s.ctx, s.request, rejectedID)
		s.land(f, a, err)
	})
	return f
}

func (s *Source) land(f *flight, a answer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight = nil
	switch {
	case s.closed:
		f.err = ErrClosed
		return
	case err != nil:
		f.err = err
		s.failLocked(err)
	default:
		f.held = s.takeLocked(a, s.guarantee())
		s.pauseLocked()
	}
	s.publishLocked(time.Now())
}

// guarantee is how long the broker promises that a token is good for.
func (s *Source) guarantee() time.Duration {
	if s.request.MinValidity > 0 {
		return s.request.MinValidity
	}
	return assumedGuarantee
}

// takeLocked makes a token the held one and returns that. An older token than the held
// one, which another replica may have, is not taken.
func (s *Source) takeLocked(a answer, guarantee time.Duration) *held {
	s.failure, s.failures = nil, 0
	switch {
	case s.held != nil && s.held.token.ID == a.token.ID:
		s.unchanged++
		s.held = hold(a, s.request.MinValidity, guarantee, s.held)
	case s.held.servable(a.received) && a.token.IssueTime.Before(s.held.token.IssueTime):
		s.unchanged++
	default:
		s.unchanged = 0
		s.held = hold(a, s.request.MinValidity, guarantee, nil)
	}
	s.nextAsk = s.held.soft
	if s.watching { // the broker comes first, unless it is late
		s.nextAsk = s.nextAsk.Add(s.held.window / 4)
	}
	return s.held
}

// pauseLocked keeps callers from asking as fast as they come while the broker has
// nothing newer.
func (s *Source) pauseLocked() {
	most := max(minPause, min(maxPause, s.held.window/4))
	pause := min(most, minPause<<min(s.unchanged, 10))
	s.nextAsk = later(s.nextAsk, time.Now().Add(pause))
}

func (s *Source) failLocked(err error) {
	pause := jitter(min(maxPause, minPause<<min(s.failures, 10)))
	if e, ok := err.(*Error); ok {
		pause = max(pause, min(e.RetryAfter, maxRetryAfter))
	}
	s.failure, s.failures = err, s.failures+1
	s.nextAsk = time.Now().Add(pause)
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// publishLocked lets callers take the held token without looking further, until there
// is something to ask or the token must go.
func (s *Source) publishLocked(now time.Time) {
	if s.closed || !s.held.servable(now) {
		s.fresh.Store(nil)
		return
	}
	s.until = s.held.hard
	if s.flight == nil {
		s.until = earlier(s.until, s.nextAsk)
	}
	if !now.Before(s.until) {
		s.fresh.Store(nil)
		return
	}
	s.fresh.Store(s.held)
	s.timer.Reset(s.until.Sub(now))
}

// takeAway is what the timer does; it may be late for what was published since.
func (s *Source) takeAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !time.Now().Before(s.until) {
		s.fresh.Store(nil)
	}
}

func (f *flight) wait(ctx context.Context) (*held, error) {
	select {
	case <-f.done:
		return f.held, f.err
	case <-ctx.Done():
		return nil, errorOfContext(ctx)
	}
}

// Format writes the type's name and the client's, whatever the verb.
func (s *Source) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "client.Source("+s.request.Client+")")
}
