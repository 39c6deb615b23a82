package vault

import (
	"context"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
)

// use publishes the session, keeps it, and goes on with those that take its place
// because the token file has a new token. It returns the last one and why that
// should no longer be used.
func (s *Store) use(ctx context.Context, sess *session) (*session, ending) {
	for {
		s.begins(sess)
		s.gate.publish(sess)
		next, how := s.keep(ctx, sess)
		if next == nil {
			if how == dead {
				s.died()
			}
			return sess, how
		}
		sess = next
	}
}

// keep renews the session's token until the session should no longer be used, and
// says why. Where it should be replaced, because 80 % of what is left are over
// after a renewal yielded less than asked for, renewing failed for too long, or
// ctx ended, calls go on with it meanwhile. A session that is not nil is checked
// and takes its place.
//
// A token from a file is not replaced by time, which would only look up the same
// one again, but when the file has another.
func (s *Store) keep(ctx context.Context, sess *session) (*session, ending) {
	var (
		due     <-chan time.Time // nil: not before a renewal says so
		look    <-chan time.Time // nil: there is no token file
		renewed <-chan *api.RenewOutput
		ended   <-chan error
	)
	if watcher := s.watch(sess); watcher != nil {
		defer watcher.Stop()
		renewed, ended = watcher.RenewCh(), watcher.DoneCh()
	} else if sess.lease > 0 && s.method != nil {
		due = replaceAfter(sess.replaceIn())
	}
	if s.method == nil {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		look = ticker.C
		s.tokenFile.warn(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, replaced
		case why := <-s.gate.wanted:
			return nil, why
		case <-due:
			return nil, replaced
		case <-look:
			if next := s.tokenFile.replacement(ctx, sess); next != nil {
				return next, replaced
			}
			s.tokenFile.warn(ctx)
		case <-ended:
			ended = nil
			if s.method != nil {
				due = replaceAfter(0)
			} else if end, byItself := s.TokenExpiry(); byItself {
				s.notProlonged(sess, end)
			}
		case r := <-renewed:
			got := time.Duration(r.Secret.Auth.LeaseDuration) * time.Second
			s.log.DebugContext(ctx, "vault token renewed", "lease", got)
			s.prolonged(sess, got)
			if got < sess.asked && s.method != nil {
				due = replaceAfter(overlapAfter(got))
			}
		}
	}
}

// replaceAfter fires after d, but not at once: a lease that is all but over must
// not be replaced in a tight loop.
func replaceAfter(d time.Duration) <-chan time.Time {
	return time.After(max(d, 500*time.Millisecond))
}

// watch starts to renew the session's token; nil if it cannot be renewed. The
// caller must Stop what it returns. That does not interrupt a renewal under way,
// so Run waits for it at its end only: a dead token is replaced without waiting.
func (s *Store) watch(sess *session) *api.LifetimeWatcher {
	if !sess.renewable || sess.lease == 0 {
		return nil
	}
	watcher, err := s.api.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		Increment: int(sess.asked / time.Second),
		Secret: &api.Secret{Auth: &api.SecretAuth{
			ClientToken:   sess.client.Token(),
			LeaseDuration: int(sess.lease / time.Second),
			Renewable:     true,
		}},
	})
	if err != nil {
		return nil // only for want of input
	}
	s.watchers.Go(watcher.Start)
	return watcher
}

// shortLived notices tokens that die right after login, again and again: without
// a pause each call would cause logins as fast as Vault can answer.
type shortLived struct{ inARow int }

// after records how a session ended. It returns an error when Run should pause
// before the next login.
func (l *shortLived) after(sess *session, how ending) *broker.Error {
	if how != dead || time.Since(sess.since) > 2*time.Second {
		l.inARow = 0
		return nil
	}
	if l.inARow++; l.inARow < 3 {
		return nil
	}
	return diedAgain()
}

func diedAgain() *broker.Error {
	return &broker.Error{
		Reason: broker.ReasonStoreTokenDead,
		Detail: "the token died again right after login; check its TTL, number of uses and bound addresses",
	}
}
