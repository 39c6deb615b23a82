package broker

import (
	"slices"
	"time"
)

// lookUpEvery is how often a token is looked up by its key although the record of its
// client has it at hand: those look-ups are what keeps token and record in memory while
// they are in use.
const lookUpEvery = time.Minute

// lastServed is a token that was served of a client, beside the client's record. With
// many clients in use none is in the processor's caches, and what a look-up by key
// touches takes as long as all else that is done for a call. It is immutable.
type lastServed struct {
	token *Token
	// The rest but foundAt is what was asked for.
	scopes, resources []string
	audience          string
	subject, binding  string
	foundAt           time.Time
}

// tokenFor returns the token if it is the one that q asks for, is still the latest one
// of its key and need not be looked up again; else nil. s may be nil.
func (s *lastServed) tokenFor(q *TokenQuery, now time.Time) *Token {
	if s == nil || s.over(now) || q.Audience != s.audience || q.Subject != s.subject || q.binding != s.binding || !sameList(q.Scopes, s.scopes) || !sameList(q.Resources, s.resources) {
		return nil
	}
	return s.token
}

// over reports whether something else may take the place of s, which may be nil.
func (s *lastServed) over(now time.Time) bool {
	return s == nil || s.token.gone.Load() || now.Sub(s.foundAt) >= lookUpEvery
}

// sameList is slices.Equal that does not look into a list which is shared.
func sameList(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// lookUp returns the latest token of what q asks for, nil if there is none, and puts it
// at hand. SCOPE_NOT_ALLOWED, TARGET_NOT_ALLOWED.
func (b *Broker) lookUp(loaded *loadedClient, q *TokenQuery, now time.Time) (*Token, error) {
	key, err := loaded.keyFor(q)
	if err != nil {
		return nil, err
	}
	b.countUse(loaded)
	token, _ := b.tokens.GetIfPresent(key)
	// Callers that want different tokens in turn do not take the place from each other.
	if last := loaded.last.Load(); token != nil && last.over(now) {
		loaded.last.Store(&lastServed{token: token, scopes: q.Scopes, audience: q.Audience, resources: q.Resources, subject: q.Subject, binding: q.binding, foundAt: now})
	}
	return token, nil
}
