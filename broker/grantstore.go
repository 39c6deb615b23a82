package broker

import (
	"context"
	"errors"
	"strings"
	"time"
)

// grantedAnswer is what consent, a device or an import brought.
type grantedAnswer struct {
	// Secret is the version of the client's secret that it was had with.
	Secret SecretVersion
	// Scopes were asked for, or are said of an import; empty takes the client's default
	// ones.
	Scopes []string
	// Answer is the token endpoint's. Of an import only RefreshToken is set, or nothing
	// where Username and Password are.
	Answer TokenResponse
	// RefreshExpireTime is what an import says; zero if nothing.
	RefreshExpireTime time.Time
	// Username and Password are for the grant of that name.
	Username, Password string
}

// storeGranted makes what was granted the subject's grant, in the place of what r, read
// from path as version, says; secrets.Subject is whose it is. The record is stored first,
// also over what a refresh of the old grant does meanwhile, and is tried for as long as
// this process lives; then the access token, if there is one, is served for the scopes
// that were asked for. It returns that token, nil if there is none or it is of no use,
// and the grant as stored.
//
// AUTHORIZATION_NOT_FOUND if the consent that it was had by was given up meanwhile, or a
// reason of the store: the grant may then be stored later.
func (b *Broker) storeGranted(ctx context.Context, c *Client, path string, version uint64, r *grantRecord, secrets *grantSecrets, g grantedAnswer) (*grantRecord, *Token, error) {
	attempt := ""
	if r.Consent != nil {
		attempt = r.Consent.Attempt
	}
	policy := b.refreshPolicy(c)
	now := time.Now().UTC()
	generation := max(r.Generation+1, now.UnixMilli()) // unlike that of a grant that was given up before
	key, token := b.grantedToken(ctx, c, secrets.Subject, policy, g)
	var stored *grantRecord
	ch := &grantChange{
		c: c, subject: secrets.Subject, path: path, version: version, record: r, secrets: secrets,
		ours: func(found *grantRecord) bool {
			return attempt == "" || found.Client != "" && found.WriteID != "" && found.Generation < generation
		},
		apply: func(r *grantRecord, s *grantSecrets) {
			r.UID, r.Client = c.UID, c.ID
			r.grant(c, policy, g, now)
			r.Generation = max(r.Generation+1, generation)
			if token != nil {
				token.grant, r.TokenExpireTime = r.Generation, token.ExpireTime.UTC()
			}
			if r.Consent != nil && r.Consent.Attempt == attempt {
				r.Consent = nil
				s.CodeVerifier, s.Nonce, s.DeviceCode = "", "", ""
			}
			s.Subject, s.Previous = secrets.Subject, ""
			s.RefreshToken, s.AccessToken = g.Answer.RefreshToken.RevealString(), ""
			if policy.WithAccessToken {
				s.AccessToken = g.Answer.AccessToken.RevealString()
			}
			s.Username, s.Password = g.Username, g.Password
			stored = r
		},
	}
	changed := b.grantChanging(ctx, c, path)
	defer changed()
	ch.saved = func(ctx context.Context) {
		changed()
		if token != nil {
			b.publish(ctx, c, key, token)
		}
	}
	if err := b.save(ctx, ch); errors.Is(err, errSuperseded) {
		return nil, nil, newError(ReasonAuthorizationNotFound, c.ID, "it was given up meanwhile")
	} else if err != nil {
		return nil, nil, err
	}
	if token != nil {
		b.publish(ctx, c, key, token)
	}
	return stored, token, nil
}

// grant makes r one that was just granted.
func (r *grantRecord) grant(c *Client, policy RefreshPolicy, g grantedAnswer, now time.Time) {
	r.Scopes = g.Answer.Scopes
	if r.Scopes == nil {
		scopes := g.Scopes
		if len(scopes) == 0 {
			scopes = c.Upstream.DefaultScopes
		}
		r.Scopes = strings.Fields(joinSorted(scopes))
	}
	r.GrantedTo, r.Destinations, r.SecretVersion = c.Upstream.grantedTo(), nil, g.Secret.Number
	if origin, err := Origin(c.Upstream.TokenEndpoint); err == nil {
		r.Destinations = []string{origin}
	}
	r.Refreshable = !g.Answer.RefreshToken.IsZero() || policy.WithAccessToken && !g.Answer.AccessToken.IsZero() || g.Password != ""
	r.GrantTime, r.RefreshTime, r.TokenExpireTime = now, time.Time{}, time.Time{}
	r.RefreshExpireTime = g.RefreshExpireTime
	if r.RefreshExpireTime.IsZero() {
		r.RefreshExpireTime = refreshExpiry(policy, g.Answer, now)
	}
	r.Lease, r.Spending, r.Ended = nil, nil, ""
	r.Fence++
}

// refreshExpiry is when a refresh token ends that came with answer at now; zero if that
// is not known.
func refreshExpiry(policy RefreshPolicy, answer TokenResponse, now time.Time) time.Time {
	switch {
	case answer.RefreshExpiresIn != nil:
		return now.Add(*answer.RefreshExpiresIn)
	case policy.Lifetime > 0 && !answer.RefreshToken.IsZero():
		return now.Add(policy.Lifetime)
	}
	return time.Time{}
}

// grantedToken returns the token of an answer that granted something, and its key; nil
// if it has none that could be served.
func (b *Broker) grantedToken(ctx context.Context, c *Client, subject string, policy RefreshPolicy, g grantedAnswer) (tokenKey, *Token) {
	if g.Answer.AccessToken.IsZero() || c.Upstream.TokenBinding == BoundByDPoP {
		return tokenKey{}, nil
	}
	key, err := keyOf(c, TokenQuery{ClientID: c.ID, Subject: subject, Scopes: g.Scopes})
	if err != nil { // scopes that only consent may ask for
		return tokenKey{}, nil
	}
	token, err := newToken(b.replica, c, g.Secret, key, g.Answer) // of one that must be bound, what it is bound to is not known here
	if err != nil {
		b.log.WarnContext(ctx, "the token that came with a grant is of no use", "client", c.ID, "reason", ReasonOf(err))
		return tokenKey{}, nil
	}
	token.subject = subject
	if g.Answer.RefreshToken.IsZero() && !policy.WithAccessToken {
		token.warnings = append(token.warnings, Warning{Reason: ReasonRefreshTokenAbsent})
	}
	return key, token
}

// refreshPolicy is what c's provider declares of its refresh tokens.
func (b *Broker) refreshPolicy(c *Client) RefreshPolicy {
	if b.providers == nil || c.Upstream.Provider == "" {
		return RefreshPolicy{}
	}
	p, _ := b.providers.Provider(c.Upstream.Provider) // one that is not there declares nothing
	return p.Refresh
}
