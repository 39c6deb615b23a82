package bearer

import (
	"log/slog"
	"net/http"
	"time"
)

// Config says whose tokens are accepted. It must not be changed after New.
type Config struct {
	// Issuers are the trusted issuers; at least one.
	Issuers []Issuer `yaml:"issuers"`
	// Logger gets new key sets and failures to fetch; nil means nobody.
	Logger *slog.Logger `yaml:"-"`
	// Transport carries the fetches of keys; nil means one of net/http that uses no
	// proxy and keeps no connection. CAFile is for the latter only.
	Transport http.RoundTripper `yaml:"-"`
}

// Issuer is one trusted issuer. Exactly one of JWKSFile, JWKSURL and Discovery says
// where its keys come from.
type Issuer struct {
	// Issuer is the exact iss of its tokens, as in
	// "https://kubernetes.default.svc.cluster.local"; without "#", which separates
	// issuer and subject in an identity. Required, and different from all others'.
	Issuer string `yaml:"issuer"`
	// Audiences are ours: aud must have one of them. Required. A token without
	// audience is one for every service that trusts the issuer.
	Audiences []string `yaml:"audiences"`
	// Algorithms that tokens may be signed with, of RS256, RS384, RS512, PS256, PS384,
	// PS512, ES256, ES384, ES512 and EdDSA. Required.
	Algorithms []string `yaml:"algorithms"`

	// JWKSFile holds a JWK Set (RFC 7517). It is looked at every second and taken as a
	// whole or not at all; New fails if it is not there.
	JWKSFile string `yaml:"jwks_file"`
	// JWKSURL is where the JWK Set is: https, no redirects.
	JWKSURL string `yaml:"jwks_url"`
	// Discovery reads the URL from ISSUER/.well-known/openid-configuration (OpenID
	// Connect Discovery §4), whose issuer must be equal, before each fetch. The URL
	// may be of another host: who answers for the issuer names it.
	Discovery bool `yaml:"discovery"`
	// CAFile holds the PEM certificates that the server's is verified with; empty
	// means the system's. Read once by New.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds a bearer token for the fetches, as the API server of Kubernetes
	// wants one by default. Read before each. It is sent to the origin of JWKSURL, or
	// with Discovery of Issuer, and to no other.
	TokenFile string `yaml:"token_file"`
	// InsecureHTTPLoopback allows http to a loopback address written as a number.
	// Whoever may listen there can then make keys.
	InsecureHTTPLoopback bool `yaml:"insecure_http_loopback"`
	// RefreshInterval is the time between fetches, 1 minute to 1 hour. If 0, it is the
	// max-age of the answer within these bounds, or else 5 minutes.
	RefreshInterval time.Duration `yaml:"refresh_interval"`
	// MaxStale is how long keys stay in force while none can be fetched; 24 hours if 0.
	MaxStale time.Duration `yaml:"max_stale"`

	// Leeway is how far the issuer's clock and ours may be apart; 30 seconds if 0, at
	// most 5 minutes.
	Leeway time.Duration `yaml:"leeway"`
	// MaxLifetime bounds exp - iat, and so requires iat; no bound if 0.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// Types are the values of typ that tokens may have, without "application/" and in
	// any case; "" stands for none. JWT, at+jwt and "" if the list is empty.
	Types []string `yaml:"types"`
	// SubjectClaim is the claim that names the caller, a string; sub if empty. It must
	// be one that the issuer assigns: callers may choose their own email or name.
	SubjectClaim string `yaml:"subject_claim"`
	// RequiredClaims are claims that must be strings of exactly this value.
	//
	// A claim is named by its name, dots and slashes included: "kubernetes.io",
	// "https://example.com/team". A name that begins with "/" is a JSON Pointer
	// (RFC 6901) to a claim within claims: "/kubernetes.io/namespace",
	// "/https:~1~1example.com~1team/name". It leads through objects only, not lists.
	RequiredClaims map[string]string `yaml:"required_claims"`
	// SingleUse refuses a token that was shown before, by its jti, which then is
	// required, as is MaxLifetime. It is remembered by this process only: another
	// replica, or this one after a restart, accepts the token once more.
	SingleUse bool `yaml:"single_use"`
}

const (
	defaultLeeway   = 30 * time.Second
	maxLeeway       = 5 * time.Minute
	defaultInterval = 5 * time.Minute
	minInterval     = time.Minute
	maxInterval     = time.Hour
	defaultMaxStale = 24 * time.Hour
	maxMaxStale     = 30 * 24 * time.Hour
	defaultSubject  = "sub"
)

func (i Issuer) withDefaults() Issuer {
	if i.Leeway == 0 {
		i.Leeway = defaultLeeway
	}
	if i.MaxStale == 0 {
		i.MaxStale = defaultMaxStale
	}
	if i.SubjectClaim == "" {
		i.SubjectClaim = defaultSubject
	}
	if len(i.Types) == 0 {
		i.Types = []string{"JWT", "at+jwt", ""}
	}
	return i
}
