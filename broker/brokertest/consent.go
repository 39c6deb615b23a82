package brokertest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Users is the part of an authorization server that speaks to users, without a network:
// a [broker.AuthorizationServer], and a [broker.RequestToken] for the codes that it
// gives, beside an [Upstream] that knows the clients and answers all other requests. It
// takes each code once, from the client, with the redirect URI and the verifier (RFC
// 7636) that it was made for. Refresh tokens are "refresh-1", "refresh-2" and so on.
// Safe for concurrent use; make one with [NewUsers].
type Users struct {
	upstream *Upstream
	issuer   string

	mu sync.Mutex // guards what follows
	// codes :: code → the request that it answers
	codes map[string]url.Values
	// devices :: device code → what the user has said
	devices map[string]*device
	made    int
	// lifetime and interval are what device codes are given.
	lifetime, interval time.Duration
	// withoutIDToken leaves ID tokens out.
	withoutIDToken bool
	asked          []broker.AuthorizationRequest
}

type device struct {
	clientID, answer string
	scopes           []string
}

var _ broker.AuthorizationServer = (*Users)(nil)

// NewUsers returns a server that calls itself issuer.
func NewUsers(upstream *Upstream, issuer string) *Users {
	return &Users{
		upstream: upstream, issuer: issuer, codes: map[string]url.Values{}, devices: map[string]*device{},
		lifetime: 10 * time.Minute, interval: 5 * time.Second,
	}
}

// AuthorizationURL implements [broker.AuthorizationServer].
func (u *Users) AuthorizationURL(req broker.AuthorizationRequest) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, req)
	query := url.Values{
		"response_type": {"code"}, "client_id": {req.ClientID}, "redirect_uri": {req.RedirectURI}, "state": {req.State},
		"code_challenge": {req.CodeChallenge}, "code_challenge_method": {"S256"}, "scope": {strings.Join(req.Scopes, " ")},
	}
	if req.Nonce != "" {
		query.Set("nonce", req.Nonce)
	}
	return req.Endpoint + "?" + query.Encode(), nil
}

// Asked returns what consent was asked for, in order.
func (u *Users) Asked() []broker.AuthorizationRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

// OmitIDToken leaves ID tokens out from now on.
func (u *Users) OmitIDToken() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.withoutIDToken = true
}

// Consent is a user's consent to what an authorization URL asks: it returns what the
// browser brings to the redirect URI.
func (u *Users) Consent(opened string) (url.Values, error) {
	parsed, err := url.Parse(opened)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.made++
	code := fmt.Sprint("code-", u.made)
	u.codes[code] = maps.Clone(parsed.Query())
	return url.Values{"code": {code}, "state": {parsed.Query().Get("state")}, "iss": {u.issuer}}, nil
}

// SetDevices is what device codes are given from now on.
func (u *Users) SetDevices(lifetime, interval time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lifetime, u.interval = lifetime, interval
}

// AnswerDevice is what the user does with a user code: "" consents, anything else is the
// reason that polls are answered with.
func (u *Users) AnswerDevice(userCode string, reason broker.Reason) {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := u.devices["device-"+userCode]
	d.answer = string(reason)
	if reason == "" {
		d.answer = "granted"
	}
}

// AuthorizeDevice implements [broker.AuthorizationServer].
func (u *Users) AuthorizeDevice(ctx context.Context, req broker.TokenRequest) (broker.DeviceAuthorization, error) {
	if err := ctx.Err(); err != nil {
		return broker.DeviceAuthorization{}, &broker.Error{Reason: broker.ReasonUpstreamTimeout, Op: "authorize device", Err: err}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.made++
	code := fmt.Sprintf("USER-%04d", u.made)
	u.devices["device-"+code] = &device{clientID: req.ClientID, scopes: req.Scopes}
	return broker.DeviceAuthorization{
		DeviceCode: secret.NewString("device-" + code), UserCode: code, VerificationURI: u.issuer + "/device",
		VerificationURIComplete: u.issuer + "/device?user_code=" + code, ExpiresIn: u.lifetime, Interval: u.interval,
	}, nil
}

// RequestToken implements [broker.RequestToken]. Who the client is, and what the script of
// the Upstream says, come before what the request brings.
func (u *Users) RequestToken(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
	response, err := u.upstream.RequestToken(ctx, req)
	if err != nil {
		return broker.TokenResponse{}, err
	}
	switch req.Grant.Type {
	case broker.AuthorizationCode:
		err = u.redeem(req, &response)
	case broker.DeviceCode:
		err = u.polled(req, &response)
	}
	if err != nil {
		return broker.TokenResponse{}, err
	}
	return response, nil
}

// redeem takes a code (RFC 6749 §4.1.3, RFC 7636 §4.6).
func (u *Users) redeem(req broker.TokenRequest, response *broker.TokenResponse) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	code := req.Grant.Code.RevealString()
	asked, ok := u.codes[code]
	delete(u.codes, code)
	challenge := sha256.Sum256(req.Grant.CodeVerifier.Reveal())
	if !ok || asked.Get("client_id") != req.ClientID || asked.Get("redirect_uri") != req.Grant.RedirectURI ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) {
		return &broker.Error{Reason: broker.ReasonGrantRejected, Op: "request token", Detail: "400 invalid_grant"}
	}
	u.addRefreshToken(response)
	if slices.Contains(strings.Fields(asked.Get("scope")), "openid") && !u.withoutIDToken {
		response.IDToken = secret.NewString(idTokenOf(u.issuer, req.ClientID, asked.Get("nonce")))
	}
	return nil
}

func (u *Users) addRefreshToken(response *broker.TokenResponse) {
	u.made++
	response.RefreshToken = secret.NewString(fmt.Sprint("refresh-", u.made))
}

// polled answers a poll for a device code (RFC 8628 §3.5).
func (u *Users) polled(req broker.TokenRequest, response *broker.TokenResponse) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	code := req.Grant.DeviceCode.RevealString()
	d := u.devices[code]
	switch {
	case d == nil || d.clientID != req.ClientID:
		return &broker.Error{Reason: broker.ReasonGrantRejected, Op: "request token", Detail: "400 invalid_grant"}
	case d.answer == "":
		return &broker.Error{Reason: broker.ReasonAuthorizationPending, Op: "request token"}
	case d.answer != "granted":
		return &broker.Error{Reason: broker.Reason(d.answer), Op: "request token"}
	}
	delete(u.devices, code)
	u.addRefreshToken(response)
	return nil
}

func idTokenOf(issuer, clientID, nonce string) string {
	return strings.Join([]string{"id", issuer, clientID, nonce}, " ")
}

// CheckIDToken implements [broker.AuthorizationServer].
func (u *Users) CheckIDToken(idToken secret.Value, issuer, clientID, nonce string) error {
	if idToken.RevealString() != idTokenOf(issuer, clientID, nonce) {
		return &broker.Error{Reason: broker.ReasonIDTokenInvalid, Op: "check the ID token"}
	}
	return nil
}

// Discover implements [broker.AuthorizationServer]: it knows its own issuer.
func (u *Users) Discover(_ context.Context, issuer string, _ ...string) (broker.Metadata, error) {
	if issuer != u.issuer {
		return broker.Metadata{}, &broker.Error{Reason: broker.ReasonDiscoveryFailed, Op: "discover", Detail: "no such issuer"}
	}
	return broker.Metadata{
		Issuer: issuer, TokenEndpoint: issuer + "/token", AuthorizationEndpoint: issuer + "/authorize",
		DeviceAuthorizationEndpoint: issuer + "/device_authorization", IssuerInAnswer: true,
	}, nil
}

// Introspect implements [broker.AuthorizationServer]: tokens of the Upstream are active.
func (u *Users) Introspect(_ context.Context, req broker.IntrospectionRequest) (broker.Introspection, error) {
	return broker.Introspection{Active: strings.HasPrefix(req.Token.RevealString(), "token-")}, nil
}
