package broker

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	attemptTimeout = 8 * time.Second
	mintTimeout    = 20 * time.Second
	attempts       = 3
	minBackoff     = 200 * time.Millisecond
	maxBackoff     = 2 * time.Second
	// After a failure nobody asks again for holdDown, doubled with each further
	// failure up to maxHoldDown; a longer Retry-After wins, up to maxRetryAfter.
	holdDown      = 5 * time.Second
	maxHoldDown   = 30 * time.Second
	maxRetryAfter = 5 * time.Minute
	maxPatience   = 2 * time.Second
)

// failure remembers why the last mint of a key failed.
type failure struct {
	err           error
	secretVersion int64
	count         int
	until         time.Time
}

// GetToken returns a token that satisfies q: the cached one, or a new one, for
// which all callers that want the same share one request. A caller that leaves
// cancels nothing. While a refresh fails, a token that is still valid is served
// with a warning. The Token is shared and must not be changed.
//
// INVALID_REQUEST, SCOPE_NOT_ALLOWED, TARGET_NOT_ALLOWED, CLIENT_NOT_FOUND,
// CLIENT_DISABLED, CLIENT_DELETED, DEADLINE_EXCEEDED, SHUTTING_DOWN, a SECRET_
// reason, or one of the store or of the authorization server.
func (b *Broker) GetToken(ctx context.Context, q TokenQuery) (*Token, []Warning, error) {
	if err := checkQuery(q); err != nil {
		return nil, nil, err
	}
	loaded, err := b.load(ctx, q.ClientID)
	if err != nil {
		return nil, nil, err
	}
	c := loaded.client
	if err := c.usable(); err != nil {
		return nil, nil, err
	}
	key, err := loaded.defaultKey, loaded.defaultErr
	if len(q.Scopes)+len(q.Audience)+len(q.Resources) > 0 {
		key, err = keyOf(c, q)
	}
	if err != nil {
		return nil, nil, err
	}
	now, minValidity := time.Now(), c.minValidity(q)
	held, ok := b.tokens.GetIfPresent(key)
	valid := ok && held.SecretVersion >= c.MinSecretVersion && held.ExpireTime.After(now)
	if valid && held.usableFor(minValidity, now) {
		warnings := held.serveWarnings(minValidity, now)
		if now.After(held.RefreshAfter) {
			warnings = append(slices.Clip(warnings), b.refresh(c, q, key, held, now)...)
		}
		return held, warnings, nil
	}
	if valid && now.Sub(held.IssueTime) < holdDown {
		return held, held.serveWarnings(minValidity, now), nil
	}
	if most := patience(ctx); valid && held.ExpireTime.Sub(now) > most {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	token, err := b.mintFor(ctx, c, q, key, held, now)
	if err != nil && valid && time.Now().Before(held.ExpireTime) && ReasonOf(err) != ReasonClientDisabled && ReasonOf(err) != ReasonClientDeleted {
		return held, append(slices.Clip(held.serveWarnings(minValidity, now)), refreshFailing(err)), nil
	}
	if err != nil {
		return nil, nil, err
	}
	return token, token.serveWarnings(minValidity, time.Now()), nil
}

// patience is how long a caller waits for a new token while the present one is
// valid: it must still have time to use that.
func patience(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxPatience, time.Until(deadline)/4)
	}
	return maxPatience
}

func refreshFailing(err error) Warning {
	return Warning{Reason: ReasonRefreshFailing, Detail: string(ReasonOf(err))}
}

func checkQuery(q TokenQuery) error {
	if len(q.Scopes)+len(q.Audience)+len(q.Resources) == 0 && q.MinValidity == nil {
		return nil // nothing to check but the id, which the index does on a miss
	}
	var v violations
	checkScopes(&v, "scopes", q.Scopes)
	checkText(&v, "audience", q.Audience, maxURLLength)
	checkTargets(&v, "resources", q.Resources, true)
	if q.MinValidity != nil && (*q.MinValidity < 0 || *q.MinValidity > maxMinValidity) {
		v.add("min_validity", "must lie between 0 and %v", maxMinValidity)
	}
	return v.err()
}

func (c *Client) minValidity(q TokenQuery) time.Duration {
	switch {
	case q.MinValidity != nil:
		return *q.MinValidity
	case c.TokenPolicy.MinValidity > 0:
		return c.TokenPolicy.MinValidity
	default:
		return defaultMinValidity
	}
}

// serveWarnings returns the token's own warnings, and one more if it lives shorter
// than asked for. The common case shares the token's list.
func (t *Token) serveWarnings(minValidity time.Duration, now time.Time) []Warning {
	if t.ExpireTime.Sub(now) >= minValidity {
		return t.warnings
	}
	return append(slices.Clip(t.warnings), Warning{Reason: ReasonTokenShorterThanAsked})
}

// refresh starts a mint in the background unless one was begun or failed lately:
// each caller that joined a flight would be kept in its list until it lands, and a
// store that fails fast would be asked as fast as callers come. It warns while
// refreshing fails.
func (b *Broker) refresh(c *Client, q TokenQuery, key tokenKey, held *Token, now time.Time) []Warning {
	if held.beginRefresh(now) && b.heldDown(c, key, now) == nil {
		mint := b.mint(b.background, c, q, key, held)
		b.flights.DoChan(key.String(), func() (any, error) {
			token, err := mint()
			if err != nil { // nobody waits who would be told
				b.log.WarnContext(b.background, "token not refreshed", "client", c.ID, "reason", ReasonOf(err), "cause", err)
			}
			return token, err
		})
	}
	if f, ok := b.failures.GetIfPresent(key); ok {
		return []Warning{refreshFailing(f.err)}
	}
	return nil
}

// mintFor joins or starts the one mint of key and waits for it. A token that came
// back below the floor, because its secret was compromised meanwhile, is minted
// once more.
func (b *Broker) mintFor(ctx context.Context, c *Client, q TokenQuery, key tokenKey, seen *Token, now time.Time) (*Token, error) {
	if err := b.heldDown(c, key, now); err != nil {
		return nil, err
	}
	for range 2 {
		result, err := await(ctx, b.flights.DoChan(key.String(), b.mint(ctx, c, q, key, seen)))
		if err != nil {
			return nil, err
		}
		token := result.(*Token)
		if loaded, ok := b.clients.GetIfPresent(c.ID); !ok || token.SecretVersion >= loaded.client.MinSecretVersion {
			return token, nil
		}
		seen = token
	}
	return nil, newError(ReasonConcurrentChange, c.ID, "its secret changed while a token was requested")
}

// heldDown returns the last failure while it is not yet time to ask again. A new
// secret ends the wait at once.
func (b *Broker) heldDown(c *Client, key tokenKey, now time.Time) error {
	f, ok := b.failures.GetIfPresent(key)
	if !ok || !now.Before(f.until) {
		return nil
	}
	if current, ok := c.Staged(Current); !ok || current.Number != f.secretVersion {
		return nil
	}
	e := *AsError(f.err)
	e.RetryAfter = f.until.Sub(now)
	return &e
}

// mint returns the work of a flight: one mint that belongs to no caller; of begun, its
// starter's context, only the trace is kept. seen is the token that its starter found
// in memory: since it looked, another flight may have ended, well or badly.
func (b *Broker) mint(begun context.Context, c *Client, q TokenQuery, key tokenKey, seen *Token) func() (any, error) {
	return func() (any, error) {
		if token, ok := b.tokens.GetIfPresent(key); ok && token != seen && token.SecretVersion >= c.MinSecretVersion {
			return token, nil
		}
		if err := b.heldDown(c, key, time.Now()); err != nil {
			return nil, err
		}
		var token *Token
		err := b.detached(begun, mintTimeout, func(ctx context.Context) error {
			var err error
			token, err = b.mintNow(ctx, q)
			return err
		})
		return token, err
	}
}

// mintNow reads what decides (the record, the secret) from the store, not from
// memory, and asks for a token.
func (b *Broker) mintNow(ctx context.Context, q TokenQuery) (*Token, error) {
	c, err := b.readClient(ctx, q.ClientID)
	if err != nil {
		return nil, err
	}
	if err := c.usable(); err != nil {
		return nil, err
	}
	key, err := keyOf(c, q) // of the settings as they are now
	if err != nil {
		return nil, err
	}
	current, ok := c.Staged(Current)
	if !ok {
		return nil, newError(ReasonSecretNotSet, c.ID, "")
	}
	token, err := b.requestWith(ctx, c, current, key)
	if err != nil {
		return nil, b.noteFailure(c, current, key, err)
	}
	b.failures.Invalidate(key)
	b.tokens.Set(key, token)
	return token, nil
}

// noteFailure makes the next callers wait after a failure at the authorization
// server. Failures of the store have no hold-down: they may end any moment and
// asking the store again costs little. It returns err with the wait as RetryAfter,
// so that those who waited for this mint are told the same as those who come later.
func (b *Broker) noteFailure(c *Client, current SecretVersion, key tokenKey, err error) error {
	if !fromUpstream(ReasonOf(err)) {
		return err
	}
	e := *AsError(err)
	count := 1
	if last, ok := b.failures.GetIfPresent(key); ok && last.secretVersion == current.Number {
		count = last.count + 1
	}
	wait := min(holdDown<<min(count-1, 10), maxHoldDown)
	wait = max(wait, min(e.RetryAfter, maxRetryAfter))
	e.RetryAfter = wait
	b.failures.Set(key, &failure{err: &e, secretVersion: current.Number, count: count, until: time.Now().Add(wait)})
	return &e
}

// requestWith gets a token with one secret version, trying again after failures
// that may be gone the next moment.
func (b *Broker) requestWith(ctx context.Context, c *Client, version SecretVersion, key tokenKey) (*Token, error) {
	if err := checkBound(c, version); err != nil {
		return nil, err
	}
	value, err := b.readSecret(ctx, c, version)
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	request := TokenRequest{
		Endpoint: c.Upstream.TokenEndpoint, Destinations: version.Destinations, Authentication: c.Upstream.Authentication,
		ClientID: c.Upstream.ClientID, Secret: value, Scopes: strings.Fields(key.scopes), Audience: key.audience,
		Resources: strings.Fields(key.resources), Parameters: c.Upstream.Parameters,
	}
	for try := 1; ; try++ {
		answer, err := b.requestOnce(ctx, request)
		if err == nil {
			return newToken(c, version, key, answer)
		}
		e := AsError(err)
		if try == attempts || !transient(e.Reason) || e.RetryAfter > maxBackoff || !pause(ctx, try, e.RetryAfter) {
			return nil, &Error{Reason: e.Reason, Op: "request token", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
		}
	}
}

func (b *Broker) requestOnce(ctx context.Context, request TokenRequest) (TokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return b.requestToken(ctx, request)
}

// pause waits between tries with full jitter, but no shorter than the server asks
// for, and reports whether there is time for another one.
func pause(ctx context.Context, try int, atLeast time.Duration) bool {
	wait := max(atLeast, rand.N(min(minBackoff<<(2*try), maxBackoff)))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func transient(r Reason) bool {
	switch r {
	case ReasonUpstreamDNS, ReasonUpstreamConnect, ReasonUpstreamProxy, ReasonUpstreamTimeout, ReasonUpstreamUnavailable, ReasonUpstreamMalformed:
		return true
	}
	return false
}

// fromUpstream reports whether r tells of the authorization server or the way to it.
func fromUpstream(r Reason) bool {
	switch r {
	case ReasonClientRejected, ReasonGrantRejected, ReasonGrantTypeRejected, ReasonScopeRejected, ReasonTargetRejected,
		ReasonRequestRejected, ReasonTokenTypeUnsupported, ReasonScopeNotGranted, ReasonTokenExpired:
		return true
	}
	return strings.HasPrefix(string(r), "UPSTREAM_")
}

// String returns the key for single flights; its parts cannot contain NUL.
func (k tokenKey) String() string {
	return strings.Join([]string{k.uid, k.settings, k.scopes, k.audience, k.resources}, "\x00")
}
