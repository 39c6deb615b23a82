package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// The windows at the end of a token's life: advisory (it is served, and one refresh
// runs in the background), then mandatory (a caller waits a little for a new one).
const (
	defaultMinValidity = 10 * time.Second
	// maxAdvisoryWindow and its share of the lifetime say how long before expiry a
	// refresh in the background begins, where the server does not say.
	maxAdvisoryWindow   = time.Hour
	advisoryWindowShare = 5
	// maxMandatoryWindow and its share are the same for waiting.
	maxMandatoryWindow   = 30 * time.Second
	mandatoryWindowShare = 10
	// jitterShare of the advisory window, up or down, keeps replicas and clients
	// that began together from coming back together.
	jitterShare = 5
	// maxPatience is how long a caller with a valid token waits for a better one.
	maxPatience = 2 * time.Second
)

// lifetime is how long t was issued for.
func (t *Token) lifetime() time.Duration { return t.ExpireTime.Sub(t.IssueTime) }

// setWindows fixes when replica refreshes t, whose life must be known. A token of a
// client that may have few tokens at a time is never refreshed before its end.
func (t *Token) setWindows(replica string, key tokenKey) {
	t.expireUnix = t.ExpireTime.UnixNano()
	if t.limited {
		t.RefreshAfter, t.mandatoryAfter = t.ExpireTime, t.ExpireTime
		return
	}
	lifetime := t.lifetime()
	window := min(lifetime/advisoryWindowShare, maxAdvisoryWindow)
	spread := window / jitterShare
	// Of a time that the server asked for only the later half of the jitter is used:
	// before it, some servers answer with the token that one has.
	from := -spread
	if t.refreshIn > 0 && t.refreshIn < lifetime {
		window = lifetime - t.refreshIn
		spread = window / jitterShare
		from = 0
	}
	mandatory := min(lifetime/mandatoryWindowShare, maxMandatoryWindow)
	jitter := from + time.Duration(hashShare(replica, key.String(), t.ID)*float64(spread-from))
	t.mandatoryAfter = t.ExpireTime.Add(-mandatory)
	t.RefreshAfter = t.ExpireTime.Add(-window + jitter)
	if t.RefreshAfter.After(t.mandatoryAfter) { // the server's wish may lie close to the end
		t.RefreshAfter = t.mandatoryAfter
	}
}

// hashShare maps its arguments evenly to [0, 1), always the same way.
func hashShare(parts ...string) float64 {
	h := sha256.New()
	for _, part := range parts {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) / (1 << 53)
}

// aliveAt reports whether t has not expired by either clock: the one that only ever
// runs forward, and the wall clock, which goes on while a machine sleeps.
func (t *Token) aliveAt(now time.Time) bool {
	return t.ExpireTime.After(now) && now.UnixNano() < t.expireUnix
}

// good reports whether t is served at now without anybody waiting to somebody who
// wants it to be good for minValidity, which is clamped to half of the lifetime: an
// answer that never satisfies would be asked for again and again.
func (t *Token) good(minValidity time.Duration, now time.Time) bool {
	return t.mandatoryAfter.After(now) && t.ExpireTime.Sub(now) > min(minValidity, t.lifetime()/2)
}

// patience is how long a caller waits for a new token while the present one is
// valid: it must still have time to use that.
func patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxPatience, time.Until(deadline)/4)
	}
	return maxPatience
}

// minValidity is what the caller wants, or else the client's setting. Of a client
// that may have few tokens no caller gets more than the default by asking: it would
// kill the token that others use.
func (c *Client) minValidity(q TokenQuery) time.Duration {
	validity := defaultMinValidity
	switch {
	case q.MinValidity != nil:
		validity = *q.MinValidity
	case c.TokenPolicy.MinValidity > 0:
		validity = c.TokenPolicy.MinValidity
	}
	if c.Upstream.limited() {
		return min(validity, defaultMinValidity)
	}
	return validity
}

// skewAt returns how far the server's clock runs ahead of ours, as far as its answer
// proves it: the answer's Date has whole seconds and was written at some moment
// between sending and now. A difference of more than a day proves a broken Date, not
// a clock. What is returned errs to the side of a shorter life.
func (r TokenResponse) skewAt(now time.Time) time.Duration {
	if r.ServerTime.IsZero() {
		return 0
	}
	ahead := r.ServerTime.Sub(r.SentTime)
	if ahead > -2*time.Second && ahead < now.Sub(r.SentTime)+time.Second || ahead.Abs() > 24*time.Hour {
		return 0
	}
	return ahead + time.Second
}
