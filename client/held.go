package client

import (
	"time"

	"golang.org/x/oauth2"
)

const (
	// assumedGuarantee is how long a token is good for that was asked for without a
	// min_validity.
	assumedGuarantee = 10 * time.Second
	// clockTolerance is how far the local clock may seem to be off before it is taken
	// for wrong: a request takes time, too.
	clockTolerance = 5 * time.Second
	// mostMargin and its share of the lifetime say how long before its expiry a token
	// is no longer served: it has to reach the API.
	mostMargin  = 5 * time.Second
	marginShare = 10
)

// held is a token with when to ask for the next one and when to stop serving it, in
// readings of the local monotonic clock: once a token is here, no step of the wall
// clock matters. It is immutable, but for the same token's next answer.
type held struct {
	token    *Token
	oauth    *oauth2.Token
	metadata map[string]string // of gRPC calls
	// soft is when asking may bring a newer token, hard when this one must go.
	soft, hard time.Time
	// window is how long before the expiry the broker wants to be asked.
	window time.Duration
	// earliest and latest are when the token can expire at the earliest and at the
	// latest, whatever the clocks say.
	earliest, latest time.Time
}

// hold works out how long a token may be served.
//
// Its times are readings of the broker's clock, which may be any way from ours. Most
// answers say what that clock showed: then the token lives for as long as it had left,
// from some moment between the question and the answer, and our wall clock decides
// only within that. What came unasked, on a stream, may have been on its way for any time.
//
// Older brokers do not say it. Two things are certain then: the token outlives the
// min_validity that it was asked with, counted from the question, because the broker
// keeps to that; and it dies its lifetime after the answer at the latest, because it
// was issued before. The local clock is believed between these two. Outside it is
// wrong for certain: then the nearer bound is taken, and the broker is asked often
// enough to be asked twice in time within the window in which it refreshes. A clock that is
// wrong by less than can be noticed asks late by as much as it is slow, which the
// window, a fifth of the lifetime, has room for; one that is fast only asks early.
//
// same is what is held of the same token, or nil: what is certain stays so.
func hold(a answer, minValidity, guarantee time.Duration, same *held) *held {
	t := a.token
	h := &held{token: t, window: max(0, t.ExpireTime.Sub(t.RefreshAfter))}
	h.earliest, h.latest = a.sent.Add(guaranteed(t, guarantee)), a.received.Add(t.lifetime())
	if same != nil {
		h.earliest, h.latest = later(h.earliest, same.earliest), earlier(h.latest, same.latest)
	}
	known := t.left != nil && !a.unasked
	if t.left != nil {
		h.latest = earlier(h.latest, a.received.Add(*t.left))
	}
	if known {
		h.earliest = later(h.earliest, a.sent.Add(*t.left))
	}
	h.earliest = earlier(h.earliest, h.latest)
	// The difference of a time without and one with a monotonic reading is that of the
	// wall clocks; the sum is on the monotonic clock again.
	believed := a.received.Add(t.ExpireTime.Sub(a.received))
	expire := earlier(later(believed, h.earliest), h.latest)
	if known && believed.After(h.latest) { // our clock is slow, and so may the answer have been
		expire = h.earliest
	}
	h.soft = earlier(expire.Add(-h.window), expire.Add(-minValidity))
	if !known && (believed.Before(h.earliest.Add(-clockTolerance)) || believed.After(h.latest.Add(clockTolerance))) {
		h.soft = earlier(h.soft, a.received.Add(h.window/3))
	}
	h.hard = expire.Add(-min(mostMargin, t.lifetime()/marginShare))
	header := "Bearer " + t.Access.Reveal()
	if t.bound() {
		header = "DPoP " + t.Access.Reveal()
	}
	h.metadata = map[string]string{"authorization": header}
	h.oauth = (&oauth2.Token{AccessToken: t.Access.Reveal(), TokenType: t.Type, Expiry: expire.Round(0)}).
		WithExtra(map[string]any{"token_id": t.ID})
	return h
}

// guaranteed is how long a token is good for from when it was asked for: the broker
// clamps min_validity to half of the lifetime, and says where it cannot keep to it.
func guaranteed(t *Token, asked time.Duration) time.Duration {
	if t.warned(ReasonTokenShorterThanAsked) {
		return 0
	}
	return min(asked, t.lifetime()/2)
}

// servable reports whether the token may still be sent to an API.
func (h *held) servable(now time.Time) bool { return h != nil && now.Before(h.hard) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
