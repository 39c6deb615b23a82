package vault

import (
	"context"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/tokenbroker/broker"
)

// keep renews the session's token until the session should no longer be used, and
// says why. Where it should be replaced, because 80 % of what is left are over
// after a renewal yielded less than asked for, renewing failed for too long, or
// ctx ended, calls go on with it meanwhile.
func (s *Store) keep(ctx context.Context, sess *session) ending {
	var (
		due     <-chan time.Time // nil: not before a renewal says so
		renewed <-chan *api.RenewOutput
		ended   <-chan error
	)
	if watcher := s.watch(sess); watcher != nil {
		defer watcher.Stop()
		renewed, ended = watcher.RenewCh(), watcher.DoneCh()
	} else if sess.lease > 0 {
		due = replaceAfter(sess.replaceIn())
	}
	for {
		select {
		case <-ctx.Done():
			return replaced
		case why := <-s.gate.wanted:
			return why
		case <-due:
			return replaced
		case <-ended:
			ended, due = nil, replaceAfter(0)
		case r := <-renewed:
			got := time.Duration(r.Secret.Auth.LeaseDuration) * time.Second
			s.log.DebugContext(ctx, "vault token renewed", "lease", got)
			if got < sess.asked {
				due = replaceAfter(overlapAfter(got))
			}
		}
	}
}

// replaceAfter fires after d, but not at once: a token that cannot be replaced
// (a file that nobody rewrites) must not be looked up in a tight loop.
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
