package broker

import (
	"context"
	"time"
)

// parkingReread is how old knowledge of a parked client may be when it refuses a
// mint: another replica may have lifted it.
const parkingReread = 2 * time.Second

// probeAfter is how long after the last try with rejected credentials the next one
// is made; the last goes on for ever.
var probeAfter = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// parkedState says that a client's credentials were rejected: asking again with the
// same ones gets the same answer, and at some servers locks the client out.
type parkedState struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Settings and SecretVersion are what was rejected; others are not parked.
	Settings      string `json:"settings"`
	SecretVersion int64  `json:"secret_version"`
	// Probes is how many tries were made since, Time when the last one was.
	Probes int       `json:"probes"`
	Time   time.Time `json:"time"`
}

// parking is a parkedState as this replica knows it. It is immutable.
type parking struct {
	parkedState
	// probeAt is when the next try is due, by this replica's clock.
	probeAt time.Time
	readAt  time.Time
}

// parks reports whether a failure is one that only somebody's action can end.
func parks(r Reason) bool { return r == ReasonClientRejected || r == ReasonGrantRejected }

// newParking is what state means at now. Clocks of replicas differ: one that runs
// ahead of ours postpones the next try by no more than its whole interval.
func newParking(state parkedState, now time.Time) *parking {
	interval := probeAfter[min(state.Probes, len(probeAfter)-1)]
	wait := min(max(state.Time.Add(interval).Sub(now), 0), interval)
	return &parking{parkedState: state, probeAt: now.Add(wait), readAt: now}
}

func (s parkedState) about(c *Client, current SecretVersion) bool {
	return s.Settings == c.Upstream.settingsHash() && s.SecretVersion == current.Number
}

// refusal is the error while p lasts.
func (p *parking) refusal(c *Client, now time.Time) *Error {
	detail := "not asked again before RetryAfter unless settings or secret change or somebody resets it"
	if p.Detail != "" {
		detail = p.Detail + "; " + detail
	}
	return &Error{Reason: p.Reason, Op: "request token", Client: c.ID, Detail: detail, RetryAfter: max(p.probeAt.Sub(now), time.Second)}
}

// checkParked refuses a mint with credentials that are known to be rejected, unless
// the next try is due and this replica is the one to make it.
func (b *Broker) checkParked(ctx context.Context, c *Client, current SecretVersion) error {
	p, ok := b.parked.GetIfPresent(c.UID)
	if !ok || !p.about(c, current) {
		return nil
	}
	now := time.Now()
	if now.Sub(p.readAt) >= parkingReread {
		if p = b.readParking(ctx, c, p); p == nil || !p.about(c, current) {
			return nil
		}
	}
	if now.Before(p.probeAt) {
		return p.refusal(c, now)
	}
	mine := false
	r, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		if mine = r.Parked != nil && r.Parked.Probes == p.Probes; mine {
			r.Parked.Probes, r.Parked.Time = r.Parked.Probes+1, now.UTC()
		}
		return mine, nil
	})
	if err != nil {
		return p.refusal(c, now) // whose try it is cannot be known
	}
	if p = b.keepParking(c, r.Parked); p == nil || mine {
		return nil
	}
	return p.refusal(c, now)
}

// readParking returns what the store says; what was known if it says nothing.
func (b *Broker) readParking(ctx context.Context, c *Client, known *parking) *parking {
	r, _, err := b.readUpstream(ctx, c)
	if err != nil {
		return known
	}
	return b.keepParking(c, r.Parked)
}

// keepParking takes in what the client's record says.
func (b *Broker) keepParking(c *Client, state *parkedState) *parking {
	if state == nil {
		b.parked.Invalidate(c.UID)
		return nil
	}
	p := newParking(*state, time.Now())
	b.parked.Set(c.UID, p)
	return p
}

// park notes a rejection of the client's credentials for all keys and replicas, and
// returns the error that callers get from now on.
func (b *Broker) park(ctx context.Context, c *Client, current SecretVersion, err error) *parking {
	now := time.Now().UTC()
	state := parkedState{
		Reason: ReasonOf(err), Detail: truncate(AsError(err).Detail, 300),
		Settings: c.Upstream.settingsHash(), SecretVersion: current.Number, Time: now,
	}
	r, err := b.changeUpstream(context.WithoutCancel(ctx), c, func(r *upstreamRecord) (bool, error) {
		if r.Parked != nil && r.Parked.about(c, current) { // this was a try, or another replica knew before
			return false, nil
		}
		r.Parked = &state
		return true, nil
	})
	if err != nil {
		b.log.WarnContext(ctx, "other replicas are not told that a client is parked", "client", c.ID, "reason", ReasonOf(err))
		return b.keepParking(c, &state)
	}
	return b.keepParking(c, r.Parked)
}

// unpark forgets a rejection that is no more.
func (b *Broker) unpark(ctx context.Context, c *Client) error {
	b.parked.Invalidate(c.UID)
	lifted := false
	_, err := b.changeUpstream(ctx, c, func(r *upstreamRecord) (bool, error) {
		lifted = r.Parked != nil
		r.Parked = nil
		return lifted, nil
	})
	b.forgetFailures(c)
	if err == nil && lifted && b.feedOn {
		b.announce(feedEntry{ID: c.ID})
	}
	return err
}

// forgetFailures ends the hold-down of all keys of a client.
func (b *Broker) forgetFailures(c *Client) {
	for key := range b.failures.Keys() {
		if key.uid == c.UID {
			b.failures.Invalidate(key)
		}
	}
}

// ResetUpstream makes the broker ask a client's authorization server again at the
// next call, although it rejected the client's credentials: an operator mended there
// what nothing here shows. Limits on issuance stay.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, or a reason of the store.
func (b *Broker) ResetUpstream(ctx context.Context, id string) error {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return err
	}
	return b.unpark(ctx, c)
}
