package broker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// pollInterval is taken where the server names none, slowDown added when it says so
	// (RFC 8628 §3.5), and maxPollInterval the most that it grows to while the server
	// does not answer.
	pollInterval    = 5 * time.Second
	slowDown        = 5 * time.Second
	maxPollInterval = time.Minute
	// pollLease is how long the replica that polls may be silent before another one
	// takes over; it renews the lease each pollRenewal, so that a poll costs no write.
	pollLease   = time.Minute
	pollRenewal = 20 * time.Second
	// maxDeviceLifetime bounds what a server may call the lifetime of a device code.
	maxDeviceLifetime = time.Hour
	// maxDevicePolls bounds the consents that one replica polls for.
	maxDevicePolls = 1000
)

// devicePolls are the consents that this replica polls for. Safe for concurrent use.
type devicePolls struct {
	mu sync.Mutex // guards running
	// running :: path of the grant → the attempt and what ends it
	running map[string]*devicePoll
}

// devicePoll asks for the tokens of one consent until it has an answer. It belongs to
// its goroutine.
type devicePoll struct {
	b             *Broker
	clientID, uid string
	path          string
	consent       consentRecord
	code          secret.Value
	// renewed is when the write of the lease was last begun.
	renewed time.Time
	stop    context.CancelFunc
}

// startDevice begins a consent on another device (RFC 8628).
func (b *Broker) startDevice(ctx context.Context, c *Client, id string, s AuthorizationStart) (*Authorization, error) {
	if s.RedirectURI != "" || s.LoginHint != "" {
		return nil, Invalid("redirect_uri", "and login_hint are for clients of the grant authorization_code: a device has no browser")
	}
	if b.devices.full() {
		return nil, newError(ReasonTooManyRequests, c.ID, "this replica polls for %d devices already", maxDevicePolls)
	}
	version, value, err := b.consentSecret(ctx, c)
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	request := consentRequest(c, version, value)
	request.Endpoint, request.Scopes, request.Audience = c.Upstream.DeviceAuthorizationEndpoint, s.Scopes, c.Upstream.Audience
	request.Grant.Type = DeviceCode
	var answer DeviceAuthorization
	err = b.endpoints.do(ctx, request.Endpoint, func() error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		answer, err = b.server.AuthorizeDevice(ctx, request)
		return err
	})
	if err != nil {
		e := AsError(err)
		return nil, &Error{Reason: e.Reason, Op: "authorize a device", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
	}
	now := time.Now()
	consent := &consentRecord{
		Attempt: newID(), Scopes: s.Scopes, ExpireTime: now.Add(min(orDefault(answer.ExpiresIn, consentLifetime), maxDeviceLifetime)).UTC(),
		UserCode: answer.UserCode, VerificationURI: answer.VerificationURI, VerificationURIComplete: answer.VerificationURIComplete,
		Interval: min(orDefault(answer.Interval, pollInterval), maxPollInterval), Poller: b.pollerLease(),
	}
	a, err := b.writeConsent(ctx, c, id, s.Subject, consent, grantSecrets{DeviceCode: answer.DeviceCode.RevealString()})
	if err != nil {
		return nil, err
	}
	b.poll(ctx, &devicePoll{b: b, clientID: c.ID, uid: c.UID, path: grantPath(c.UID, id), consent: *consent, code: answer.DeviceCode, renewed: now})
	return a, nil
}

func (b *Broker) pollerLease() *lease {
	return &lease{Holder: b.replica, ID: newID(), Duration: pollLease}
}

// attend takes a device's consent over whose poller is gone: what it found is kept, and
// its user need not begin anew. It is for whoever has just read the grant; a replica
// counts the lease from when it first saw this version.
func (b *Broker) attend(ctx context.Context, c *Client, g *storedGrant) {
	k := g.record.Consent
	if k == nil || k.Poller == nil || k.outcome(time.Now()) != "" || g.secrets.DeviceCode == "" || b.server == nil || c.usable() != nil {
		return
	}
	seen := b.firstSeen(g.path, g.version)
	if b.devices.polls(g.path, k.Attempt) || b.devices.full() || k.Poller.Holder != b.replica && time.Since(seen) < k.Poller.Duration {
		return
	}
	attempt, sent := k.Attempt, time.Now()
	taken, err := b.editGrant(ctx, c, g.path, func(r *grantRecord, _ *grantSecrets) error {
		if r.Consent == nil || r.Consent.Attempt != attempt || r.Consent.Poller == nil || r.Consent.Poller.ID != k.Poller.ID {
			return errUnchanged
		}
		r.Consent.Poller = b.pollerLease()
		return nil
	})
	if err != nil {
		return // the next one who looks tries again
	}
	b.poll(ctx, &devicePoll{
		b: b, clientID: c.ID, uid: c.UID, path: g.path, consent: *taken.record.Consent, code: secret.NewString(taken.secrets.DeviceCode), renewed: sent,
	})
}

// poll polls until there is an answer, beside its caller. One for the same grant that
// is under way ends: its consent was replaced.
func (b *Broker) poll(begun context.Context, p *devicePoll) {
	ctx, cancel := context.WithDeadline(b.carryTrace(begun, b.working), p.consent.ExpireTime.Add(exchangeTimeout))
	p.stop = cancel
	b.devices.add(p)
	finish := func() {
		b.devices.remove(p)
		cancel()
	}
	polls := b.beside(func() {
		defer finish()
		_ = b.guarded(ctx, func() error { p.run(ctx); return nil }) // guarded logs what it caught
	})
	if !polls {
		finish()
	}
}

// run asks once per interval. When the Broker is to stop, another replica may go on at
// once.
func (p *devicePoll) run(ctx context.Context) {
	defer func() {
		if p.b.stopping.Err() != nil {
			p.handOver(ctx)
		}
	}()
	interval := p.consent.Interval
	for p.b.wait(ctx, interval) {
		if !p.keepLease(ctx) {
			return
		}
		if time.Since(p.renewed) > pollLease-leaseMargin {
			continue // the store is away: another replica might poll by now
		}
		err := p.ask(ctx, interval)
		switch reason := ReasonOf(err); {
		case err == nil || ctx.Err() != nil:
			return
		case reason == ReasonUpstreamRateLimited:
			interval = min(max(interval+slowDown, AsError(err).RetryAfter), maxPollInterval)
		case transient(reason):
			interval = min(2*interval, maxPollInterval) // RFC 8628 §3.5
		case reason == ReasonAuthorizationPending: // and slow_down, which says to wait for longer
			interval = min(max(interval, AsError(err).RetryAfter), maxPollInterval)
		case reason == ReasonTooManyRequests, outage(err):
		case reason == ReasonGrantRejected && !time.Now().Before(p.consent.ExpireTime): // who forgets what has expired cannot say so
		default:
			p.end(ctx, err)
			return
		}
		if !time.Now().Before(p.consent.ExpireTime) {
			p.end(ctx, newError(ReasonAuthorizationExpired, p.clientID, ""))
			return
		}
	}
}

// keepLease renews the lease in time and reports whether this is still the consent that
// is asked for, and this the replica that polls for it.
func (p *devicePoll) keepLease(ctx context.Context) bool {
	if time.Since(p.renewed) < pollRenewal {
		return true
	}
	sent := time.Now()
	err := p.writeLease(ctx, pollLease)
	if err == nil {
		p.renewed = sent
	}
	return !errors.Is(err, errUnchanged)
}

// writeLease makes the lease last for d from now; errUnchanged if it is another one's by
// now, or the consent is.
func (p *devicePoll) writeLease(ctx context.Context, d time.Duration) error {
	_, err := p.b.editGrant(ctx, p.client(), p.path, func(r *grantRecord, _ *grantSecrets) error {
		if k := r.Consent; k == nil || k.Attempt != p.consent.Attempt || k.Poller == nil || k.Poller.ID != p.consent.Poller.ID {
			return errUnchanged
		}
		r.Consent.Poller = &lease{Holder: p.b.replica, ID: p.consent.Poller.ID, Duration: d}
		return nil
	})
	return err
}

// handOver ends the lease.
func (p *devicePoll) handOver(ctx context.Context) {
	if err := p.writeLease(ctx, 0); err != nil && !errors.Is(err, errUnchanged) {
		p.b.log.WarnContext(ctx, "a device's consent is not handed over; its lease ends by itself", "client", p.clientID, "reason", ReasonOf(err))
	}
}

// client is as much of the client as its grants' path and errors need.
func (p *devicePoll) client() *Client { return &Client{ID: p.clientID, UID: p.uid} }

// ask asks once (RFC 8628 §3.4), waited after the last time, with client and secret as
// they are now, and stores what is granted.
func (p *devicePoll) ask(ctx context.Context, waited time.Duration) error {
	c, err := p.b.readClient(ctx, p.clientID)
	if err != nil {
		return err
	}
	if err := c.usable(); err != nil {
		return err
	}
	if c.UID != p.uid {
		return newError(ReasonClientNotFound, p.clientID, "another client has its name")
	}
	version, value, err := p.b.consentSecret(ctx, c)
	if err != nil {
		return err
	}
	defer value.Wipe()
	request := consentRequest(c, version, value)
	request.Grant = GrantParameters{Type: DeviceCode, DeviceCode: p.code, PollInterval: waited}
	answer, err := p.b.requestOnce(ctx, request)
	if err == nil && !answer.IDToken.IsZero() {
		err = p.b.server.CheckIDToken(answer.IDToken, c.Upstream.Issuer, c.Upstream.ClientID, "")
	}
	if err != nil {
		return err
	}
	g, err := p.b.existing(ctx, c, AuthorizationRef{ClientID: c.ID, ID: p.path[strings.LastIndexByte(p.path, '/')+1:]})
	for wait := minBackoff; outage(err) && sleep(ctx, wait); wait = min(2*wait, maxBackoff) { // what came cannot be had again
		g, err = p.b.existing(ctx, c, AuthorizationRef{ClientID: c.ID, ID: p.path[strings.LastIndexByte(p.path, '/')+1:]})
	}
	if err == nil && (g.record.Consent == nil || g.record.Consent.Attempt != p.consent.Attempt) {
		err = stateInvalid(c.ID, "another consent was asked for since")
	}
	if err == nil {
		_, err = p.b.consented(ctx, c, version, g, answer)
	}
	if err != nil {
		p.b.log.ErrorContext(ctx, "what a device's consent gave is not stored", "client", c.ID, "reason", ReasonOf(err), "cause", err)
	}
	return nil // the code is used up
}

// end writes why nothing came of the consent.
func (p *devicePoll) end(ctx context.Context, err error) {
	if ReasonOf(err) == ReasonGrantRejected { // a device code that is taken no more
		err = notTaken(p.client(), err)
	}
	p.b.log.InfoContext(ctx, "device not authorized", "client", p.clientID, "reason", ReasonOf(err))
	_ = p.b.endConsent(ctx, p.client(), p.path, p.consent.Attempt, err) // which logs what it could not write
}

func (d *devicePolls) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.running) >= maxDevicePolls
}

func (d *devicePolls) polls(path, attempt string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.running[path]
	return p != nil && p.consent.Attempt == attempt
}

func (d *devicePolls) add(p *devicePoll) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if earlier := d.running[p.path]; earlier != nil {
		earlier.stop()
	}
	d.running[p.path] = p
}

func (d *devicePolls) remove(p *devicePoll) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[p.path] == p {
		delete(d.running, p.path)
	}
}
