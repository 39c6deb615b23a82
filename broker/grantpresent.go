package broker

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// refreshes reports whether tokens of g are had by the use of a refresh token.
func (g GrantType) refreshes() bool { return g.ofUsers() && g != Password }

// present fills in what a request presents as its grant, for those that nothing is used
// up by. It returns the grant's record where there is one.
func (b *Broker) present(ctx context.Context, c *Client, request *TokenRequest, ask tokenAsk) (*grantRecord, error) {
	request.Grant = GrantParameters{Type: c.Upstream.Grant, DPoPProof: ask.proof}
	switch c.Upstream.Grant {
	case JWTBearer:
		request.Grant.Subject = orElse(ask.subject, c.Upstream.AssertionSubject)
	case TokenExchange:
		request.Grant.SubjectToken, request.Grant.SubjectTokenType = ask.subjectToken, ask.subjectTokenType
	case Password:
		return b.presentPassword(ctx, c, request, ask)
	}
	return nil, nil
}

// presentPassword fills in the name and password of a subject.
func (b *Broker) presentPassword(ctx context.Context, c *Client, request *TokenRequest, ask tokenAsk) (*grantRecord, error) {
	path, err := b.grantPathOf(ctx, c, ask.subject)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	r, secrets, _, err := b.readGrant(ctx, c, path)
	if err != nil {
		return nil, err
	}
	b.noteGrant(c, ask.subject, path, r.Generation, begun)
	if err := r.refusal(c, b.refreshPolicy(c), time.Now()); err != nil {
		return nil, err
	}
	if secrets.Password == "" {
		return nil, r.missing(c)
	}
	if origin, err := Origin(c.Upstream.TokenEndpoint); err != nil || !slices.Contains(r.Destinations, origin) {
		return nil, newError(ReasonDestinationNotBound, c.ID, "the password is bound to %v, not to %s", r.Destinations, origin)
	}
	request.Grant.Username, request.Grant.UserPassword = secrets.Username, secret.NewString(secrets.Password)
	return r, nil
}

// introspected adds to an answer that says nothing of its expiry what the server says of
// the token (RFC 7662). A server that cannot be asked is logged and nothing more.
// TOKEN_INACTIVE.
func (b *Broker) introspected(ctx context.Context, c *Client, version SecretVersion, value secret.Value, answer TokenResponse) (TokenResponse, error) {
	endpoint := c.Upstream.IntrospectionEndpoint
	if endpoint == "" || b.server == nil || answer.DeclaredOnly || answer.ExpiresIn != nil {
		return answer, nil
	}
	if _, isJWT := jwtExpiry(answer.AccessToken); isJWT {
		return answer, nil
	}
	var told Introspection
	err := b.endpoints.do(ctx, endpoint, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		told, err = b.server.Introspect(ctx, IntrospectionRequest{
			Endpoint: endpoint, Client: c.tokenRequest(version, value, tokenAsk{}), Token: answer.AccessToken,
		})
		return err
	})
	switch {
	case err != nil:
		b.log.WarnContext(ctx, "token not introspected", "client", c.ID, "reason", ReasonOf(err), "cause", err)
	case !told.Active:
		return answer, newError(ReasonTokenInactive, c.ID, "")
	case !told.ExpireTime.IsZero():
		answer.introspected = &told.ExpireTime
	}
	if err == nil && answer.Scopes == nil {
		answer.Scopes = told.Scopes
	}
	return answer, nil
}
