package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// tokenKey says which tokens may be served to whom: never less than this, so that
// two tenants do not meet, and never the caller.
type tokenKey struct {
	uid                         string
	settings                    string // hash of the settings, and the generation of tokens
	scopes, audience, resources string // joined by a space, sorted
	// subject is whose grant it is, binding the thumbprint of the key that the token is
	// bound to by DPoP; "" for none.
	subject, binding string
}

// settingsOf is the settings of a client's token keys.
func settingsOf(c *Client) string {
	settings := c.Upstream.settingsHash()
	if c.TokenGeneration > 0 {
		settings += "#" + strconv.FormatInt(c.TokenGeneration, 10)
	}
	return settings
}

// keyOf resolves a query against a client's settings. SCOPE_NOT_ALLOWED,
// TARGET_NOT_ALLOWED, INVALID_REQUEST for a subject that is missing or of no use.
func keyOf(c *Client, q TokenQuery) (tokenKey, error) { return keyWith(c, q, settingsOf(c)) }

// keyWith is keyOf where what settingsOf returns is at hand.
func keyWith(c *Client, q TokenQuery, settings string) (tokenKey, error) {
	if err := c.Upstream.checkSubject(q.Subject); err != nil {
		return tokenKey{}, err
	}
	return keyWithout(c, q, settings)
}

// keyWithout is keyWith whether or not the subject is as it should be.
func keyWithout(c *Client, q TokenQuery, settings string) (tokenKey, error) {
	u := c.Upstream
	scopes, resources, audience := q.Scopes, q.Resources, q.Audience
	if len(scopes) == 0 {
		scopes = u.DefaultScopes
	} else if bad := outside(scopes, u.DefaultScopes, u.AllowedScopes); bad != "" {
		return tokenKey{}, newError(ReasonScopeNotAllowed, c.ID, "scope %q", truncate(bad, 64))
	}
	if len(resources) == 0 {
		resources = u.Resources
	} else if bad := outside(resources, u.Resources, u.AllowedResources); bad != "" {
		return tokenKey{}, newError(ReasonTargetNotAllowed, c.ID, "resource %q", truncate(bad, 64))
	}
	if audience == "" {
		audience = u.Audience
	} else if audience != u.Audience && !slices.Contains(u.AllowedAudiences, audience) {
		return tokenKey{}, newError(ReasonTargetNotAllowed, c.ID, "audience %q", truncate(audience, 64))
	}
	if u.united() {
		scopes, resources = slices.Concat(u.DefaultScopes, u.AllowedScopes), slices.Concat(u.Resources, u.AllowedResources)
	}
	return tokenKey{
		uid: c.UID, settings: settings,
		scopes: joinSorted(scopes), audience: audience, resources: joinSorted(resources),
		subject: q.Subject, binding: q.binding,
	}, nil
}

// keyAlone is the key of a token that is had without anybody's grant, token or proof, as
// for the trial of a secret. SECRET_NOT_VERIFIED where there is none: a user's refresh
// token is not spent on a trial.
func (c *Client) keyAlone() (tokenKey, error) {
	if !c.alone() {
		return tokenKey{}, newError(ReasonSecretNotVerified, c.ID, "its tokens are had only with what a user granted or a caller brings, which no trial uses up")
	}
	return keyOf(c, TokenQuery{})
}

// alone reports whether c gets tokens without anybody's grant, token or proof.
func (c *Client) alone() bool {
	return !c.Upstream.Grant.ofUsers() && c.Upstream.Grant != TokenExchange && c.Upstream.TokenBinding != BoundByDPoP
}

func outside(asked, defaults, allowed []string) string {
	for _, s := range asked {
		if !slices.Contains(defaults, s) && !slices.Contains(allowed, s) {
			return s
		}
	}
	return ""
}

func joinSorted(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, " ")
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return strings.Join(slices.Compact(sorted), " ")
}

// checkSubject reports whether there is a subject where the client's grant needs one, and
// none where it has no use for one.
func (u *Upstream) checkSubject(subject string) error {
	switch {
	case subject == "" && u.Grant.ofUsers():
		return Invalid("subject", "is required: tokens of this client are had by what a user granted")
	case subject != "" && !u.Grant.ofUsers() && u.Grant != JWTBearer:
		return Invalid("subject", "must be empty: tokens of this client are nobody's grant")
	}
	return nil
}

// String returns the key for single flights; its parts cannot contain NUL.
func (k tokenKey) String() string { return k.stringWith(k.subject) }

// stringWith is String with another word for the subject. Without subject and binding it
// is that of earlier releases.
func (k tokenKey) stringWith(subject string) string {
	s := k.uid + "\x00" + k.settings + "\x00" + k.scopes + "\x00" + k.audience + "\x00" + k.resources
	if subject != "" || k.binding != "" {
		s += "\x00" + subject + "\x00" + k.binding
	}
	return s
}

// tokenPath is where the token of k lies. Scopes, targets and subjects do not stand in
// it: who may list the store must not learn what a client is allowed, nor, by trying,
// who its users are.
func (b *Broker) tokenPath(ctx context.Context, k tokenKey) (string, error) {
	subject := ""
	if k.subject != "" {
		m, err := b.meta(ctx)
		if err != nil {
			return "", err
		}
		subject = m.authorizationID(k.subject)
	}
	sum := sha256.Sum256([]byte(k.stringWith(subject)))
	return "tokens/" + k.uid + "/" + hex.EncodeToString(sum[:16]), nil
}

// query is one that asks for what k names.
func (k tokenKey) query(id string) TokenQuery {
	return TokenQuery{
		ClientID: id, Scopes: strings.Fields(k.scopes), Audience: k.audience, Resources: strings.Fields(k.resources),
		Subject: k.subject, binding: k.binding,
	}
}
