package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// DefaultLifetime is what tokens of an [Upstream] live unless a test says otherwise.
const DefaultLifetime = time.Hour

// Step is what becomes of one request to an [Upstream].
type Step struct {
	// Delay passes before the answer; a context whose time is up first is UPSTREAM_TIMEOUT,
	// one that is cancelled DEADLINE_EXCEEDED.
	Delay time.Duration
	// Err is the answer instead of a token; nil answers as usual.
	Err error
	// Edit changes a token's answer before it is returned; nil leaves it.
	Edit func(*broker.TokenResponse)
}

// Request is what an [Upstream] was asked, and when.
type Request struct {
	broker.TokenRequest
	// Time is when it arrived.
	Time time.Time
}

// Upstream is an authorization server without a network, whose RequestToken is
// a [broker.RequestToken]. It knows pairs of client_id and secret; a request with
// another pair is CLIENT_REJECTED, and one to an origin that is not among the
// request's destinations is DESTINATION_NOT_BOUND and not counted. Tokens are
// "token-1", "token-2" and so on. Safe for concurrent use; make one with
// [NewUpstream].
type Upstream struct {
	mu sync.Mutex // guards what follows
	// secrets :: client_id → the secrets that are accepted
	secrets  map[string][]secret.Value
	lifetime *time.Duration
	script   []Step
	// always applies to requests that the script has nothing for.
	always   Step
	requests []Request
	issued   int
	revoked  []broker.RevocationRequest
	// refusal is what revocations are answered with; nil succeeds.
	refusal error

	refreshKind RefreshKind
	families    []*family
	// refreshes and reused count refresh tokens that were issued, and misused.
	refreshes, reused int
}

var (
	_ broker.RequestToken = (*Upstream)(nil).RequestToken
	_ broker.RevokeToken  = (*Upstream)(nil).RevokeToken
)

// NewUpstream returns a server that knows nobody and whose tokens live for
// [DefaultLifetime].
func NewUpstream() *Upstream {
	u := &Upstream{secrets: map[string][]secret.Value{}}
	u.SetLifetime(DefaultLifetime)
	return u
}

// Register accepts clientSecret for clientID from now on, besides those that are
// accepted already: two secrets overlap until one is withdrawn.
func (u *Upstream) Register(clientID, clientSecret string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.secrets[clientID] = append(u.secrets[clientID], secret.NewString(clientSecret))
}

// Withdraw refuses clientSecret for clientID from now on.
func (u *Upstream) Withdraw(clientID, clientSecret string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.secrets[clientID] = slices.DeleteFunc(u.secrets[clientID], secret.NewString(clientSecret).Equal)
}

// SetLifetime is what expires_in says from now on.
func (u *Upstream) SetLifetime(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lifetime = &d
}

// OmitLifetime leaves expires_in out from now on.
func (u *Upstream) OmitLifetime() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lifetime = nil
}

// Script says what becomes of the next requests, one step each in the order of
// their arrival, after those that are scripted already.
func (u *Upstream) Script(steps ...Step) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.script = append(u.script, steps...)
}

// Always says what becomes of each request that has no step in the script; the
// zero Step ends that.
func (u *Upstream) Always(step Step) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.always = step
}

// Requests returns what was asked, in the order of arrival, including what was
// refused or timed out.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.requests)
}

// Count returns the number of requests so far.
func (u *Upstream) Count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

// RequestToken implements [broker.RequestToken].
func (u *Upstream) RequestToken(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
	const op = "request token"
	origin, err := broker.Origin(req.Endpoint)
	if err != nil || !slices.Contains(req.Destinations, origin) {
		return broker.TokenResponse{}, &broker.Error{Reason: broker.ReasonDestinationNotBound, Op: op, Detail: origin, Err: err}
	}
	step, sent := u.arrive(req)
	sleep(ctx, step.Delay)
	if err := ctx.Err(); err != nil {
		reason := broker.ReasonUpstreamTimeout
		if errors.Is(err, context.Canceled) {
			reason = broker.ReasonDeadlineExceeded
		}
		return broker.TokenResponse{}, &broker.Error{Reason: reason, Op: op, Err: err}
	}
	if step.Err != nil {
		return broker.TokenResponse{}, step.Err
	}
	response, err := u.issue(req)
	if err != nil {
		return broker.TokenResponse{}, err
	}
	response.SentTime, response.ServerTime = sent, time.Now()
	if step.Edit != nil {
		step.Edit(&response)
	}
	return response, nil
}

// arrive records a request and returns what becomes of it.
func (u *Upstream) arrive(req broker.TokenRequest) (Step, time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	req.Secret = secret.New(req.Secret.Reveal()) // the caller may wipe its own
	u.requests = append(u.requests, Request{TokenRequest: req, Time: now})
	if len(u.script) == 0 {
		return u.always, now
	}
	step := u.script[0]
	u.script = u.script[1:]
	return step, now
}

// issue decides with the secrets of the moment of the answer, not of the arrival.
func (u *Upstream) issue(req broker.TokenRequest) (broker.TokenResponse, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	public := req.Authentication.Method == broker.NoAuthentication && req.Grant.Type != broker.JWTBearer
	if !public && !slices.ContainsFunc(u.secrets[req.ClientID], req.Secret.Equal) {
		return broker.TokenResponse{}, &broker.Error{Reason: broker.ReasonClientRejected, Op: "request token", Detail: "401 invalid_client"}
	}
	if req.Grant.Type == broker.RefreshToken {
		return u.refresh(req)
	}
	return u.answer(""), nil
}

// answer is one with a token of user's; "" is the client itself.
func (u *Upstream) answer(user string) broker.TokenResponse {
	u.issued++
	name := "token"
	if user != "" {
		name += "-of-" + user
	}
	response := broker.TokenResponse{AccessToken: secret.NewString(fmt.Sprintf("%s-%d", name, u.issued)), TokenType: "Bearer"}
	if u.lifetime != nil {
		lifetime := *u.lifetime
		response.ExpiresIn = &lifetime
	}
	return response
}

// RevokeToken implements [broker.RevokeToken].
func (u *Upstream) RevokeToken(_ context.Context, req broker.RevocationRequest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	req.Secret = secret.New(req.Secret.Reveal()) // the caller may wipe its own
	if u.refusal == nil {
		u.revoked = append(u.revoked, req)
	}
	return u.refusal
}

// RefuseRevocations answers revocations with err from now on; nil ends that.
func (u *Upstream) RefuseRevocations(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refusal = err
}

// Revoked returns the revocations that succeeded, in the order of arrival.
func (u *Upstream) Revoked() []broker.RevocationRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.revoked)
}
