package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// mostSpendings is how often one refresh token that its use replaces is sent at most,
// within the provider's grace.
const mostSpendings = 3

// grantMint is one try of this process to get a token by what a subject granted.
//
// The rules: a use of the refresh token is journalled in the grant's record, in the same
// write that takes the grant's lease, before it is sent. What it brought is stored before
// anybody is given the token. A use without an answer is sent again only where that
// cannot do harm.
type grantMint struct {
	*Broker
	c       *Client
	current SecretVersion
	value   secret.Value
	ask     tokenAsk
	path    string
	policy  RefreshPolicy
	leaseID string
	// record, secrets and version are the grant as last written; sent is when the write of
	// the lease began.
	record  *grantRecord
	secrets *grantSecrets
	version uint64
	sent    time.Time
	// unsure says that the journal may, or may not, be written.
	unsure bool
	// found is the use that an earlier mint left without an answer; nil if none did.
	found *spending
	// token is the refresh token that is sent, usedPrevious that it is the one before.
	token        string
	usedPrevious bool
	// scopes are sent; nil sends none.
	scopes []string
}

// requestRefreshed gets a token with a user's refresh token.
func (b *Broker) requestRefreshed(ctx context.Context, c *Client, current SecretVersion, value secret.Value, ask tokenAsk) (*Token, error) {
	path, err := b.grantPathOf(ctx, c, ask.subject)
	if err != nil {
		return nil, err
	}
	m := &grantMint{Broker: b, c: c, current: current, value: value, ask: ask, path: path, policy: b.refreshPolicy(c), leaseID: newID()}
	defer b.leases.set(m.leaseID, false)
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	note, err := b.spend(ctx, c)
	if err != nil {
		m.settleUse(ctx, m.found, "")
		return nil, err
	}
	token, err := m.refresh(ctx)
	b.settle(ctx, c, note, token, err)
	return token, err
}

// take waits for the grant's lease and journals the use of its refresh token.
func (m *grantMint) take(ctx context.Context) (err error) {
	defer func() {
		if err != nil && m.unsure { // what was journalled, or may yet be, is not sent
			m.settleUse(ctx, m.found, "")
		}
	}()
	for wait := pollBegin; ; wait = min(2*wait, pollMost) {
		left, err := m.tryTake(ctx)
		switch reason := ReasonOf(err); {
		case err == nil && left == 0:
			return nil
		case err == nil:
			if !m.wait(ctx, min(wait, left)) {
				return m.gaveUp(ctx, m.c, "wait for another use of the refresh token")
			}
		case reason != ReasonStoreConflict && reason != ReasonStoreAnswerLost:
			return err
		case !sleep(ctx, wait):
			return &Error{Reason: ReasonStoreStandby, Op: "take the grant's lease", Client: m.c.ID, Err: err}
		}
	}
}

// tryTake takes the lease if it is free, and else returns how long it is not at most.
func (m *grantMint) tryTake(ctx context.Context) (left time.Duration, err error) {
	if err := m.saves.wait(ctx, m.c, m.path); err != nil {
		return 0, err
	}
	begun := time.Now()
	r, secrets, version, err := m.readGrant(ctx, m.c, m.path)
	if err != nil {
		return 0, err
	}
	m.noteGrant(m.c, m.ask.subject, m.path, r.Generation, begun)
	seen := m.firstSeen(m.path, version)
	if r.Lease != nil && r.Lease.ID == m.leaseID { // the answer to our write was lost
		m.record, m.secrets, m.version = r, secrets, version
		return 0, nil
	}
	if left := m.leaseLeft(r.Lease, seen); left > 0 {
		return left, nil
	}
	if err := r.refusal(m.c, m.policy, time.Now()); err != nil {
		m.attend(ctx, m.c, &storedGrant{path: m.path, record: r, secrets: secrets, version: version})
		return 0, err
	}
	if err := m.choose(r, secrets); err != nil {
		return 0, err
	}
	if m.found = r.Spending; m.found != nil && !m.mayResend(r, m.found) {
		return 0, m.endLost(ctx, r, secrets, version)
	}
	err = m.journal(ctx, r, secrets, version)
	if ReasonOf(err) == ReasonStoreAnswerLost {
		m.record, m.secrets, m.version, m.unsure = r, secrets, version, true
	}
	return 0, err
}

// choose picks what is sent.
func (m *grantMint) choose(r *grantRecord, secrets *grantSecrets) error {
	origin, err := Origin(m.endpoint())
	if err != nil || !slices.Contains(r.Destinations, origin) {
		return newError(ReasonDestinationNotBound, m.c.ID, "the refresh token is bound to %v, not to %s", r.Destinations, origin)
	}
	m.token = secrets.RefreshToken
	if m.policy.WithAccessToken {
		m.token = secrets.AccessToken
	}
	m.scopes, err = refreshScopes(m.c, strings.Fields(m.ask.scopes), r.Scopes)
	return err
}

// endpoint is where refresh tokens are used.
func (m *grantMint) endpoint() string {
	if m.c.Upstream.RefreshEndpoint != "" {
		return m.c.Upstream.RefreshEndpoint
	}
	return m.c.Upstream.TokenEndpoint
}

// mayResend reports whether a refresh token whose use has no answer can be sent again
// without harm.
func (m *grantMint) mayResend(r *grantRecord, use *spending) bool {
	if !r.rotates(m.policy) {
		return true
	}
	return time.Since(use.Time) < m.policy.Grace && use.Tries < mostSpendings
}

// journal writes the lease and the use that is about to be made over the record.
func (m *grantMint) journal(ctx context.Context, r *grantRecord, secrets *grantSecrets, version uint64) error {
	m.leases.set(m.leaseID, true)
	taken, now := r.clone(), time.Now().UTC()
	use := &spending{ID: m.leaseID, Time: now, Tries: 1}
	if last := r.Spending; last != nil {
		use.Time, use.Tries = last.Time, last.Tries+1
	}
	taken.Spending, taken.Lease = use, &lease{Holder: m.replica, ID: m.leaseID, Duration: leaseDuration}
	taken.Fence++
	m.sent = time.Now()
	written, err := m.writeGrant(ctx, m.path, version, taken, secrets)
	if err != nil {
		return err
	}
	m.record, m.secrets, m.version = taken, secrets, written
	return nil
}

// endLost ends a grant whose refresh token was used without an answer. The use stays in
// the record: a process that was only slow to store what it brought still may.
func (m *grantMint) endLost(ctx context.Context, r *grantRecord, secrets *grantSecrets, version uint64) error {
	ended := r.clone()
	ended.Ended, ended.Lease = ReasonRefreshAnswerLost, nil
	ended.Fence++
	if _, err := m.writeGrant(ctx, m.path, version, ended, secrets); err != nil {
		return err
	}
	return ended.refusal(m.c, m.policy, time.Now())
}

// refresh sends the refresh token, with the lease in hand, until there is an answer or
// another try could do harm.
func (m *grantMint) refresh(ctx context.Context) (*Token, error) {
	for try := 1; ; try++ {
		answer, err := m.send(ctx)
		if err == nil {
			return m.succeed(ctx, answer)
		}
		e := AsError(err)
		failed := &Error{Reason: e.Reason, Op: "refresh token", Client: m.c.ID, Detail: e.Detail, Told: e.Told, RetryAfter: e.RetryAfter, Err: err}
		use := useOf(err)
		again := try < attempts && !m.c.Upstream.limited() && m.ask.proof == "" && e.RetryAfter <= maxBackoff && time.Until(m.end()) > attemptTimeout+maxBackoff
		switch {
		case use == useRejected && again && m.previous():
			again = m.journal(ctx, m.record, m.secrets, m.version) == nil
		case use == useRejected:
			if m.found != nil && m.record.rotates(m.policy) { // the successor, which we have never had, is taken
				failed.Reason = ReasonRefreshAnswerLost
			}
			m.settleUse(ctx, nil, failed.Reason)
			return nil, failed
		case use == useLost && !m.mayResend(m.record, m.record.Spending):
			m.settleUse(ctx, m.record.Spending, ReasonRefreshAnswerLost)
			return nil, &Error{Reason: ReasonRefreshAnswerLost, Op: "refresh token", Client: m.c.ID, Detail: fmt.Sprintf("%s: %s", e.Reason, e.Detail), Err: err}
		case use == useLost && again:
			m.found = m.record.Spending
			again = m.backOff(ctx, try, e.RetryAfter) && m.journal(ctx, m.record, m.secrets, m.version) == nil
		case use == useLost:
			m.found = m.record.Spending
		default:
			again = again && transient(e.Reason) && m.backOff(ctx, try, e.RetryAfter)
		}
		if !again {
			m.settleUse(ctx, m.found, "")
			return nil, failed
		}
	}
}

// previous turns to the refresh token before the one that was rejected after an answer
// was lost, if the provider may still take it. It reports whether it does.
func (m *grantMint) previous() bool {
	use := m.record.Spending
	if m.usedPrevious || m.found == nil || m.secrets.Previous == "" || time.Since(use.Time) >= m.policy.Grace {
		return false
	}
	m.token, m.usedPrevious = m.secrets.Previous, true
	return true
}

// end is when the holder of the lease has to be done with its requests.
func (m *grantMint) end() time.Time { return m.sent.Add(leaseDuration - leaseMargin) }

// send makes one request. It belongs to nobody: an answer that nobody waits for any more
// may hold the only refresh token.
func (m *grantMint) send(ctx context.Context) (response TokenResponse, err error) {
	request := m.c.tokenRequest(m.current, m.value, m.ask)
	request.Endpoint, request.Scopes = m.endpoint(), m.scopes
	request.Grant = GrantParameters{Type: RefreshToken, DPoPProof: m.ask.proof}
	if m.policy.WithAccessToken {
		request.Grant.AccessToken = secret.NewString(m.token)
	} else {
		request.Grant.RefreshToken = secret.NewString(m.token)
	}
	asked := false
	err = m.endpoints.do(ctx, request.Endpoint, func() error {
		if time.Until(m.end()) < attemptTimeout || ctx.Err() != nil {
			return &Error{Reason: ReasonUpstreamTimeout, Op: "refresh token", Detail: "there is no time left for an answer", Err: ctx.Err()}
		}
		asked = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
		defer cancel()
		response, err = m.requestToken(ctx, request)
		return err
	})
	if err != nil && !asked {
		err = &UnsentError{Err: err}
	}
	if err != nil && ReasonOf(err) == ReasonGrantRejected {
		e := *AsError(err)
		e.Reason = ReasonRefreshTokenRejected
		err = &e
	}
	if err == nil && !response.ServerTime.IsZero() {
		m.skews.Set(request.Endpoint, response.skewAt(time.Now()))
	}
	return response, err
}

// succeed stores what a refresh brought, and then returns its token.
func (m *grantMint) succeed(ctx context.Context, answer TokenResponse) (*Token, error) {
	now := time.Now().UTC()
	all := m.scopes == nil
	if answer.Scopes == nil {
		answer.Scopes = m.scopes
		if all {
			answer.Scopes = m.record.Scopes
		}
	}
	token, tokenErr := m.newToken(answer)
	ch := m.change(func(r *grantRecord, s *grantSecrets) {
		r.refreshed(m.policy, m.token, s, answer, now)
		r.SecretVersion = m.current.Number
		if all && len(answer.Scopes) > 0 {
			r.Scopes = answer.Scopes
		}
		if token != nil {
			r.TokenExpireTime = token.ExpireTime.UTC()
		}
	})
	ch.saved = func(ctx context.Context) {
		if token != nil {
			m.publish(ctx, m.c, m.ask.tokenKey, token)
		}
	}
	err := m.save(ctx, ch)
	switch {
	case errors.Is(err, errSuperseded) && (m.policy.Rotation != RotationNever || !m.stillGranted(ctx)):
		return nil, &Error{Reason: ReasonConcurrentChange, Op: "store what a refresh brought", Client: m.c.ID, Err: err}
	case err != nil && !errors.Is(err, errSuperseded):
		return nil, &Error{Reason: ReasonOf(err), Op: "store what a refresh brought", Client: m.c.ID, Detail: AsError(err).Detail, RetryAfter: AsError(err).RetryAfter, Err: err}
	case tokenErr != nil:
		return nil, tokenErr
	}
	if looked, err := m.introspected(ctx, m.c, m.current, m.value, answer); err != nil {
		return nil, err
	} else if looked.introspected != nil {
		return m.newToken(looked)
	}
	return token, nil
}

// stillGranted reports whether the grant is the one that was used.
func (m *grantMint) stillGranted(ctx context.Context) bool {
	r, _, _, err := m.readGrant(context.WithoutCancel(ctx), m.c, m.path)
	return err == nil && r.Generation == m.record.Generation
}

func (m *grantMint) newToken(answer TokenResponse) (*Token, error) {
	token, err := newToken(m.replica, m.c, m.current, m.ask.tokenKey, m.c.withCertificate(answer, m.value))
	if err != nil {
		return nil, err
	}
	token.grant = m.record.Generation
	return token, nil
}

// change is one of the grant that waits for what this mint found out.
func (m *grantMint) change(apply func(*grantRecord, *grantSecrets)) *grantChange {
	return &grantChange{
		c: m.c, subject: m.ask.subject, path: m.path, version: m.version, record: m.record, secrets: m.secrets,
		ours:  func(found *grantRecord) bool { return found.Spending != nil && found.Spending.ID == m.leaseID },
		apply: apply,
	}
}

// settleUse notes that nothing is under way any more, that left is a use without an
// answer, and why the grant ended, if it did.
func (m *grantMint) settleUse(ctx context.Context, left *spending, ended Reason) {
	ctx, cancel := context.WithTimeout(ctx, saveWait)
	defer cancel()
	err := m.save(ctx, m.change(func(r *grantRecord, _ *grantSecrets) {
		r.Lease, r.Spending = nil, left
		if ended != "" {
			r.Ended = ended
		}
	}))
	if err != nil {
		m.log.WarnContext(ctx, "what became of a refresh is not stored", "client", m.c.ID, "reason", ReasonOf(err))
	}
}
