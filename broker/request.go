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

// tokenAsk is what one token is asked for, and what only its caller has.
type tokenAsk struct {
	tokenKey
	// proof is sent once: it is good for one request.
	proof string
	// subjectToken is what TokenExchange exchanges.
	subjectToken     secret.Value
	subjectTokenType string
}

// ask is what q asks for, whose key is k.
func (k tokenKey) ask(q TokenQuery) tokenAsk {
	return tokenAsk{tokenKey: k, proof: q.DPoPProof, subjectToken: q.SubjectToken, subjectTokenType: q.SubjectTokenType}
}

// needsSecret reports whether tokens of c are had with a secret.
func (c *Client) needsSecret() bool {
	return c.Upstream.Authentication.Method != NoAuthentication || c.Upstream.Grant == JWTBearer
}

// minting returns the secret version that tokens of c are had with: the current one, or,
// where c needs none, one that has no value and the number 0.
func (c *Client) minting() (SecretVersion, bool) {
	if c.needsSecret() {
		return c.Staged(Current)
	}
	origin, err := Origin(c.Upstream.TokenEndpoint)
	if err != nil {
		return SecretVersion{}, false
	}
	return SecretVersion{Destinations: []string{origin}, TokenDestinations: c.Upstream.TokenDestinations}, true
}

// readMinting reads the value of a version that minting returned.
func (b *Broker) readMinting(ctx context.Context, c *Client, version SecretVersion) (secret.Value, error) {
	if !c.needsSecret() {
		return secret.Value{}, nil
	}
	return b.readSecret(ctx, c, version)
}

// requestWith reads one secret version and gets a token with it.
func (b *Broker) requestWith(ctx context.Context, c *Client, version SecretVersion, ask tokenAsk) (*Token, error) {
	if err := checkBound(c, version); err != nil {
		return nil, err
	}
	value, err := b.readMinting(ctx, c, version)
	return b.requestAfter(ctx, c, version, ask, value, err)
}

// requestAfter is requestWith after the secret was read, or was not; it wipes value.
func (b *Broker) requestAfter(ctx context.Context, c *Client, version SecretVersion, ask tokenAsk, value secret.Value, err error) (*Token, error) {
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	if c.needsSecret() {
		b.secrets.keep(c, version, value)
	}
	return b.request(ctx, c, version, value, ask)
}

// grantRefusals is what GRANT_REJECTED is where it is about what one subject or caller
// brought, and not about the client :: grant → reason.
var grantRefusals = map[GrantType]Reason{TokenExchange: ReasonSubjectTokenRejected, Password: ReasonPasswordRejected}

// request gets a token with a secret's value, trying again after failures that may
// be gone the next moment. A request that may have reached the server is not
// repeated where each one counts.
func (b *Broker) request(ctx context.Context, c *Client, version SecretVersion, value secret.Value, ask tokenAsk) (*Token, error) {
	if c.Upstream.Grant.refreshes() {
		return b.requestRefreshed(ctx, c, version, value, ask)
	}
	request := c.tokenRequest(version, value, ask)
	grant, err := b.present(ctx, c, &request, ask)
	if err != nil {
		return nil, err
	}
	note, err := b.spend(ctx, c)
	if err != nil {
		return nil, err
	}
	token, err := b.requestSpent(ctx, c, version, request, ask)
	if reason, ok := grantRefusals[c.Upstream.Grant]; ok && ReasonOf(err) == ReasonGrantRejected {
		e := *AsError(err)
		e.Reason = reason
		err = &e
	}
	if token != nil && grant != nil {
		token.grant = grant.Generation
		token.warnings = append(token.warnings, Warning{Reason: ReasonPasswordGrant})
	}
	b.settle(ctx, c, note, token, err)
	return token, err
}

// tokenRequest is a request for what ask says, without a grant.
func (c *Client) tokenRequest(version SecretVersion, value secret.Value, ask tokenAsk) TokenRequest {
	return TokenRequest{
		Endpoint: c.Upstream.TokenEndpoint, Destinations: version.Destinations, Authentication: c.Upstream.Authentication,
		ClientID: c.Upstream.ClientID, Secret: value, Scopes: strings.Fields(ask.scopes), Audience: ask.audience,
		Resources: strings.Fields(ask.resources), Parameters: c.Upstream.Parameters,
		Provider: c.Upstream.Provider, ProviderVariables: c.Upstream.ProviderVariables,
	}
}

func (b *Broker) requestSpent(ctx context.Context, c *Client, version SecretVersion, request TokenRequest, ask tokenAsk) (*Token, error) {
	var asked error
	for try := 1; ; try++ {
		answer, err := b.requestOnce(ctx, request)
		if err == nil {
			answer, err = b.introspected(ctx, c, version, request.Secret, answer)
		}
		if err == nil {
			return newToken(b.replica, c, version, ask.tokenKey, c.withCertificate(answer, request.Secret))
		}
		if errors.Is(err, errNotAsked) && asked != nil {
			err = asked // which says more
		}
		asked = err
		e := AsError(err)
		inactive := e.Reason == ReasonTokenInactive && try == 1
		again := (transient(e.Reason) || inactive) && (!c.Upstream.limited() || e.Reason == ReasonUpstreamDNS) && ask.proof == ""
		if try == attempts || !again || e.RetryAfter > maxBackoff || !b.backOff(ctx, try, e.RetryAfter) {
			return nil, &Error{Reason: e.Reason, Op: "request token", Client: c.ID, Detail: e.Detail, Told: e.Told, RetryAfter: e.RetryAfter, Err: err}
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

// backOff waits between tries with full jitter, but no shorter than the server asks
// for, and reports whether there is time for another one.
func (b *Broker) backOff(ctx context.Context, try int, atLeast time.Duration) bool {
	wait := max(atLeast, rand.N(min(minBackoff<<(2*try), maxBackoff)))
	return b.wait(ctx, wait)
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
