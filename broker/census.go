package broker

import (
	"maps"
	"sync"
	"time"
)

// Census is what a visit of all clients found. It is as old as its Time says.
type Census struct {
	// Time is when the visit ended; zero if none has.
	Time time.Time `json:"time,omitzero"`
	// Clients are those that are there, deleted ones among them; Unreadable are those
	// besides whose record cannot be read.
	Clients    int `json:"clients"`
	Unreadable int `json:"unreadable,omitempty"`
	// Rotations are how many clients' last rotation is in a state.
	Rotations map[RotationState]int `json:"rotations,omitempty"`
	// Stuck are the rotations that do not go on although they should.
	Stuck int `json:"stuck,omitempty"`
	// Unwell are how many active clients could get no token, by root cause, as far as a
	// check down to the secret shows.
	Unwell map[Reason]int `json:"unwell,omitempty"`
	// SecretExpiry is the soonest declared expiry of a current secret of a client that
	// gets tokens; zero if none is declared to expire.
	SecretExpiry time.Time `json:"secret_expiry,omitzero"`
}

// Census returns what the last visit of all clients, by whichever replica, found. Its
// Time is zero as long as this replica, while Run runs, has learnt of none.
func (b *Broker) Census() Census {
	if c := b.census.Load(); c != nil {
		return c.clone()
	}
	return Census{}
}

func (n Census) clone() Census {
	n.Rotations, n.Unwell = maps.Clone(n.Rotations), maps.Clone(n.Unwell)
	return n
}

func (n *Census) client(c *Client) {
	n.Clients++
	current, ok := c.Staged(Current)
	if !ok || c.State() != StateActive || current.ExpireTime.IsZero() {
		return
	}
	if n.SecretExpiry.IsZero() || current.ExpireTime.Before(n.SecretExpiry) {
		n.SecretExpiry = current.ExpireTime
	}
}

func (n *Census) rotation(r *rotationRecord) {
	if r == nil {
		return
	}
	if n.Rotations == nil {
		n.Rotations = map[RotationState]int{}
	}
	n.Rotations[r.State]++
	if r.Stuck(time.Now()) || r.failuresInARow() >= maxScheduledFailures {
		n.Stuck++
	}
}

// outcomes counts how rotations end on this replica. Safe for concurrent use.
type outcomes struct {
	mu sync.Mutex // guards what follows
	// last :: client uid → the rotation and state that was counted last
	last   map[string]string
	counts map[RotationState]int64
}

// note counts a journal that was written, once for each end.
func (o *outcomes) note(r *rotationRecord) {
	if !r.State.Over() && r.State != RotationNeedsOperator {
		return
	}
	what := r.ID + " " + string(r.State)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last[r.UID] == what {
		return
	}
	if o.last == nil || len(o.last) >= maxSince { // at worst one is counted twice
		o.last = map[string]string{}
	}
	if o.counts == nil {
		o.counts = map[RotationState]int64{}
	}
	o.last[r.UID] = what
	o.counts[r.State]++
}

// RotationsEnded returns how many rotations this replica has ended, or left to a
// person, by the state in which they ended.
func (b *Broker) RotationsEnded() map[RotationState]int64 {
	o := &b.outcomes
	o.mu.Lock()
	defer o.mu.Unlock()
	counts := map[RotationState]int64{RotationNeedsOperator: o.counts[RotationNeedsOperator]}
	for _, state := range RotationStates() {
		if state.Over() {
			counts[state] = o.counts[state]
		}
	}
	return counts
}

// SecretValuesSwept returns how many values that no record named this replica has
// destroyed.
func (b *Broker) SecretValuesSwept() int64 { return b.valuesSwept.Load() }
