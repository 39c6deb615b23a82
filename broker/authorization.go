package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// AuthorizationState says whether tokens can be had by an authorization.
type AuthorizationState string

// The states of an authorization.
const (
	// AuthorizationPending: consent was asked for and not given yet.
	AuthorizationPending AuthorizationState = "pending"
	// AuthorizationActive: tokens can be had.
	AuthorizationActive AuthorizationState = "active"
	// AuthorizationEnded: only new consent mends it.
	AuthorizationEnded AuthorizationState = "ended"
)

// Authorization is what a user granted to a client, or is asked to. It holds no secret
// but its Consent's AuthorizationURL.
type Authorization struct {
	// ID is the last part of its name: derived from the subject, telling nothing about it.
	ID       string
	ClientID string
	Subject  string
	State    AuthorizationState
	// Reason is why no token can be had; "" while it is active.
	Reason Reason
	// Scopes were granted; of a pending one they are those asked for. Sorted.
	Scopes []string
	// Consent is what is, or was last, asked for; nil if nothing is.
	Consent *Consent
	// GrantTime, RefreshTime (the last use of the refresh token with success) and
	// RefreshExpireTime are zero if that was not yet, or is not known.
	GrantTime, RefreshTime, RefreshExpireTime time.Time
	// Refreshable says that there is a refresh token, or what takes its place.
	Refreshable bool
	// SecretVersion is the one that it was had with; 0 if none was needed.
	SecretVersion int64
}

// Consent is what a user is asked for.
type Consent struct {
	// AuthorizationURL is what the user opens in a browser. Only StartAuthorization
	// returns it: whoever opens it consents in the user's place.
	AuthorizationURL string
	// UserCode is entered at VerificationURI; VerificationURIComplete has it within
	// (RFC 8628 §3.2). For devices only.
	UserCode, VerificationURI, VerificationURIComplete string
	// ExpireTime is when it is too late.
	ExpireTime time.Time
	// Reason is why it came to nothing; "" while it is pending.
	Reason Reason
}

// exchangeTimeout bounds what becomes of a code that was sent: whoever sent it has
// written the outcome by then, or will not.
const exchangeTimeout = mintTimeout + writeTimeout

// outcome returns why a consent came to nothing; "" while it is pending.
func (k *consentRecord) outcome(now time.Time) Reason {
	switch {
	case k.Reason != "":
		return k.Reason
	case k.Sent && now.Sub(k.SentTime) > exchangeTimeout:
		return ReasonAuthorizationAnswerLost
	case !k.Sent && !now.Before(k.ExpireTime):
		return ReasonAuthorizationExpired
	}
	return ""
}

// authorization is what callers see of a record at now.
func (b *Broker) authorization(c *Client, r *grantRecord, id, subject string, now time.Time) *Authorization {
	a := &Authorization{
		ID: id, ClientID: c.ID, Subject: subject, State: AuthorizationActive, Scopes: r.Scopes,
		GrantTime: r.GrantTime, RefreshTime: r.RefreshTime, RefreshExpireTime: r.refreshExpires(b.refreshPolicy(c)),
		Refreshable: r.Refreshable, SecretVersion: r.SecretVersion,
	}
	if k := r.Consent; k != nil {
		a.Consent = &Consent{
			UserCode: k.UserCode, VerificationURI: k.VerificationURI, VerificationURIComplete: k.VerificationURIComplete,
			ExpireTime: k.ExpireTime, Reason: k.outcome(now),
		}
		if r.GrantTime.IsZero() {
			a.Scopes = k.Scopes
		}
	}
	a.Reason = ReasonOf(r.refusal(c, b.refreshPolicy(c), now))
	switch {
	case a.Reason == ReasonAuthorizationPending:
		a.State = AuthorizationPending
	case a.Reason == ReasonRefreshTokenMissing && now.Before(r.TokenExpireTime):
		a.Reason = "" // until its token ends
	case a.Reason != "":
		a.State = AuthorizationEnded
	}
	if a.Reason == ReasonAuthorizationRequired && a.Consent != nil {
		a.Reason = a.Consent.Reason
	}
	return a
}

// AuthorizationRef names an authorization of a client, by ID or by Subject.
type AuthorizationRef struct {
	ClientID string
	// ID is the last part of its name; "" if Subject says whose it is.
	ID, Subject string
	// Permit, if not nil, is asked whether the caller may have to do with a subject
	// before anything is revealed or changed; its error is returned.
	Permit func(subject string) error
}

// authorizationIDLength is that of 16 bytes in hex.
const authorizationIDLength = 32

// authorizationIDProblem keeps anything from a path that is not an id.
func authorizationIDProblem(id string) bool {
	return len(id) != authorizationIDLength || strings.ContainsFunc(id, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

func checkSubject(v *violations, subject string) {
	switch {
	case subject == "":
		v.add("subject", "is required: whose consent it is, in your own words, such as users/4711")
	case len(subject) > maxSubjectLength:
		v.add("subject", "has %d bytes; at most %d", len(subject), maxSubjectLength)
	case !utf8.ValidString(subject) || strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.add("subject", "has a control character or is not UTF-8")
	}
}

// locate returns the id of the authorization that a ref names. INVALID_REQUEST,
// AUTHORIZATION_NOT_FOUND for an id that none can have.
func (b *Broker) locate(ctx context.Context, ref AuthorizationRef) (string, error) {
	if err := CheckID("client", ref.ClientID); err != nil {
		return "", err
	}
	if ref.ID != "" && authorizationIDProblem(ref.ID) {
		return "", newError(ReasonAuthorizationNotFound, ref.ClientID, "")
	}
	if ref.ID != "" {
		return ref.ID, nil
	}
	var v violations
	if checkSubject(&v, ref.Subject); len(v) > 0 {
		return "", v.err()
	}
	if ref.Permit != nil {
		if err := ref.Permit(ref.Subject); err != nil {
			return "", err
		}
	}
	meta, err := b.meta(ctx)
	if err != nil {
		return "", err
	}
	return meta.authorizationID(ref.Subject), nil
}

// storedGrant is a grant as it was read.
type storedGrant struct {
	id, path string
	record   *grantRecord
	secrets  *grantSecrets
	version  uint64
}

// existing reads the grant that a ref names. INVALID_REQUEST, AUTHORIZATION_NOT_FOUND,
// what Permit returns, or a reason of the store.
func (b *Broker) existing(ctx context.Context, c *Client, ref AuthorizationRef) (*storedGrant, error) {
	id, err := b.locate(ctx, ref)
	if err != nil {
		return nil, err
	}
	g := &storedGrant{id: id, path: grantPath(c.UID, id)}
	if g.record, g.secrets, g.version, err = b.readGrant(ctx, c, g.path); err != nil {
		return nil, err
	}
	if g.secrets.Subject == "" {
		return nil, newError(ReasonAuthorizationNotFound, c.ID, "")
	}
	if ref.Permit != nil {
		if err := ref.Permit(g.secrets.Subject); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// errUnchanged is returned by an edit of editGrant that finds nothing to change.
var errUnchanged = errors.New("nothing to change")

// grantTries is how often a grant is read anew after somebody else changed it.
const grantTries = 8

// editGrant lets edit change what is stored at path and writes it, again with what
// somebody else wrote meanwhile. An error of edit is returned as it is, and nothing is
// written then. CONCURRENT_CHANGE, or a reason of the store.
func (b *Broker) editGrant(ctx context.Context, c *Client, path string, edit func(*grantRecord, *grantSecrets) error) (*storedGrant, error) {
	for try := 0; ; try++ {
		r, secrets, version, err := b.readGrant(ctx, c, path)
		if err != nil {
			return nil, err
		}
		if err := edit(r, secrets); err != nil {
			return nil, err
		}
		version, err = b.writeGrant(ctx, path, version, r, secrets)
		switch reason := ReasonOf(err); {
		case err == nil:
			return &storedGrant{id: path[strings.LastIndexByte(path, '/')+1:], path: path, record: r, secrets: secrets, version: version}, nil
		case reason != ReasonStoreConflict:
			return nil, fmt.Errorf("write grant: %w", err)
		case try == grantTries || !sleep(ctx, pollBegin):
			return nil, newError(ReasonConcurrentChange, c.ID, "the authorization is changed all the time")
		}
	}
}
