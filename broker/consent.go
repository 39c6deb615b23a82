package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// consentLifetime is how long a user has for a consent in a browser: a login with a
	// second factor and a lost password fit into it, a link in an old mail does not.
	consentLifetime = 15 * time.Minute
	// maxLoginHintLength bounds what is passed on.
	maxLoginHintLength = 256
)

// AuthorizationStart says whom to ask for what.
type AuthorizationStart struct {
	ClientID, Subject string
	// Scopes to ask for; empty takes the client's defaults.
	Scopes []string
	// RedirectURI is exactly one of the client's, or the broker's own callback, which ""
	// means too.
	RedirectURI string
	// LoginHint is what the authorization server may show at once (OpenID Connect Core
	// §3.1.2.1); "" for nothing.
	LoginHint string
}

// StartAuthorization begins to ask a user for consent and returns what the user must
// open. It takes the place of a consent that is pending; a grant that is there goes on
// giving tokens until the new one is stored. Device codes are then polled for by this
// replica, until the answer has come, or it was not given in time.
//
// INVALID_REQUEST, SCOPE_NOT_ALLOWED, CLIENT_NOT_FOUND, CLIENT_DISABLED,
// CLIENT_DELETED, AUTHORIZATION_NOT_OFFERED, a SECRET_ reason, TOO_MANY_REQUESTS, or one
// of the store or, for device codes, of the authorization server.
func (b *Broker) StartAuthorization(ctx context.Context, s AuthorizationStart) (*Authorization, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c, err := b.readClient(ctx, s.ClientID)
	if err != nil {
		return nil, err
	}
	if err := c.usable(); err != nil {
		return nil, err
	}
	if s.Scopes, err = c.scopesToAsk(s.Scopes); err != nil {
		return nil, err
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return nil, err
	}
	id := meta.authorizationID(s.Subject)
	switch u := c.Upstream; {
	case b.server == nil:
	case u.Grant == AuthorizationCode && u.AuthorizationEndpoint != "":
		return b.startCode(ctx, c, id, s)
	case u.Grant == DeviceCode && u.DeviceAuthorizationEndpoint != "":
		return b.startDevice(ctx, c, id, s)
	}
	return nil, newError(ReasonAuthorizationNotOffered, c.ID, "its grant is %q", orElse(string(c.Upstream.Grant), string(ClientCredentials)))
}

func (s AuthorizationStart) check() error {
	var v violations
	if problem := idProblem(s.ClientID); problem != "" {
		v.add("client", "%s", problem)
	}
	checkSubject(&v, s.Subject)
	checkScopes(&v, "scopes", s.Scopes)
	checkText(&v, "redirect_uri", s.RedirectURI, maxURLLength)
	checkText(&v, "login_hint", s.LoginHint, maxLoginHintLength)
	return v.err()
}

// scopesToAsk returns what a consent asks for, sorted.
func (c *Client) scopesToAsk(scopes []string) ([]string, error) {
	if len(scopes) == 0 {
		scopes = c.Upstream.DefaultScopes
	} else if bad := outside(scopes, c.Upstream.DefaultScopes, c.Upstream.AllowedScopes); bad != "" {
		return nil, newError(ReasonScopeNotAllowed, c.ID, "scope %q", truncate(bad, 64))
	}
	scopes = slices.Clone(scopes)
	slices.Sort(scopes)
	return slices.Compact(scopes), nil
}

// redirectTo returns where the browser is sent afterwards: nothing but what was
// configured, to the byte, since the code goes there (RFC 9700 §2.1).
func (b *Broker) redirectTo(c *Client, asked string) (string, error) {
	switch {
	case asked == "" && b.callbackURL == "":
		return "", newError(ReasonAuthorizationNotOffered, c.ID, "this server hosts no callback, and the request names no redirect_uri")
	case asked == "":
		return b.callbackURL, nil
	case asked != b.callbackURL && !slices.Contains(c.Upstream.RedirectURIs, asked):
		return "", Invalid("redirect_uri", "is not exactly one of the client's redirect_uris")
	}
	return asked, nil
}

// startCode begins a consent in a browser (RFC 6749 §4.1, RFC 7636).
func (b *Broker) startCode(ctx context.Context, c *Client, id string, s AuthorizationStart) (*Authorization, error) {
	redirect, err := b.redirectTo(c, s.RedirectURI)
	if err != nil {
		return nil, err
	}
	_, value, err := b.consentSecret(ctx, c) // or the user would consent in vain
	if err != nil {
		return nil, err
	}
	value.Wipe()
	now := time.Now().UTC()
	consent := &consentRecord{Attempt: newID(), Scopes: s.Scopes, RedirectURI: redirect, ExpireTime: now.Add(consentLifetime)}
	state, err := b.sealState(ctx, consentState{Client: c.ID, Authorization: id, Attempt: consent.Attempt, ExpireTime: consent.ExpireTime})
	if err != nil {
		return nil, fmt.Errorf("seal the state: %w", err)
	}
	verifier, nonce := newVerifier(), ""
	if slices.Contains(s.Scopes, "openid") {
		nonce = rand.Text()
	}
	u, challenge := c.Upstream, sha256.Sum256([]byte(verifier))
	opened, err := b.server.AuthorizationURL(AuthorizationRequest{
		Provider: u.Provider, ProviderVariables: u.ProviderVariables, Endpoint: u.AuthorizationEndpoint, ClientID: u.ClientID, RedirectURI: redirect,
		State: state, CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]), Nonce: nonce,
		Scopes: s.Scopes, Audience: u.Audience, Resources: u.Resources, LoginHint: s.LoginHint, Parameters: u.Parameters,
	})
	if err != nil {
		return nil, fmt.Errorf("make the authorization URL: %w", err)
	}
	a, err := b.writeConsent(ctx, c, id, s.Subject, consent, grantSecrets{CodeVerifier: verifier, Nonce: nonce})
	if err != nil {
		return nil, err
	}
	a.Consent.AuthorizationURL = opened
	return a, nil
}

// newVerifier returns a code verifier of 256 bits (RFC 7636 §4.1).
func newVerifier() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// writeConsent makes a consent the one that is asked for.
func (b *Broker) writeConsent(ctx context.Context, c *Client, id, subject string, consent *consentRecord, of grantSecrets) (*Authorization, error) {
	g, err := b.editGrant(ctx, c, grantPath(c.UID, id), func(r *grantRecord, secrets *grantSecrets) error {
		r.Consent, secrets.Subject = consent, subject
		secrets.CodeVerifier, secrets.Nonce, secrets.DeviceCode = of.CodeVerifier, of.Nonce, of.DeviceCode
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.forgetRefusals(c, subject) // consent is pending now, no longer missing
	return b.authorization(c, g.record, id, subject, time.Now()), nil
}

// consentSecret reads what a client proves itself with; the caller wipes it. Public
// clients have nothing, and a version whose number is 0.
func (b *Broker) consentSecret(ctx context.Context, c *Client) (SecretVersion, secret.Value, error) {
	current, ok := c.Staged(Current)
	if !ok && c.Upstream.Authentication.Method == NoAuthentication {
		origin, err := Origin(c.Upstream.TokenEndpoint)
		if err != nil {
			return SecretVersion{}, secret.Value{}, newError(ReasonInvalidRequest, c.ID, "token_endpoint %v", err)
		}
		return SecretVersion{Destinations: []string{origin}}, secret.Value{}, nil
	}
	if !ok {
		return SecretVersion{}, secret.Value{}, newError(ReasonSecretNotSet, c.ID, "")
	}
	if err := checkBound(c, current); err != nil {
		return SecretVersion{}, secret.Value{}, err
	}
	value, err := b.readSecret(ctx, c, current)
	return current, value, err
}

// consentRequest is a token request without its grant.
func consentRequest(c *Client, version SecretVersion, value secret.Value) TokenRequest {
	u := c.Upstream
	return TokenRequest{
		Endpoint: u.TokenEndpoint, Destinations: version.Destinations, Authentication: u.Authentication, ClientID: u.ClientID, Secret: value,
		Resources: u.Resources, Parameters: u.Parameters, Provider: u.Provider, ProviderVariables: u.ProviderVariables,
	}
}
