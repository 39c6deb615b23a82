package vault

import (
	"context"
	"sync"
	"time"
)

// lifetime is what is known of the end of the token in use.
type lifetime struct {
	mu       sync.Mutex
	end      time.Time // guarded by mu
	byItself bool      // guarded by mu
}

func (l *lifetime) set(end time.Time, byItself bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.byItself = end, byItself
}

// TokenExpiry returns when the token in use ends, as far as is known, and whether
// the broker renews or replaces it by itself before then. The zero time means that
// it never ends, or that there was no login yet. If byItself is false, somebody
// must put another token into the token file before end.
//
// A token that was revoked, or that Vault no longer knows, ended when a call found
// out. It is safe for concurrent use.
func (s *Store) TokenExpiry() (end time.Time, byItself bool) {
	s.lifetime.mu.Lock()
	defer s.lifetime.mu.Unlock()
	return s.lifetime.end, s.lifetime.byItself
}

// begins notes the end of a session's token.
func (s *Store) begins(sess *session) {
	switch {
	case sess.lease == 0:
		s.lifetime.set(time.Time{}, true)
	case s.method == nil && !sess.last.IsZero():
		s.lifetime.set(sess.last, false)
		s.tokenFile.ends(sess, sess.last)
	default:
		s.lifetime.set(sess.since.Add(sess.lease), true)
	}
}

// prolonged notes what a renewal has yielded. One that yields less than asked for
// was the last that could: the token has reached its maximum.
func (s *Store) prolonged(sess *session, got time.Duration) {
	end := time.Now().Add(got)
	if s.method == nil && got < sess.asked {
		s.notProlonged(sess, end)
	} else if s.method != nil || sess.last.IsZero() {
		s.lifetime.set(end, true)
	}
}

// notProlonged notes that the token ends then, since renewing it came to an end.
func (s *Store) notProlonged(sess *session, end time.Time) {
	if s.method != nil || end.IsZero() {
		return
	}
	s.lifetime.set(end, false)
	s.tokenFile.ends(sess, end)
}

// died notes that Vault no longer knows the session's token.
func (s *Store) died() {
	s.lifetime.set(time.Now(), s.method != nil)
}

// deadline is the end of a token that only somebody else can replace.
type deadline struct {
	end    time.Time
	life   time.Duration // from its making to its end
	warned time.Duration // the threshold that was told last; 0: none yet
}

// thresholds returns how long before the end there is a warning, falling. A token
// of a day or less cannot be kept fresh by hand: whatever does that is late when
// a twentieth is left.
func (d deadline) thresholds() []time.Duration {
	const day = 24 * time.Hour
	if d.life > day {
		return []time.Duration{day, time.Hour}
	}
	return []time.Duration{d.life / 20}
}

// due reports whether there should be a warning now, and how much is left.
func (d *deadline) due() (left time.Duration, due bool) {
	if d.end.IsZero() {
		return 0, false
	}
	left = time.Until(d.end)
	for _, threshold := range d.thresholds() {
		if left <= threshold && (d.warned == 0 || threshold < d.warned) {
			d.warned, due = threshold, true
		}
	}
	return left, due
}

// ends notes when the token in the file ends. What was told of the same token is
// not told again.
func (f *tokenFile) ends(sess *session, end time.Time) {
	token := digest(sess.client.Token())
	if token != f.ending {
		f.ending, f.deadline = token, deadline{}
	}
	f.deadline.end = end
	f.deadline.life = end.Sub(sess.since) + sess.age
}

// warn logs, once for each threshold, that the token in use will end.
func (f *tokenFile) warn(ctx context.Context) {
	left, due := f.deadline.due()
	if !due {
		return
	}
	f.store.log.WarnContext(ctx, "the vault token ends soon and cannot be renewed; put a new one into the token file, which is read when it changes",
		"token_file", f.path, "ends", f.deadline.end.UTC().Format(time.RFC3339), "left", left.Round(time.Second))
}
