package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// RevokeToken tells an authorization server that a token is not to be accepted any
// more (RFC 7009). It makes exactly one HTTP request, never retries, and is safe for
// concurrent use. Its errors are those of a [RequestToken].
type RevokeToken func(ctx context.Context, req RevocationRequest) error

// RevocationRequest is one request to a revocation endpoint.
type RevocationRequest struct {
	// Endpoint is the revocation endpoint's URL; TokenEndpoint is who an assertion is
	// made out to unless Authentication says otherwise.
	Endpoint, TokenEndpoint string
	// Destinations, Authentication, ClientID and Secret are as in a [TokenRequest].
	Destinations   []string
	Authentication Authentication
	ClientID       string
	Secret         secret.Value
	// Token is the token to be revoked, Kind what it is.
	Token secret.Value
	Kind  TokenKind
}

// TokenKind is what a token is, in the spelling of the IANA registry "OAuth Token Type
// Hints". "" means AccessTokenKind.
type TokenKind string

// The kinds of tokens that can be revoked (RFC 7009 §2.1).
const (
	AccessTokenKind  TokenKind = "access_token"
	RefreshTokenKind TokenKind = "refresh_token"
)

// Revocation is what RevokeTokens did.
type Revocation struct {
	// Dropped is how many live tokens were found, of which none is served any more;
	// Revoked of them the authorization server has confirmed.
	Dropped, Revoked int
}

// RevokeTokens stops serving all tokens that were got for a client until now, on all
// replicas, and revokes at the authorization server those that are found in the store
// and in this replica's memory, if the client has a revocation endpoint. A token that
// is being asked for at this moment is dropped but not revoked.
//
// When revoking fails, the tokens are dropped all the same, and a repetition tries
// again what lies in the store.
//
// INVALID_REQUEST, CLIENT_NOT_FOUND, CLIENT_DELETED, CONCURRENT_CHANGE, a SECRET_
// reason, or one of the store or of the authorization server.
func (b *Broker) RevokeTokens(ctx context.Context, id string) (Revocation, error) {
	c, err := b.clientToChange(ctx, id, "")
	if err != nil {
		return Revocation{}, err
	}
	c = c.clone()
	c.TokenGeneration++
	if c, err = b.commit(ctx, c); err != nil {
		return Revocation{}, err
	}
	found, err := b.earlierTokens(ctx, c)
	did := Revocation{Dropped: len(found)}
	if err != nil || c.Upstream.RevocationEndpoint == "" || b.revokeToken == nil || len(found) == 0 {
		return did, err
	}
	current, ok := c.minting()
	if !ok {
		return did, newError(ReasonSecretNotSet, id, "tokens are dropped and not revoked")
	}
	value, err := b.readMinting(ctx, c, current)
	if err != nil {
		return did, fmt.Errorf("revoke tokens: %w", err)
	}
	defer value.Wipe()
	var first error
	for _, token := range found {
		if err := b.revokeOne(ctx, c, current, value, token); err != nil {
			if first == nil {
				first = fmt.Errorf("revoke token: %w", err)
			}
			continue
		}
		did.Revoked++
	}
	return did, first
}

// earlierToken is a token of an earlier generation and where it lies; path is "" if
// only in memory.
type earlierToken struct {
	access secret.Value
	path   string
}

// earlierTokens finds the live tokens of a client's earlier generations :: ID → token.
func (b *Broker) earlierTokens(ctx context.Context, c *Client) (map[string]earlierToken, error) {
	found, now := map[string]earlierToken{}, time.Now()
	for key, t := range b.tokens.All() {
		if key.uid == c.UID && t.generation < c.TokenGeneration && t.aliveAt(now) {
			found[t.ID] = earlierToken{access: t.Access}
		}
	}
	folder := "tokens/" + c.UID + "/"
	names, err := b.store.List(ctx, folder)
	if err != nil || len(names) == 0 {
		return found, err
	}
	keys, err := b.sealer(ctx)
	if err != nil {
		return found, err
	}
	for _, name := range names {
		path := folder + strings.TrimSuffix(name, "/")
		r, _, err := b.readToken(ctx, c, path)
		if err != nil {
			return found, err
		}
		if r.Token == nil || r.Generation >= c.TokenGeneration {
			continue
		}
		shared, err := r.Token.open(keys, path)
		if err != nil {
			b.log.WarnContext(ctx, "shared token not revoked", "client", c.ID, "cause", err)
			continue
		}
		if access := secret.NewString(shared.Access); shared.ExpireTime.After(now) {
			found[access.ID()] = earlierToken{access, path}
		}
	}
	return found, nil
}

// revokeOne revokes a token and removes its record, so that a repetition does not
// revoke it again.
func (b *Broker) revokeOne(ctx context.Context, c *Client, current SecretVersion, value secret.Value, t earlierToken) error {
	err := b.endpoints.do(ctx, c.Upstream.RevocationEndpoint, func() error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		return b.revokeToken(ctx, RevocationRequest{
			Endpoint: c.Upstream.RevocationEndpoint, TokenEndpoint: c.Upstream.TokenEndpoint, Destinations: current.Destinations,
			Authentication: c.Upstream.Authentication, ClientID: c.Upstream.ClientID, Secret: value, Token: t.access,
		})
	})
	if err != nil || t.path == "" {
		return err
	}
	if err := b.store.Destroy(ctx, t.path); err != nil {
		b.log.WarnContext(ctx, "record of a revoked token left behind", "client", c.ID, "reason", ReasonOf(err))
	}
	return nil
}
