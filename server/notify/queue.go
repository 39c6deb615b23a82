package notify

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxQueued bounds the events that wait for one webhook.
	maxQueued = 1000
	// giveUpAfter is how long an event is tried.
	giveUpAfter = 24 * time.Hour
	// retryFirst and retryMost bound the pause between tries, which doubles.
	retryFirst = time.Second
	retryMost  = time.Hour
)

// waiting is an event on its way to one webhook.
type waiting struct {
	id   string
	body []byte
	made time.Time
	// tries is how many failed, next when the next one is due.
	tries int
	next  time.Time
}

// failed postpones the next try, and reports false if there is none.
func (w *waiting) failed(now time.Time) bool {
	pause := min(retryFirst<<min(w.tries, 20), retryMost)
	w.tries++
	w.next = now.Add(pause/2 + rand.N(pause/2+1))
	return w.next.Sub(w.made) <= giveUpAfter
}

// queue holds the events that wait for one webhook. Safe for concurrent use.
type queue struct {
	mu     sync.Mutex // guards what follows
	events []*waiting // by age
	closed bool
	// signal has one value if something was added since it was last taken.
	signal chan struct{}
}

// add puts an event in, and returns the one that goes for it, or itself if the queue is
// closed; nil if none does.
func (q *queue) add(w *waiting) (dropped *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return w
	}
	if len(q.events) >= maxQueued {
		dropped, q.events = q.events[0], q.events[1:]
	}
	q.events = append(q.events, w)
	select {
	case q.signal <- struct{}{}:
	default: // it has been told and has not looked yet
	}
	return dropped
}

// take takes the event out whose turn it is at now; without one it says for how long
// there will be none.
func (q *queue) take(now time.Time) (w *waiting, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	const long = time.Hour
	first, wait := -1, long
	for i, w := range q.events {
		if left := w.next.Sub(now); left < wait || first < 0 {
			first, wait = i, left
		}
	}
	if first < 0 || wait > 0 {
		return nil, min(wait, long)
	}
	w = q.events[first]
	q.events = append(q.events[:first:first], q.events[first+1:]...)
	return w, 0
}

// back puts an event that was taken in again, at the place that its age gives it; it is
// returned if the queue is full of later ones or closed.
func (q *queue) back(w *waiting) (dropped *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.events) >= maxQueued {
		return w
	}
	i := 0
	for i < len(q.events) && q.events[i].made.Before(w.made) {
		i++
	}
	q.events = append(q.events[:i:i], append([]*waiting{w}, q.events[i:]...)...)
	return nil
}

// close takes all that is left; nothing is taken in any more.
func (q *queue) close() []*waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	left := q.events
	q.events = nil
	return left
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}
