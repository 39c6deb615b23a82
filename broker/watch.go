package broker

import (
	"context"
	"iter"
	"sync"
	"time"
)

// watchers wakes those who watch tokens of a client. Safe for concurrent use.
type watchers struct {
	mu sync.Mutex
	// byClient :: client id → signals, each of one watch; guarded by mu
	byClient map[string]map[chan struct{}]bool
}

// join returns a level-triggered signal and what ends it.
func (w *watchers) join(id string) (signal chan struct{}, leave func()) {
	signal = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byClient[id] == nil {
		w.byClient[id] = map[chan struct{}]bool{}
	}
	w.byClient[id][signal] = true
	return signal, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.byClient[id], signal); len(w.byClient[id]) == 0 {
			delete(w.byClient, id)
		}
	}
}

// wake tells all watches of a client to look.
func (w *watchers) wake(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for signal := range w.byClient[id] {
		select {
		case signal <- struct{}{}:
		default: // it has been told and has not looked yet
		}
	}
}

// Watch yields the token that GetToken would serve, and then each one that takes its
// place, before callers of the old one would have to wait for it. A consumer that is
// slow misses those in between and gets the latest. A failing refresh is not told
// while the last token lives.
//
// It ends with an error, yielded once with a nil token, when no good token can be had
// any more: the reasons of [Broker.GetToken], among them CLIENT_DISABLED,
// CLIENT_DELETED and SHUTTING_DOWN. It ends without one when ctx ends or the consumer
// stops. RejectedTokenID counts for the first token only.
func (b *Broker) Watch(ctx context.Context, q TokenQuery) iter.Seq2[*Token, error] {
	return func(yield func(*Token, error) bool) {
		signal, leave := b.watchers.join(q.ClientID)
		defer leave()
		var last *Token
		for {
			token, _, err := b.GetToken(ctx, q)
			q.RejectedTokenID = ""
			switch {
			case ctx.Err() != nil:
				return
			case b.stopping.Err() != nil:
				yield(nil, newError(ReasonShuttingDown, q.ClientID, ""))
				return
			case err != nil:
				yield(nil, err)
				return
			}
			token.noteUse()
			if last == nil || token.ID != last.ID || !token.ExpireTime.Equal(last.ExpireTime) {
				if !yield(token, nil) {
					return
				}
			}
			last = token
			if !b.untilNext(ctx, signal, token) {
				return
			}
		}
	}
}

// untilNext waits until a watch of t has to look again, and reports false when ctx
// ended before.
func (b *Broker) untilNext(ctx context.Context, signal <-chan struct{}, t *Token) bool {
	timer := time.NewTimer(time.Until(t.nextLook(time.Now())))
	defer timer.Stop()
	select {
	case <-signal:
	case <-timer.C:
	case <-b.stopping.Done():
	case <-ctx.Done():
		return false
	}
	return true
}

// nextLook is when somebody who holds t at now has to see to its successor, if none
// has come by then: as its windows begin, then once per hold-down, and at its end.
func (t *Token) nextLook(now time.Time) time.Time {
	for _, at := range []time.Time{t.RefreshAfter.Add(time.Nanosecond), t.mandatoryAfter} {
		if at.After(now) {
			return at
		}
	}
	again := now.Add(holdDown)
	if t.ExpireTime.After(now) && t.ExpireTime.Before(again) {
		return t.ExpireTime
	}
	return again
}
