package vault

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// tokenFile is the way to log in by a token that somebody else puts into a file.
// It is used by Run's goroutine alone.
type tokenFile struct {
	store *Store
	path  string
	seen  stamps

	// rejected is the content that was not taken over last, and when it is looked
	// at again although the file did not change: the cause may have been an outage.
	rejected credentials
	again    time.Time

	ending   credentials // the token that deadline is about
	deadline deadline    // of the token in use
}

const (
	// lookEvery is how often the file is looked at while its token is in use.
	lookEvery = time.Second
	// rejectedAgain is how often content that was not taken over is tried.
	rejectedAgain = 10 * time.Second
)

// login makes a session of the token in the file.
func (f *tokenFile) login(ctx context.Context) (*session, *broker.Error) {
	token, err := f.read()
	var sess *session
	var problem *broker.Error
	if err != nil {
		problem = nothingToAskWith(err)
	} else {
		sess, problem = f.session(ctx, token)
	}
	f.store.loggedIn(ctx, "token_file", sess, problem)
	return sess, problem
}

// read returns the token and remembers which state of the file it is from.
func (f *tokenFile) read() (string, error) {
	f.seen = stampsOf(f.path) // before reading: a change meanwhile is noticed later
	return readCredential("token_file", f.path)
}

// replacement returns a session of the token in the file if that is another than
// current's and fit for use, else nil. What is unfit is logged once.
func (f *tokenFile) replacement(ctx context.Context, current *session) *session {
	if f.seen.equal(stampsOf(f.path)) && (f.again.IsZero() || time.Now().Before(f.again)) {
		return nil
	}
	f.again = time.Time{}
	token, err := f.read()
	if err != nil {
		f.reject(ctx, digest(""), nothingToAskWith(err))
		return nil
	}
	if token == current.client.Token() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*f.store.config.Timeout)
	defer cancel()
	sess, problem := f.session(ctx, token)
	if problem == nil {
		problem = f.store.preflight(ctx, sess)
	}
	if problem != nil {
		f.reject(ctx, digest(token), problem)
		return nil
	}
	f.rejected = credentials{}
	f.store.loggedIn(ctx, "token_file", sess, nil)
	return sess
}

// reject keeps the token in use and says why, once for each content.
func (f *tokenFile) reject(ctx context.Context, content credentials, problem *broker.Error) {
	f.again = time.Now().Add(rejectedAgain)
	if content == f.rejected {
		return
	}
	f.rejected = content
	f.store.log.WarnContext(ctx, "the token file changed, but what is in it cannot be used; the token before stays in use",
		"reason", problem.Reason, "error", problem)
	f.store.config.OnLogin("token_file", problem)
}

// session makes one of a token. Its lease is asked for, since the file does not
// tell.
func (f *tokenFile) session(ctx context.Context, token string) (*session, *broker.Error) {
	s := f.store
	sess := s.withToken(token)
	a := s.send(ctx, sess, request{op: "look up token", path: "auth/token/lookup-self"})
	if a.forbidden() {
		return nil, &broker.Error{
			Reason: broker.ReasonStoreTokenDead,
			Detail: "the token in " + f.path + " is expired or revoked, or may not use auth/token/lookup-self",
		}
	}
	var looked struct{ Data tokenState }
	if !a.ok() || json.Unmarshal(a.body.Reveal(), &looked) != nil {
		e := classify(a, false)
		e.Detail = s.config.Address + ": auth/token/lookup-self: " + e.Detail
		return nil, e
	}
	looked.Data.describe(sess)
	return sess, nil
}

// tokenState is what Vault says about a token, times in seconds.
type tokenState struct {
	TTL            int64 `json:"ttl"`
	CreationTime   int64 `json:"creation_time"` // since 1970
	CreationTTL    int64 `json:"creation_ttl"`
	ExplicitMaxTTL int64 `json:"explicit_max_ttl"` // 0: none
	Renewable      bool  `json:"renewable"`
	// ExpireTime is null for a token that never expires; TTL is 0 also in the
	// last half second of one that does.
	ExpireTime *string `json:"expire_time"`
}

// describe tells sess what is known of its token.
func (t tokenState) describe(sess *session) {
	if t.ExpireTime == nil {
		return
	}
	sess.lease = time.Duration(max(t.TTL, 1)) * time.Second
	sess.asked = max(sess.lease, time.Duration(t.CreationTTL)*time.Second)
	sess.renewable = t.Renewable
	sess.age = max(0, sess.since.Sub(time.Unix(t.CreationTime, 0)))
	switch {
	case !t.Renewable:
		sess.last = sess.since.Add(sess.lease)
	case t.ExplicitMaxTTL > 0:
		sess.last = time.Unix(t.CreationTime+t.ExplicitMaxTTL, 0)
	}
}
