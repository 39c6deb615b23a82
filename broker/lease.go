package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// leaseDuration is how long one replica may take for a token before another tries;
	// the holder gives up leaseMargin earlier, since clocks do not run quite alike.
	leaseDuration = 25 * time.Second
	leaseMargin   = 2 * time.Second
)

// errNotShared is in the errors of a token record that cannot be used: a token can
// be had all the same, only not for the whole fleet.
var errNotShared = errors.New("the token cannot be shared")

// seenVersion is when this replica first saw a version of a record.
type seenVersion struct {
	version uint64
	at      time.Time
}

// ownLeases are the IDs of the leases that mints of this process hold. A lease of
// this replica that is not among them is what a mint left that could not release it.
type ownLeases struct {
	mu  sync.Mutex
	ids map[string]bool // guarded by mu
}

func (o *ownLeases) set(id string, held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if held {
		o.ids[id] = true
	} else {
		delete(o.ids, id)
	}
}

func (o *ownLeases) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ids[id]
}

// sharedMint is one try of this replica to get the token of a key for the fleet.
type sharedMint struct {
	*Broker
	c       *Client
	current SecretVersion
	key     tokenKey
	path    string
	want    want
	keys    []sealingKey
	// grant is the generation of the user's grant, refusal why no other token can be had
	// by it; 0 and nil where there is none.
	grant   int64
	refusal error
	// leaseID is this mint's, sent when the write of its lease was last begun.
	leaseID string
	sent    time.Time
	// fetched is what came of reading the secret while the lease was taken; nil if it
	// was not read.
	fetched *fetchedSecret
}

// fetchedSecret is a secret, or why it could not be read.
type fetchedSecret struct {
	value secret.Value
	err   error
}

// mintShared gets a token for all replicas: one that another replica put into the
// store since, or, with the lease, a new one.
func (b *Broker) mintShared(ctx context.Context, c *Client, current SecretVersion, key tokenKey, w want) (*Token, error) {
	m := &sharedMint{Broker: b, c: c, current: current, key: key, want: w, leaseID: newID()}
	var err error
	if m.path, err = b.tokenPath(ctx, key); err != nil {
		return nil, m.unshared(err)
	}
	if m.keys, err = b.sealer(ctx); err != nil {
		return nil, m.unshared(err)
	}
	if err := m.readGranted(ctx); err != nil {
		return nil, err
	}
	defer b.leases.set(m.leaseID, false)
	for wait := pollBegin; ; wait = min(2*wait, pollMost) {
		r, version, err := b.readToken(ctx, c, m.path)
		if err != nil {
			return nil, m.unshared(err)
		}
		seen := b.firstSeen(m.path, version)
		if token := m.adoptable(r); token != nil {
			b.succeeded(ctx, c, key, token)
			return token, nil
		}
		if m.refusal != nil {
			return nil, b.noteFailure(ctx, c, current, key, m.refusal)
		}
		if r.Lease != nil && r.Lease.ID == m.leaseID { // the answer to our write was lost
			return m.hold(ctx, r, version)
		}
		if left := m.leaseLeft(r.Lease, seen); left > 0 {
			if !b.wait(ctx, min(wait, left)) {
				return nil, b.gaveUp(ctx, c, "wait for another replica's token")
			}
			continue
		}
		if err := m.sharedHoldDown(ctx, r.Failure, seen); err != nil {
			return nil, err
		}
		version, err = m.takeAndFetch(ctx, r, version)
		switch reason := ReasonOf(err); {
		case err == nil:
			return m.hold(ctx, r, version)
		case reason != ReasonStoreConflict && reason != ReasonStoreAnswerLost:
			return nil, m.unshared(err)
		case !sleep(ctx, wait): // a re-read at once might show what a lagging node still has
			return nil, &Error{Reason: ReasonStoreStandby, Op: "take the lease", Client: c.ID, Err: err}
		}
	}
}

// readGranted reads what the subject granted, if the client's tokens are had so.
func (m *sharedMint) readGranted(ctx context.Context) error {
	if !m.c.Upstream.Grant.ofUsers() {
		return nil
	}
	path, err := m.grantPathOf(ctx, m.c, m.key.subject)
	if err != nil {
		return err
	}
	begun := time.Now()
	r, secrets, version, err := m.readGrant(ctx, m.c, path)
	if err != nil {
		return err
	}
	m.noteGrant(m.c, m.key.subject, path, r.Generation, begun)
	m.firstSeen(path, version) // who died with the token's lease held the grant's too: they are waited for together
	m.grant, m.refusal = r.Generation, r.refusal(m.c, m.refreshPolicy(m.c), time.Now())
	if m.refusal != nil {
		m.attend(ctx, m.c, &storedGrant{path: path, record: r, secrets: secrets, version: version})
	}
	return nil
}

// unshared marks an error of the token record, unless it is one of a store that is
// away or sealed.
func (m *sharedMint) unshared(err error) error {
	if outage(err) || ReasonOf(err) == ReasonStoreSealed || ReasonOf(err) == ReasonShuttingDown {
		return err
	}
	return fmt.Errorf("%w: %w", errNotShared, err)
}

// firstSeen returns when this replica first saw that version of the record at path.
func (b *Broker) firstSeen(path string, version uint64) time.Time {
	if seen, ok := b.seen.GetIfPresent(path); ok && seen.version == version {
		return seen.at
	}
	now := time.Now()
	b.seen.Set(path, seenVersion{version, now})
	return now
}

// leaseLeft returns how long somebody else's lease lasts at most.
func (b *Broker) leaseLeft(l *lease, firstSeen time.Time) time.Duration {
	if l == nil || l.Holder == b.replica && !b.leases.has(l.ID) {
		return 0
	}
	return l.Duration - time.Since(firstSeen)
}

// adoptable returns the record's token if it is what is wanted.
func (m *sharedMint) adoptable(r *tokenRecord) *Token {
	if r.Token == nil {
		return nil
	}
	shared, err := r.Token.open(m.keys, m.path)
	if err != nil {
		m.log.Warn("shared token not used", "client", m.c.ID, "cause", err)
		return nil
	}
	now := time.Now()
	t := shared.token(m.replica, m.c, m.key, m.aheadOf(m.c.Upstream.TokenEndpoint), now)
	switch age := now.Sub(t.IssueTime); {
	case t.SecretVersion < m.c.MinSecretVersion || !t.aliveAt(now) || t.grant != m.grant:
		return nil
	case m.want.rejects(t):
		if age >= m.c.Upstream.rejectionHold() {
			return nil
		}
	case age < holdDown: // whatever was asked for, asking again gives no better one
	case m.want.background:
		if now.After(t.RefreshAfter) || m.want.seen != nil && m.want.seen.ID == t.ID {
			return nil
		}
	case !t.good(m.want.minValidity, now):
		return nil
	}
	return t
}

// sharedHoldDown returns the fleet's last failure while it is not yet time to ask
// again.
func (m *sharedMint) sharedHoldDown(ctx context.Context, s *sharedFailure, firstSeen time.Time) error {
	if s == nil || s.SecretVersion != m.current.Number || s.Grant != m.grant {
		return nil
	}
	f, now := s.failure(m.c.ID, firstSeen), time.Now()
	if own, ok := m.failures.GetIfPresent(m.key); ok && own.at.After(f.at) {
		return nil // what this replica found out later was judged before
	}
	if _, known := m.parked.GetIfPresent(m.c.UID); parks(s.Reason) && !known {
		m.readParking(ctx, m.c, nil)
		if err := m.checkParked(ctx, m.c, m.current); err != nil {
			return err
		}
	}
	if !now.Before(f.until(!m.want.background)) {
		return nil
	}
	m.failures.Set(m.key, f)
	return f.told(now)
}

// ask is what is asked for.
func (m *sharedMint) ask() tokenAsk { return m.key.ask(m.want.query) }

// takeAndFetch takes the lease and reads the secret at once: neither needs the other,
// and whoever waits for a token waits for the store once less.
func (m *sharedMint) takeAndFetch(ctx context.Context, r *tokenRecord, version uint64) (uint64, error) {
	if checkBound(m.c, m.current) != nil { // hold says so
		return m.take(ctx, r, version)
	}
	fetched := &fetchedSecret{}
	var fetching sync.WaitGroup
	fetching.Go(func() {
		fetched.err = m.guarded(ctx, func() (err error) {
			fetched.value, err = m.readMinting(ctx, m.c, m.current)
			return err
		})
	})
	version, err := m.take(ctx, r, version)
	fetching.Wait()
	if err != nil {
		fetched.value.Wipe()
		return version, err
	}
	m.fetched = fetched
	return version, nil
}

// requestHeld asks the authorization server, with the lease in hand.
func (m *sharedMint) requestHeld(ctx context.Context) (*Token, error) {
	if f := m.fetched; f != nil {
		return m.requestAfter(ctx, m.c, m.current, m.ask(), f.value, f.err)
	}
	return m.requestWith(ctx, m.c, m.current, m.ask())
}

// take writes the lease over the record that was read.
func (m *sharedMint) take(ctx context.Context, r *tokenRecord, version uint64) (uint64, error) {
	m.leases.set(m.leaseID, true)
	r.Lease = &lease{Holder: m.replica, ID: m.leaseID, Duration: leaseDuration}
	r.Generation = m.c.TokenGeneration
	r.Fence++
	m.sent = time.Now()
	return m.write(ctx, m.path, version, &r.header, r)
}

// hold asks for a token with the lease in hand, and writes what came of it and that
// the lease is free in one write.
func (m *sharedMint) hold(ctx context.Context, r *tokenRecord, version uint64) (*Token, error) {
	limited, cancel := context.WithDeadline(ctx, m.sent.Add(min(mintTimeout, leaseDuration-leaseMargin)))
	defer cancel()
	token, err := m.orPrevious(limited, m.c, m.current, m.ask(), m.requestHeld)
	r.Lease = nil
	if err != nil {
		err = m.noteFailure(ctx, m.c, m.current, m.key, err)
		if f, ok := m.failures.GetIfPresent(m.key); ok && fromUpstream(ReasonOf(err)) {
			r.Failure = f.shared()
			r.Failure.Grant = m.grant
		}
		_, writeErr := m.write(ctx, m.path, version, &r.header, r)
		if writeErr != nil {
			m.log.WarnContext(ctx, "lease not released; it ends by itself", "client", m.c.ID, "reason", ReasonOf(writeErr))
		}
		if token := m.insteadOf(ctx, nil, writeErr); token != nil {
			m.succeeded(ctx, m.c, m.key, token)
			return token, nil
		}
		return nil, err
	}
	r.Failure = nil
	if r.Token, err = token.seal(m.keys[len(m.keys)-1], m.path, m.aheadOf(m.c.Upstream.TokenEndpoint), m.key.query(m.c.ID)); err == nil {
		_, err = m.write(ctx, m.path, version, &r.header, r)
	}
	if err != nil && ReasonOf(err) != ReasonStoreConflict {
		m.log.WarnContext(ctx, "token not shared", "client", m.c.ID, "reason", ReasonOf(err), "cause", err)
	}
	token = m.insteadOf(ctx, token, err)
	m.succeeded(ctx, m.c, m.key, token)
	return token, nil
}

// insteadOf returns the token that the fleet has in place of one that came too late, or
// never, as the error of the last write tells; own if there is none that is as good.
func (m *sharedMint) insteadOf(ctx context.Context, own *Token, written error) *Token {
	switch ReasonOf(written) {
	case ReasonStoreConflict, ReasonStoreAnswerLost: // another replica has taken over, or may have
	default:
		return own
	}
	ctx = context.WithoutCancel(ctx) // a process that was stopped for long has no time left
	r, _, err := m.readToken(ctx, m.c, m.path)
	if err != nil {
		return own
	}
	if token := m.adoptable(r); token != nil {
		return token
	}
	return own
}

// shares reports whether tokens of c are those of all replicas.
func (b *Broker) shares(c *Client) bool {
	return c.Upstream.limited() || !b.notShared && !c.TokenPolicy.Unshared
}

// publish makes a token that was had beside the lease the fleet's, as well as it can:
// a replica that does not find it in time is told by those who use the old one.
func (b *Broker) publish(ctx context.Context, c *Client, key tokenKey, token *Token) {
	b.install(key, token)
	if !b.shares(c) {
		return
	}
	path, err := b.tokenPath(ctx, key)
	var keys []sealingKey
	if err == nil {
		keys, err = b.sealer(ctx)
	}
	for try := 0; err == nil && try < 3; try++ {
		var r *tokenRecord
		var version uint64
		if r, version, err = b.readToken(ctx, c, path); err != nil {
			break
		}
		if r.Token, err = token.seal(keys[len(keys)-1], path, b.aheadOf(c.Upstream.TokenEndpoint), key.query(c.ID)); err != nil {
			break
		}
		r.Lease, r.Failure, r.Generation = nil, nil, c.TokenGeneration // whoever holds the lease has been overtaken
		r.Fence++
		if _, err = b.write(ctx, path, version, &r.header, r); err == nil {
			return
		}
		if ReasonOf(err) == ReasonStoreConflict && sleep(ctx, pollBegin) {
			err = nil
		}
	}
	b.log.WarnContext(ctx, "token not shared", "client", c.ID, "reason", ReasonOf(err), "cause", err)
}
