package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	maxUsernameLength = 512
	// maxRefreshAhead bounds when a refresh token may be said to expire.
	maxRefreshAhead = 100 * 365 * 24 * time.Hour
)

// ImportedGrant is a grant that was had elsewhere: a RefreshToken, or a Username with
// its Password.
type ImportedGrant struct {
	ClientID, Subject string
	RefreshToken      secret.Value
	Username          string
	Password          secret.Value
	Scopes            []string // empty takes the client's defaults
	RefreshExpireTime time.Time
}

func (g ImportedGrant) check(now time.Time) error {
	var v violations
	if problem := idProblem(g.ClientID); problem != "" {
		v.add("client", "%s", problem)
	}
	checkSubject(&v, g.Subject)
	checkScopes(&v, "scopes", g.Scopes)
	checkText(&v, "password.username", g.Username, maxUsernameLength)
	for field, value := range map[string]secret.Value{"refresh_token": g.RefreshToken, "password.password": g.Password} {
		if len(value.Reveal()) > MaxSecretBytes {
			v.add(field, "has more than %d bytes", MaxSecretBytes)
		}
	}
	switch {
	case g.RefreshToken.IsZero() && g.Password.IsZero():
		v.add("grant", "is required: refresh_token, or password with a password")
	case !g.RefreshToken.IsZero() && !g.Password.IsZero():
		v.add("grant", "is either refresh_token or password")
	case !g.Password.IsZero() && g.Username == "":
		v.add("password.username", "is required")
	}
	if t := g.RefreshExpireTime; !t.IsZero() && (!t.After(now) || t.Sub(now) > maxRefreshAhead) {
		v.add("refresh_expire_time", "must lie ahead")
	}
	return v.err()
}

// ImportAuthorization stores a grant in place of what is there, also of a consent that
// is pending. It asks no authorization server.
//
// INVALID_REQUEST, SCOPE_NOT_ALLOWED, CLIENT_NOT_FOUND, CLIENT_DELETED,
// AUTHORIZATION_NOT_OFFERED if the client's grant takes none of this kind, SECRET_NOT_SET
// or DESTINATION_NOT_BOUND, CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) ImportAuthorization(ctx context.Context, g ImportedGrant) (*Authorization, error) {
	now := time.Now()
	if err := g.check(now); err != nil {
		return nil, err
	}
	c, err := b.clientToChange(ctx, g.ClientID, "")
	if err != nil {
		return nil, err
	}
	takes := c.Upstream.Grant.ofUsers() && c.Upstream.Grant != Password
	if !g.Password.IsZero() {
		takes = c.Upstream.Grant == Password
	}
	if !takes {
		return nil, newError(ReasonAuthorizationNotOffered, c.ID, "its grant %q takes no such grant", orElse(string(c.Upstream.Grant), string(ClientCredentials)))
	}
	scopes, err := c.scopesToAsk(g.Scopes)
	if err != nil {
		return nil, err
	}
	version, value, err := b.consentSecret(ctx, c)
	if err != nil {
		return nil, err
	}
	value.Wipe()
	meta, err := b.meta(ctx)
	if err != nil {
		return nil, err
	}
	id := meta.authorizationID(g.Subject)
	path := grantPath(c.UID, id)
	r, secrets, at, err := b.readGrant(ctx, c, path)
	if err != nil {
		return nil, err
	}
	secrets.Subject = g.Subject
	secrets.CodeVerifier, secrets.Nonce, secrets.DeviceCode = "", "", ""
	r.Consent = nil
	stored, _, err := b.storeGranted(ctx, c, path, at, r, secrets, grantedAnswer{
		Secret: version, Scopes: scopes, Answer: TokenResponse{RefreshToken: g.RefreshToken}, RefreshExpireTime: g.RefreshExpireTime.UTC(),
		Username: g.Username, Password: g.Password.RevealString(),
	})
	if err != nil {
		return nil, err
	}
	return b.authorization(c, stored, id, g.Subject, time.Now()), nil
}
