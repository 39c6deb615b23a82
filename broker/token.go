package broker

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	defaultAssumedLifetime = 5 * time.Minute
	// maxLifetime keeps arithmetic far from overflow; a token that claims more is
	// asked for anew after it.
	maxLifetime = 365 * 24 * time.Hour
)

// ExpirySource says how a token's expiry is known.
type ExpirySource string

// The sources, from best to worst.
const (
	ExpiryFromResponse ExpirySource = "response"
	ExpiryFromJWT      ExpirySource = "jwt"
	ExpiryFromClient   ExpirySource = "client"
	ExpiryAssumed      ExpirySource = "assumed"
	// ExpiryFromProvider is what the profile declares, ExpiryFromIntrospection what the
	// server said when it was asked about the token.
	ExpiryFromProvider      ExpirySource = "provider"
	ExpiryFromIntrospection ExpirySource = "introspection"
)

// Warning is something that did not prevent an answer.
type Warning struct {
	Reason Reason
	Detail string
}

// Token is an access token and what is known about it. It is immutable and
// shared by all callers that it is served to.
type Token struct {
	// What serving it again needs comes first, so that it lies together.

	// gone says that it is not the latest token of its key in memory any more.
	gone atomic.Bool
	// used says that it was served to somebody after those it was got for.
	used atomic.Bool
	// grant is the Generation of the user's grant that it was had by; 0 for none.
	grant         int64
	SecretVersion int64
	// expireUnix is ExpireTime by the wall clock, in ns since 1970.
	expireUnix int64
	// derived is what Derived keeps.
	derived atomic.Value
	// noted is who was lately given it.
	noted atomic.Pointer[notedUse]
	ID    string
	// Scopes may be a list that tokens of other clients share.
	Scopes     []string
	IssueTime  time.Time
	ExpireTime time.Time
	// mandatoryAfter is when callers begin to wait for a new one.
	mandatoryAfter time.Time
	RefreshAfter   time.Time
	warnings       []Warning

	Access secret.Value
	Type   string
	// IssuedTokenType is what TokenExchange gave (RFC 8693 §2.2.1); "" for other grants.
	IssuedTokenType string
	ExpirySource    ExpirySource
	// clientID is the id of the client that it was got for, generation that client's
	// TokenGeneration then.
	clientID string
	// uid is that client's.
	uid        string
	generation int64
	// subject is whose grant it was had by; "" for nobody's.
	subject string
	// certificate is the thumbprint of the certificate that it is bound to; "" for none.
	certificate string
	// refreshIn is when the server wants to be asked again; 0 if it did not say.
	refreshIn time.Duration
	// limited says that the client may have few tokens at a time.
	limited bool
	// refreshBegun is when a refresh in the background was last begun, in ns since 1970.
	refreshBegun atomic.Int64
	// unreplaced is why no other token could be had lately; nil if nothing is known.
	unreplaced atomic.Pointer[failure]
}

// Derived returns what build makes of t. It is made for the first call and kept as
// long as t is, so that serving a token again costs no more than finding it; all
// callers share it, and none may change it. A token keeps one such value: build
// must be the same function in all calls.
func (t *Token) Derived(build func(*Token) any) any {
	if kept := t.derived.Load(); kept != nil {
		return kept
	}
	t.derived.CompareAndSwap(nil, build(t)) // of callers that come at once, one wins
	return t.derived.Load()
}

// TokenQuery says whose token is wanted and for what.
type TokenQuery struct {
	ClientID string
	// Scopes, Audience and Resources; empty takes the client's defaults.
	Scopes    []string
	Audience  string
	Resources []string
	// MinValidity is how long the token must still be good; nil takes the default.
	MinValidity *time.Duration
	// RejectedTokenID is the ID of a token that the API refused; "" if none was. If
	// it is the one that is held, another one is asked for, once per hold-down.
	RejectedTokenID string
	// Subject is whose grant is meant, in the application's own words; "" for none.
	Subject string
	// SubjectToken is what TokenExchange exchanges, of the type SubjectTokenType.
	SubjectToken     secret.Value `json:"-"`
	SubjectTokenType string       `json:"-"`
	// DPoPProof is the caller's proof of the key that the token shall be bound to,
	// CertificateThumbprint the SHA-256 of its certificate, base64url.
	DPoPProof             string `json:"-"`
	CertificateThumbprint string

	// binding is the thumbprint of the key of DPoPProof, once that was checked.
	binding string
}

// noteUse marks t as one that is worth refreshing. It writes once, so that callers
// on many processors do not contend.
func (t *Token) noteUse() {
	if !t.used.Load() {
		t.used.Store(true)
	}
}

// unreplacedAt returns why no other token could be had, for a hold-down after that.
func (t *Token) unreplacedAt(now time.Time) error {
	if f := t.unreplaced.Load(); f != nil && now.Sub(f.at) < holdDown {
		return f.err
	}
	return nil
}

// beginRefresh reports whether the caller is the one to refresh t in the
// background, which is so once per hold-down.
func (t *Token) beginRefresh(now time.Time) bool {
	last := t.refreshBegun.Load()
	since := time.Duration(now.UnixNano() - last)
	return (since < 0 || since >= holdDown) && t.refreshBegun.CompareAndSwap(last, now.UnixNano())
}

// newToken turns an answer into a token of a replica. TOKEN_EXPIRED, SCOPE_NOT_GRANTED,
// TOKEN_BOUND_ELSEWHERE, TOKEN_TYPE_UNSUPPORTED.
func newToken(replica string, c *Client, version SecretVersion, key tokenKey, answer TokenResponse) (*Token, error) {
	t := &Token{
		Access: answer.AccessToken, Type: answer.TokenType, IssuedTokenType: answer.IssuedTokenType, ID: answer.AccessToken.ID(),
		IssueTime: answer.SentTime, SecretVersion: version.Number, Scopes: answer.Scopes,
		limited: c.Upstream.limited(), clientID: c.ID, uid: c.UID, generation: c.TokenGeneration,
		subject: key.subject, certificate: answer.CertificateThumbprint,
	}
	if err := c.checkBinding(key, answer); err != nil {
		return nil, err
	}
	requested := strings.Fields(key.scopes)
	if t.Scopes == nil {
		t.Scopes = requested
	}
	if missing := missingFrom(requested, t.Scopes); len(missing) > 0 {
		detail := "not granted: " + truncate(strings.Join(missing, " "), 200)
		if c.TokenPolicy.RequireAllScopes {
			return nil, newError(ReasonScopeNotGranted, c.ID, "%s", detail)
		}
		t.warnings = append(t.warnings, Warning{ReasonScopesNarrowed, detail})
	}
	t.setExpiry(c.TokenPolicy, answer)
	if !t.ExpireTime.After(time.Now()) {
		return nil, newError(ReasonTokenExpired, c.ID, "it expired at %s", t.ExpireTime.UTC().Format(time.RFC3339))
	}
	if answer.RefreshIn != nil {
		t.refreshIn = *answer.RefreshIn
	}
	t.setWindows(replica, key)
	return t, nil
}

// setExpiry climbs down the ladder: the answer's field, the token's own exp, what the
// server said when asked, the provider's profile, the client's setting, five minutes.
func (t *Token) setExpiry(policy TokenPolicy, answer TokenResponse) {
	lifetime := func(d time.Duration, source ExpirySource) {
		t.ExpireTime, t.ExpirySource = t.IssueTime.Add(min(d, maxLifetime)), source
	}
	switch exp, isJWT := jwtExpiry(answer.AccessToken); {
	case answer.ExpiresIn != nil && !answer.DeclaredOnly:
		lifetime(*answer.ExpiresIn, ExpiryFromResponse)
	case isJWT && !answer.DeclaredOnly:
		lifetime(exp.Sub(t.IssueTime)-answer.skewAt(time.Now()), ExpiryFromJWT)
	case answer.introspected != nil:
		lifetime(answer.introspected.Sub(t.IssueTime)-answer.skewAt(time.Now()), ExpiryFromIntrospection)
	case answer.Declared != nil:
		lifetime(*answer.Declared, ExpiryFromProvider)
	case policy.AssumedLifetime > 0:
		lifetime(policy.AssumedLifetime, ExpiryFromClient)
	default:
		lifetime(defaultAssumedLifetime, ExpiryAssumed)
		t.warnings = append(t.warnings, Warning{Reason: ReasonExpiryAssumed})
	}
}

// jwtExpiry reads the exp claim of a token that happens to be a JWT, without
// verifying it: it only decides when to ask again, never what is granted.
func jwtExpiry(token secret.Value) (time.Time, bool) {
	parts := strings.Split(token.RevealString(), ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp *float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp == nil || !(*claims.Exp > 0) {
		return time.Time{}, false
	}
	const farFuture = 253402300799 // 9999-12-31, the last time that a protobuf Timestamp takes
	return time.Unix(int64(math.Min(*claims.Exp, farFuture)), 0), true
}

func missingFrom(requested, granted []string) []string {
	var missing []string
	for _, s := range requested {
		if !slices.Contains(granted, s) {
			missing = append(missing, s)
		}
	}
	return missing
}
