package broker

import (
	"slices"
	"sync/atomic"
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

// serves reports whether the token is the one that q asks for.
func (s *lastServed) serves(q *TokenQuery) bool {
	return q.Audience == s.audience && q.Subject == s.subject && q.binding == s.binding && sameList(q.Scopes, s.scopes) && sameList(q.Resources, s.resources)
}

// usualToken is the token of those who ask for nothing but a token of the client, which
// are the most: it needs nothing beside it, that would be in no cache either.
type usualToken struct {
	token atomic.Pointer[Token]
	// lookUpAfter is when it has to be looked up again, in ns since the broker was made.
	lookUpAfter atomic.Int64
}

// namesNothing reports whether a client's default token is asked for.
func (q *TokenQuery) namesNothing() bool {
	return len(q.Scopes)+len(q.Audience)+len(q.Resources)+len(q.Subject)+len(q.binding) == 0
}

// atHand returns the token that q asks for, if it lies beside the record, is still the
// latest one of its key and need not be looked up again; else nil.
func (b *Broker) atHand(loaded *loadedClient, q *TokenQuery, now time.Time) *Token {
	var token *Token
	if q.namesNothing() {
		if now.Sub(b.made) < time.Duration(loaded.usual.lookUpAfter.Load()) {
			token = loaded.usual.token.Load()
		}
	} else if last := loaded.last.Load(); last != nil && now.Sub(last.foundAt) < lookUpEvery && last.serves(q) {
		token = last.token
	}
	if token == nil || token.gone.Load() {
		return nil
	}
	return token
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
	if token == nil {
		return nil, nil
	}
	if q.namesNothing() {
		loaded.usual.token.Store(token)
		loaded.usual.lookUpAfter.Store(int64(now.Add(lookUpEvery).Sub(b.made)))
	} else if last := loaded.last.Load(); last == nil || last.token.gone.Load() || now.Sub(last.foundAt) >= lookUpEvery {
		// Callers that want different tokens in turn do not take the place from each other.
		loaded.last.Store(&lastServed{token: token, scopes: q.Scopes, audience: q.Audience, resources: q.Resources, subject: q.Subject, binding: q.binding, foundAt: now})
	}
	return token, nil
}
