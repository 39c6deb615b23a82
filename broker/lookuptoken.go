package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// justNow is how old an outcome may be that a check takes for its own.
const justNow = 10 * time.Second

// checkToken walks the stages of the token and all behind them.
func (b *Broker) checkToken(ctx context.Context, w *walk, c *Client, current SecretVersion) {
	key, err := keyWithout(c, w.check.Query, settingsOf(c))
	if err != nil {
		w.fail(StageAuthorization, err)
		return
	}
	grant, ok := b.checkGrant(ctx, w, c)
	if !ok {
		return
	}
	token, value := b.checkRequest(ctx, w, c, current, key)
	defer value.Wipe()
	if w.failed {
		return
	}
	if token == nil {
		w.skipUntil(StageNoSecret, "", "there is no token to look at")
	} else {
		b.checkScopes(w, c, key, token)
		b.checkExpiry(w, c, token)
		b.checkRefresh(w, c, grant)
	}
	if w.deep(DepthEnforcement) {
		b.checkEnforcement(ctx, w, c, current, key, value)
	}
	if w.deep(DepthAPI) {
		b.checkAPI(ctx, w, c, current, token)
	}
}

// checkGrant is [StageAuthorization]; it returns a user's grant, nil of other clients.
func (b *Broker) checkGrant(ctx context.Context, w *walk, c *Client) (*grantRecord, bool) {
	if !c.Upstream.Grant.ofUsers() {
		w.add(StageAuthorization, OutcomePassed, "", "the client acts for itself: no user's consent is needed")
		return nil, true
	}
	if w.check.Query.Subject == "" {
		w.add(StageAuthorization, OutcomeSkipped, "", "the check names no subject, whose grant it could look at")
		return nil, true
	}
	path, err := b.grantPathOf(ctx, c, w.check.Query.Subject)
	if err != nil {
		w.fail(StageAuthorization, err)
		return nil, false
	}
	r, _, _, err := b.readGrant(ctx, c, path)
	if err == nil {
		err = r.refusal(c, b.refreshPolicy(c), w.report.Time)
	}
	lives := r != nil && r.TokenExpireTime.After(w.report.Time)
	if err != nil && !(ReasonOf(err) == ReasonRefreshTokenMissing && lives) {
		w.fail(StageAuthorization, err)
		return nil, false
	}
	w.add(StageAuthorization, OutcomePassed, "", "granted at "+r.GrantTime.UTC().Format(time.RFC3339)+", last refreshed "+r.lastRefresh())
	return r, true
}

// checkRequest is [StageTokenRequest]. It returns the token, nil if none may be asked for,
// and the secret.
func (b *Broker) checkRequest(ctx context.Context, w *walk, c *Client, current SecretVersion, key tokenKey) (*Token, secret.Value) {
	held, _ := b.tokens.GetIfPresent(key)
	if held != nil && (!held.aliveAt(w.report.Time) || held.SecretVersion != current.Number || !b.grantHolds(held)) {
		held = nil
	}
	if held != nil && !w.check.Fresh && w.report.Time.Sub(held.IssueTime) < justNow {
		w.add(StageTokenRequest, OutcomePassed, "", "given at "+held.IssueTime.UTC().Format(time.RFC3339)+", just now")
		return held, secret.Value{}
	}
	if f, ok := b.failures.GetIfPresent(key); ok && !w.check.Fresh && f.secretVersion == current.Number && w.report.Time.Sub(f.at) < justNow {
		e := AsError(f.err)
		w.add(StageTokenRequest, OutcomeFailed, e.Reason, append(evidenceOf(e), "seen at "+f.at.UTC().Format(time.RFC3339)+", just now")...)
		return nil, secret.Value{}
	}
	if why := b.askingHarms(c); why != "" {
		if held != nil {
			w.add(StageTokenRequest, OutcomePassed, "", "given at "+held.IssueTime.UTC().Format(time.RFC3339)+"; no other is asked for, because "+why)
			return held, secret.Value{}
		}
		w.add(StageTokenRequest, OutcomeSkipped, ReasonCheckWouldHarm, why)
		return nil, secret.Value{}
	}
	value, err := b.readMinting(ctx, c, current)
	if err != nil {
		w.fail(StageTokenRequest, err)
		return nil, value
	}
	w.report.Cost.TokenRequests++
	token, err := b.request(ctx, c, current, value, key.ask(w.check.Query))
	if err == nil {
		w.add(StageTokenRequest, OutcomePassed, "", fmt.Sprintf("a token with secret version %d", current.Number))
		b.publish(ctx, c, key, token)
		if err := b.unpark(ctx, c); err != nil {
			b.log.WarnContext(ctx, "other replicas are not told that a client is parked no more", "client", c.ID, "reason", ReasonOf(err))
		}
		return token, value
	}
	e := AsError(err)
	evidence := evidenceOf(e)
	if slices.Contains(mayBeMethod, e.Reason) {
		if reason, more := b.tryOtherMethod(ctx, w, c, current, value, key); reason != "" {
			w.add(StageTokenRequest, OutcomeFailed, reason, append(evidence, more...)...)
			return nil, value
		} else {
			evidence = append(evidence, more...)
		}
	}
	w.add(StageTokenRequest, OutcomeFailed, e.Reason, evidence...)
	return nil, value
}

// askingHarms says why a check must not ask for a token of c; "" if it may.
func (b *Broker) askingHarms(c *Client) string {
	switch u := c.Upstream; {
	case u.Grant == TokenExchange:
		return "only a caller can bring the token that is exchanged"
	case u.Grant.ofUsers():
		return "a user's refresh token is not spent on a check"
	case u.TokenBinding == BoundByDPoP:
		return "only a caller can prove that it holds the key"
	case u.limited():
		return "the client's tokens are limited"
	}
	return ""
}

// askOnce makes one request for a token that nobody is given.
func (b *Broker) askOnce(ctx context.Context, c *Client, current SecretVersion, value secret.Value, key tokenKey) (TokenResponse, error) {
	ask := key.ask(TokenQuery{})
	request := c.tokenRequest(current, value, ask)
	if _, err := b.present(ctx, c, &request, ask); err != nil {
		return TokenResponse{}, err
	}
	return b.requestOnce(ctx, request)
}

// dropToken revokes a token that nobody is given, where that can be done.
func (b *Broker) dropToken(ctx context.Context, c *Client, current SecretVersion, value, access secret.Value) (revoked bool) {
	if c.Upstream.RevocationEndpoint == "" || b.revokeToken == nil {
		return false
	}
	err := b.revokeOne(ctx, c, current, value, earlierToken{access: access})
	if err != nil {
		b.log.WarnContext(ctx, "a token of a check was not revoked", "client", c.ID, "reason", ReasonOf(err))
	}
	return err == nil
}

// checkScopes is [StageTokenScopes].
func (b *Broker) checkScopes(w *walk, c *Client, key tokenKey, token *Token) {
	evidence := []string{"granted: " + orNone(token.Scopes)}
	if claims := claimsOf(token.Access); claims != "" {
		evidence = append(evidence, "the token says: "+claims)
	}
	if missing := missingFrom(strings.Fields(key.scopes), token.Scopes); len(missing) > 0 {
		w.add(StageTokenScopes, OutcomeWarned, ReasonScopesNarrowed, append(evidence, "not granted: "+orNone(missing))...)
		return
	}
	w.add(StageTokenScopes, OutcomePassed, "", evidence...)
}

func orNone(scopes []string) string {
	if len(scopes) == 0 {
		return "no scope"
	}
	return truncate(strings.Join(scopes, " "), 200)
}

// claimsOf returns what a token that happens to be a JWT says of audience, issuer and
// times: what an API that refuses it may not like. Nothing in it is a credential.
func claimsOf(access secret.Value) string {
	parts := strings.Split(access.RevealString(), ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer   string          `json:"iss"`
		Audience json.RawMessage `json:"aud"`
		Expires  float64         `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	var said []string
	if claims.Issuer != "" {
		said = append(said, "iss "+truncate(printable(claims.Issuer), 120))
	}
	if len(claims.Audience) > 0 {
		said = append(said, "aud "+truncate(printable(strings.Trim(string(claims.Audience), `"`)), 120))
	}
	if claims.Expires > 0 && claims.Expires < 253402300799 {
		said = append(said, "exp "+time.Unix(int64(claims.Expires), 0).UTC().Format(time.RFC3339))
	}
	return strings.Join(said, ", ")
}

// checkExpiry is [StageTokenExpiry].
func (b *Broker) checkExpiry(w *walk, c *Client, token *Token) {
	evidence := []string{fmt.Sprintf("it lives %s, until %s (%s)", age(token.lifetime()), token.ExpireTime.UTC().Format(time.RFC3339), token.ExpirySource)}
	if early, ok := endsEarly(w.ends, token); ok {
		w.add(StageTokenExpiry, OutcomeWarned, ReasonTokensEndEarly, append(evidence, early)...)
		return
	}
	if token.ExpirySource == ExpiryAssumed {
		w.add(StageTokenExpiry, OutcomeWarned, ReasonExpiryAssumed, evidence...)
		return
	}
	w.add(StageTokenExpiry, OutcomePassed, "", evidence...)
}

// checkRefresh is [StageTokenRefresh].
func (b *Broker) checkRefresh(w *walk, c *Client, grant *grantRecord) {
	switch {
	case grant == nil:
		w.add(StageTokenRefresh, OutcomePassed, "", "the next token is asked for as this one was")
	case !grant.Refreshable && c.Upstream.Grant != Password:
		w.add(StageTokenRefresh, OutcomeWarned, ReasonRefreshTokenAbsent, "when this token ends, nothing brings another one")
	case !grant.RefreshTime.IsZero():
		w.add(StageTokenRefresh, OutcomePassed, "", "last refreshed at "+grant.RefreshTime.Format(time.RFC3339))
	default:
		w.add(StageTokenRefresh, OutcomePassed, "", "there is a refresh token, which was not used yet")
	}
}
