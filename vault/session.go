package vault

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
)

// session is one token and the client that uses it. It does not change: a new
// token is a new session, and requests under way keep the old one.
type session struct {
	client *api.Client
	since  time.Time     // when the token was asked for
	lease  time.Duration // how long it lived then; 0: it never expires
	asked  time.Duration // what a renewal asks for
	// renewable says that a renewal may prolong it.
	renewable bool

	// Of a token from a file: how long it had lived by then, and when it ends
	// whatever is done, zero if that is not known.
	age  time.Duration
	last time.Time
}

// replaceIn returns how long the session may be used before a new one should
// replace it.
func (s *session) replaceIn() time.Duration {
	if s.lease == 0 {
		return 1<<63 - 1
	}
	return time.Until(s.since.Add(overlapAfter(s.lease)))
}

// overlapAfter returns when a token that lives for lease and no longer should be
// replaced: after 80 %, so that the new one is there while the old one still
// works. Vault counts in whole seconds: a batch token was seen to die 0.8 s
// before the end of the lease that it was given out with.
func overlapAfter(lease time.Duration) time.Duration {
	return (lease - time.Second) * 4 / 5
}

// gate holds the session that calls use, and lets them wait for one.
type gate struct {
	mu      sync.Mutex
	current *session      // guarded by mu; nil if there is no usable one
	problem *broker.Error // guarded by mu; why there is none; nil while a login is under way
	closed  bool          // guarded by mu; Run has ended
	changed chan struct{} // guarded by mu; closed and replaced at each change

	// wanted tells Run why the current session was renounced.
	wanted chan ending
}

// ending is why a session is no longer used.
type ending int

const (
	// replaced: it will end soon, and another takes its place.
	replaced ending = iota
	// dead: Vault does not accept its token any more.
	dead
	// doubted: Vault's answers are not those of the mount that was checked.
	doubted
)

func newGate() gate {
	return gate{changed: make(chan struct{}), wanted: make(chan ending, 1)}
}

// wait returns the current session. While there is none it waits for the
// outcome of the login under way, for at most bound; after a failed login it
// returns its error at once, until Run has succeeded.
func (g *gate) wait(ctx context.Context, bound time.Duration) (*session, *broker.Error) {
	var expired <-chan time.Time
	for {
		g.mu.Lock()
		current, problem, changed := g.current, g.problem, g.changed
		g.mu.Unlock()
		if current != nil {
			return current, nil
		}
		if problem != nil {
			own := *problem // the caller will add to it
			return nil, &own
		}
		if expired == nil {
			timer := time.NewTimer(bound)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &broker.Error{Reason: broker.ReasonDeadlineExceeded, Detail: "the caller gave up while the login was under way", Err: ctx.Err()}
		case <-expired:
			return nil, &broker.Error{Reason: broker.ReasonStoreUnreachable, Detail: "the login under way has not ended within " + bound.String()}
		}
	}
}

// peek returns the current session, nil if there is none.
func (g *gate) peek() *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

// publish makes sess the current session.
func (g *gate) publish(sess *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.current, g.problem = sess, nil
	select {
	case <-g.wanted: // was about an older one
	default:
	}
	g.broadcastLocked()
}

// fail tells those who wait why there is no session. A current one stays in use:
// the attempt was to replace it early.
func (g *gate) fail(err *broker.Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		g.problem = err
		g.broadcastLocked()
	}
}

// renounce ends the use of sess, if it is the current session, and tells Run why.
func (g *gate) renounce(sess *session, why ending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != sess {
		return
	}
	g.current, g.problem = nil, g.endedLocked()
	select {
	case g.wanted <- why:
	default:
	}
	g.broadcastLocked()
}

// close is Run's last act: whoever needs a new session from now on gets an error.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.current == nil {
		g.problem = g.endedLocked()
		g.broadcastLocked()
	}
}

func (g *gate) endedLocked() *broker.Error {
	if !g.closed {
		return nil
	}
	return &broker.Error{Reason: broker.ReasonStoreTokenDead, Detail: "the broker is stopping and does not log in again"}
}

func (g *gate) broadcastLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}
