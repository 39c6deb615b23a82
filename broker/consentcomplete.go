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

const (
	// maxCodeLength is more than any authorization server's code has.
	maxCodeLength = 8 << 10
	// maxErrorLength bounds what is kept of an answer's error.
	maxErrorLength = 200
)

// AuthorizationAnswer is what came to a redirect URI (RFC 6749 §4.1.2).
type AuthorizationAnswer struct {
	// ClientID must be the one that the state is for; "" takes that one.
	ClientID string
	// State, Code, Issuer (RFC 9207), Error and ErrorDescription are the parameters.
	State, Code, Issuer     string
	Error, ErrorDescription string
	// AtCallback says that it came to the broker's own callback, where only what was
	// sent there belongs.
	AtCallback bool
	// Permit, if not nil, is asked about the subject before anything is revealed or
	// changed; its error is returned.
	Permit func(subject string) error
}

// check validates what did not come from us.
func (a AuthorizationAnswer) check() error {
	var v violations
	if a.ClientID != "" && idProblem(a.ClientID) != "" {
		v.add("client", "%s", idProblem(a.ClientID))
	}
	switch {
	case a.Code == "" && a.Error == "":
		v.add("code", "is required, unless error is given")
	case a.Code != "" && a.Error != "":
		v.add("error", "came with a code; an answer has one of them (RFC 6749 §4.1.2)")
	case len(a.Code) > maxCodeLength:
		v.add("code", "has %d bytes; at most %d", len(a.Code), maxCodeLength)
	case strings.ContainsFunc(a.Code, func(r rune) bool { return r < ' ' || r > '~' }):
		v.add("code", "has a character that a code cannot have (RFC 6749 Appendix A.11)")
	}
	checkText(&v, "issuer", a.Issuer, maxURLLength)
	return v.err()
}

// CompleteAuthorization takes what the authorization server sent to the redirect URI,
// and stores what it gives for the code. Each state is taken once: that is written
// before the code is sent, so that a crash in between ends this consent and never sends
// a code twice.
//
// STATE_INVALID for a state that is unknown, used, replaced or expired: one that was
// not made here, or has expired, costs no call to the store. INVALID_REQUEST,
// ISSUER_MISMATCH, AUTHORIZATION_DENIED or what else the answer names,
// AUTHORIZATION_NOT_TAKEN, AUTHORIZATION_ANSWER_LOST, ID_TOKEN_INVALID, CLIENT_DISABLED,
// CLIENT_DELETED, a SECRET_ reason, or one of the store or of the authorization server:
// of those UPSTREAM_DNS and UPSTREAM_ADDRESS_REFUSED leave the state as it was.
func (b *Broker) CompleteAuthorization(ctx context.Context, a AuthorizationAnswer) (*Authorization, error) {
	state, err := b.openState(ctx, a.State)
	if err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.ClientID != "" && a.ClientID != state.Client {
		return nil, stateInvalid(a.ClientID, "is for another client")
	}
	c, err := b.readClient(ctx, state.Client)
	if err != nil {
		return nil, err
	}
	if err := c.usable(); err != nil {
		return nil, err
	}
	g, err := b.existing(ctx, c, AuthorizationRef{ClientID: c.ID, ID: state.Authorization, Permit: a.Permit})
	if ReasonOf(err) == ReasonAuthorizationNotFound {
		return nil, stateInvalid(c.ID, "the authorization was given up since")
	}
	if err != nil {
		return nil, err
	}
	if err := b.stillAsked(c, g.record.Consent, state.Attempt, a.AtCallback); err != nil {
		return nil, err
	}
	// A code that comes in the wrong company is not looked at: it may be another server's.
	err = b.issuerProblem(c, a.Issuer)
	if err == nil && a.Error != "" {
		err = a.refusal(c)
	}
	if err != nil {
		return nil, b.endConsent(ctx, c, g.path, state.Attempt, err)
	}
	return b.redeem(ctx, c, g, state.Attempt, a)
}

// stillAsked refuses an answer to a consent that is not, or no more, asked for.
func (b *Broker) stillAsked(c *Client, k *consentRecord, attempt string, atCallback bool) error {
	switch {
	case k == nil || k.Attempt != attempt:
		return stateInvalid(c.ID, "another consent was asked for since, or it was completed")
	case k.Sent || k.Reason != "":
		return stateInvalid(c.ID, "was used before")
	case atCallback && k.RedirectURI != b.callbackURL:
		return stateInvalid(c.ID, "is for another redirect_uri")
	}
	return nil
}

// issuerProblem judges the parameter iss (RFC 9207 §2.4).
func (b *Broker) issuerProblem(c *Client, issuer string) error {
	expected := c.Upstream.Issuer
	switch {
	case issuer != "" && expected != "" && issuer != expected:
		return newError(ReasonIssuerMismatch, c.ID, "the answer names another issuer than %s", expected)
	case issuer == "" && b.namesIssuer(c):
		return newError(ReasonIssuerMismatch, c.ID, "the answer names no issuer, and this authorization server's do")
	}
	return nil
}

// namesIssuer reports whether answers of c's authorization server name the issuer.
func (b *Broker) namesIssuer(c *Client) bool {
	if c.Upstream.IssuerInAnswer {
		return true
	}
	if b.providers == nil || c.Upstream.Provider == "" {
		return false
	}
	provider, _ := b.providers.Provider(c.Upstream.Provider)
	return provider.IssuerInAnswer
}

// answeredErrors are the codes of RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6 and
// RFC 8707 §2 :: code → reason.
var answeredErrors = map[string]Reason{
	"access_denied": ReasonAuthorizationDenied, "login_required": ReasonAuthorizationDenied, "consent_required": ReasonAuthorizationDenied,
	"interaction_required": ReasonAuthorizationDenied, "account_selection_required": ReasonAuthorizationDenied,
	"invalid_request": ReasonRequestRejected, "unauthorized_client": ReasonGrantTypeRejected, "unsupported_response_type": ReasonGrantTypeRejected,
	"invalid_scope": ReasonScopeRejected, "invalid_target": ReasonTargetRejected,
	"server_error": ReasonUpstreamUnavailable, "temporarily_unavailable": ReasonUpstreamUnavailable,
}

// refusal is the error that an answer names.
func (a AuthorizationAnswer) refusal(c *Client) error {
	reason, known := answeredErrors[a.Error]
	if !known {
		reason = ReasonUpstreamRefused
	}
	detail := printable(a.Error)
	if a.ErrorDescription != "" {
		detail += ": " + printable(a.ErrorDescription)
	}
	return newError(reason, c.ID, "%s", detail)
}

// printable is text of others for operators: bounded, and of printable ASCII (RFC 6749
// Appendix A.7, A.8).
func printable(text string) string {
	return truncate(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, truncate(text, maxErrorLength)), maxErrorLength)
}

// endConsent writes why a consent came to nothing and returns that.
func (b *Broker) endConsent(ctx context.Context, c *Client, path, attempt string, cause error) error {
	e := AsError(cause)
	var subject string
	_, err := b.editGrant(ctx, c, path, func(r *grantRecord, secrets *grantSecrets) error {
		k := r.Consent
		if k == nil || k.Attempt != attempt {
			return errUnchanged
		}
		k.Reason, k.Detail, k.Poller = e.Reason, truncate(e.Detail, maxErrorLength), nil
		secrets.CodeVerifier, secrets.Nonce, secrets.DeviceCode = "", "", ""
		subject = secrets.Subject
		return nil
	})
	if err == nil {
		b.forgetRefusals(c, subject) // it is pending no more
	}
	if err != nil && !errors.Is(err, errUnchanged) {
		b.log.WarnContext(ctx, "the end of a consent was not recorded", "client", c.ID, "reason", ReasonOf(err), "ended_by", e.Reason)
	}
	return cause
}

// redeem gets tokens for a code. It goes on if its caller leaves: the code is used
// up by then.
func (b *Broker) redeem(begun context.Context, c *Client, g *storedGrant, attempt string, a AuthorizationAnswer) (*Authorization, error) {
	var granted *Authorization
	err := b.detached(begun, exchangeTimeout, func(ctx context.Context) error {
		version, value, err := b.consentSecret(ctx, c)
		if err != nil {
			return err
		}
		defer value.Wipe()
		if g, err = b.useUp(ctx, c, g.path, attempt, a.AtCallback); err != nil {
			return err
		}
		request := consentRequest(c, version, value)
		request.Grant = GrantParameters{
			Type: AuthorizationCode, Code: secret.NewString(a.Code), CodeVerifier: secret.NewString(g.secrets.CodeVerifier), RedirectURI: g.record.Consent.RedirectURI,
		}
		answer, err := b.requestOnce(ctx, request)
		if err == nil {
			err = b.checkIDToken(c, g, answer)
		}
		if unsent(err) {
			return b.giveBack(ctx, c, g.path, attempt, err)
		}
		if err != nil {
			return b.endConsent(ctx, c, g.path, attempt, notTaken(c, err))
		}
		granted, err = b.consented(ctx, c, version, g, answer)
		return err
	})
	return granted, err
}

// useUp notes, before it is sent, that the code of a consent was.
func (b *Broker) useUp(ctx context.Context, c *Client, path, attempt string, atCallback bool) (*storedGrant, error) {
	return b.editGrant(ctx, c, path, func(r *grantRecord, _ *grantSecrets) error {
		if err := b.stillAsked(c, r.Consent, attempt, atCallback); err != nil {
			return err
		}
		r.Consent.Sent, r.Consent.SentTime = true, time.Now().UTC()
		return nil
	})
}

// unsent reports whether a request failed before anything of it was sent.
func unsent(err error) bool {
	switch ReasonOf(err) {
	case ReasonUpstreamDNS, ReasonUpstreamAddressRefused, ReasonDestinationNotBound, ReasonTooManyRequests:
		return true
	}
	var before *UnsentError
	return errors.Is(err, errNotAsked) || errors.As(err, &before)
}

// giveBack lets a code that was not sent be sent another time.
func (b *Broker) giveBack(ctx context.Context, c *Client, path, attempt string, cause error) error {
	_, err := b.editGrant(ctx, c, path, func(r *grantRecord, _ *grantSecrets) error {
		if r.Consent == nil || r.Consent.Attempt != attempt {
			return errUnchanged
		}
		r.Consent.Sent, r.Consent.SentTime = false, time.Time{}
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		b.log.WarnContext(ctx, "a code that was not sent is taken for used", "client", c.ID, "reason", ReasonOf(err))
	}
	return cause
}

// notTaken gives the failure of an exchange its reason: what invalid_grant means of a
// refresh token it does not mean of a code, and an answer that did not come, or cannot
// be read, took the code with it.
func notTaken(c *Client, err error) error {
	e := AsError(err)
	reason := e.Reason
	switch {
	case reason == ReasonGrantRejected:
		reason = ReasonAuthorizationNotTaken
	case transient(reason) && reason != ReasonUpstreamUnavailable:
		reason = ReasonAuthorizationAnswerLost
	}
	return &Error{Reason: reason, Op: "exchange the code", Client: c.ID, Detail: e.Detail, Told: e.Told, RetryAfter: e.RetryAfter, Err: err}
}

// checkIDToken checks what came beside the token, where a nonce was sent: a code that
// somebody else had injected brings another nonce, or none.
func (b *Broker) checkIDToken(c *Client, g *storedGrant, answer TokenResponse) error {
	if !answer.IDToken.IsZero() {
		return b.server.CheckIDToken(answer.IDToken, c.Upstream.Issuer, c.Upstream.ClientID, g.secrets.Nonce)
	}
	if g.secrets.Nonce != "" && (answer.Scopes == nil || slices.Contains(answer.Scopes, "openid")) {
		return newError(ReasonIDTokenInvalid, c.ID, "there is none, although the scope openid was granted")
	}
	return nil
}

// consented stores what a consent gave, for the grant as it was last read, and returns
// the authorization.
func (b *Broker) consented(ctx context.Context, c *Client, version SecretVersion, g *storedGrant, answer TokenResponse) (*Authorization, error) {
	r, token, err := b.storeGranted(ctx, c, g.path, g.version, g.record, g.secrets, grantedAnswer{Secret: version, Scopes: g.record.Consent.Scopes, Answer: answer})
	if err != nil {
		return nil, fmt.Errorf("store what was granted: %w", err)
	}
	b.noteIssued(ctx, c, token)
	b.log.InfoContext(ctx, "authorization granted", "client", c.ID, "authorization", g.id)
	return b.authorization(c, r, g.id, g.secrets.Subject, time.Now()), nil
}
