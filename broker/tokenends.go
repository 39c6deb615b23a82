package broker

import (
	"fmt"
	"slices"
	"time"
)

const (
	// maxTokenEnds are kept of one client; likeEnds of them that are alike show a rule.
	maxTokenEnds = 8
	likeEnds     = 3
)

// tokenEnd is that an API refused a token before its expiry, as a caller reported it.
type tokenEnd struct {
	// TokenID is that of GetToken's answer: many callers report one token.
	TokenID string `json:"token_id"`
	// Age is how long after it was issued, Time when.
	Age  time.Duration `json:"age"`
	Time time.Time     `json:"time"`
}

// endsEarly says that tokens are refused at about the same age again and again,
// which is shorter than the token's expiry tells: connections that fail after X, always
// the same X.
func endsEarly(ends []tokenEnd, token *Token) (string, bool) {
	if len(ends) < likeEnds {
		return "", false
	}
	ages := make([]time.Duration, 0, len(ends))
	for _, e := range ends {
		ages = append(ages, e.Age)
	}
	slices.Sort(ages)
	middle := ages[len(ages)/2]
	like := 0
	for _, a := range ages {
		if difference := a - middle; difference.Abs() <= max(middle/10, 2*time.Second) {
			like++
		}
	}
	if like < likeEnds || like*4 < len(ages)*3 || middle >= token.lifetime()*9/10 {
		return "", false
	}
	return fmt.Sprintf("%d of the last %d tokens that were reported as rejected were %s old", like, len(ages), age(middle)), true
}

// noteEnd takes in that a caller reported t as rejected at now.
func (l *ledger) noteEnd(t *Token, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clientLocked(t.uid, t.clientID, now)
	if c == nil || slices.ContainsFunc(c.ends, func(e tokenEnd) bool { return e.TokenID == t.ID }) {
		return
	}
	c.ends = latestEnds(append(slices.Clip(c.ends), tokenEnd{t.ID, now.Sub(t.IssueTime).Round(time.Second), now.UTC().Truncate(time.Second)}))
}

// latestEnds returns the latest of ends, one for each token.
func latestEnds(ends []tokenEnd) []tokenEnd {
	slices.SortStableFunc(ends, func(a, b tokenEnd) int { return b.Time.Compare(a.Time) })
	var latest []tokenEnd
	for _, e := range ends {
		if len(latest) < maxTokenEnds && !slices.ContainsFunc(latest, func(k tokenEnd) bool { return k.TokenID == e.TokenID }) {
			latest = append(latest, e)
		}
	}
	return latest
}
