package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	attemptTimeout = 8 * time.Second
	mintTimeout    = 20 * time.Second
	attempts       = 3
	minBackoff     = 200 * time.Millisecond
	maxBackoff     = 2 * time.Second
)

// requestWith reads one secret version and gets a token with it.
func (b *Broker) requestWith(ctx context.Context, c *Client, version SecretVersion, key tokenKey) (*Token, error) {
	if err := checkBound(c, version); err != nil {
		return nil, err
	}
	value, err := b.readSecret(ctx, c, version)
	return b.requestAfter(ctx, c, version, key, value, err)
}

// requestAfter is requestWith after the secret was read, or was not; it wipes value.
func (b *Broker) requestAfter(ctx context.Context, c *Client, version SecretVersion, key tokenKey, value secret.Value, err error) (*Token, error) {
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	b.secrets.keep(c, version, value)
	return b.request(ctx, c, version, value, key)
}

// request gets a token with a secret's value, trying again after failures that may
// be gone the next moment. A request that may have reached the server is not
// repeated where each one counts.
func (b *Broker) request(ctx context.Context, c *Client, version SecretVersion, value secret.Value, key tokenKey) (*Token, error) {
	note, err := b.spend(ctx, c)
	if err != nil {
		return nil, err
	}
	token, err := b.requestSpent(ctx, c, version, value, key)
	b.settle(ctx, c, note, token, err)
	return token, err
}

func (b *Broker) requestSpent(ctx context.Context, c *Client, version SecretVersion, value secret.Value, key tokenKey) (*Token, error) {
	request := TokenRequest{
		Endpoint: c.Upstream.TokenEndpoint, Destinations: version.Destinations, Authentication: c.Upstream.Authentication,
		ClientID: c.Upstream.ClientID, Secret: value, Scopes: strings.Fields(key.scopes), Audience: key.audience,
		Resources: strings.Fields(key.resources), Parameters: c.Upstream.Parameters,
	}
	var asked error
	for try := 1; ; try++ {
		answer, err := b.requestOnce(ctx, request)
		if err == nil {
			return newToken(b.replica, c, version, key, answer)
		}
		if errors.Is(err, errNotAsked) && asked != nil {
			err = asked // which says more
		}
		asked = err
		e := AsError(err)
		again := transient(e.Reason) && (!c.Upstream.limited() || e.Reason == ReasonUpstreamDNS)
		if try == attempts || !again || e.RetryAfter > maxBackoff || !pause(ctx, try, e.RetryAfter) {
			return nil, &Error{Reason: e.Reason, Op: "request token", Client: c.ID, Detail: e.Detail, RetryAfter: e.RetryAfter, Err: err}
		}
	}
}

// requestOnce makes one attempt, when the endpoint has room for it and is not known
// to be down.
func (b *Broker) requestOnce(ctx context.Context, request TokenRequest) (response TokenResponse, err error) {
	err = b.endpoints.do(ctx, request.Endpoint, func() error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		response, err = b.requestToken(ctx, request)
		return err
	})
	if err == nil && !response.ServerTime.IsZero() {
		b.skews.Set(request.Endpoint, response.skewAt(time.Now()))
	}
	return response, err
}

// aheadOf returns how far an endpoint's clock runs ahead of ours; nil if unknown.
func (b *Broker) aheadOf(endpoint string) *time.Duration {
	if ahead, ok := b.skews.GetIfPresent(endpoint); ok {
		return &ahead
	}
	return nil
}

// pause waits between tries with full jitter, but no shorter than the server asks
// for, and reports whether there is time for another one.
func pause(ctx context.Context, try int, atLeast time.Duration) bool {
	wait := max(atLeast, rand.N(min(minBackoff<<(2*try), maxBackoff)))
	return sleep(ctx, wait)
}

// sleep waits for d and reports whether ctx lasted so long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
