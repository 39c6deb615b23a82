package broker

import (
	"cmp"
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// GrantType is how a client's tokens are had.
type GrantType string

// The grants. "" means ClientCredentials, so that records of earlier releases stay true.
const (
	// ClientCredentials is the client's own authority (RFC 6749 §4.4).
	ClientCredentials GrantType = "client_credentials"
	// AuthorizationCode is a user's consent in a browser (RFC 6749 §4.1).
	AuthorizationCode GrantType = "authorization_code"
	// DeviceCode is a user's consent on another device (RFC 8628).
	DeviceCode GrantType = "device_code"
	// RefreshToken is a refresh token that was had elsewhere (RFC 6749 §6).
	RefreshToken GrantType = "refresh_token"
	// JWTBearer is an assertion that the client signs (RFC 7523 §2.1).
	JWTBearer GrantType = "jwt_bearer"
	// TokenExchange exchanges a token that the caller brings (RFC 8693).
	TokenExchange GrantType = "token_exchange"
	// Password is a user's name and password (RFC 6749 §4.3).
	Password GrantType = "password"
)

// GrantTypes lists the grants in the order in which they are documented.
func GrantTypes() []GrantType {
	return []GrantType{ClientCredentials, AuthorizationCode, DeviceCode, RefreshToken, JWTBearer, TokenExchange, Password}
}

// ofUsers reports whether tokens of g are had by what a user granted, which the store
// keeps for each subject.
func (g GrantType) ofUsers() bool {
	switch g {
	case AuthorizationCode, DeviceCode, RefreshToken, Password:
		return true
	}
	return false
}

// TokenBinding says what a client's tokens are bound to; "" is nothing.
type TokenBinding string

// The bindings.
const (
	// BoundByDPoP binds tokens to the key of a proof that the caller brings (RFC 9449).
	BoundByDPoP TokenBinding = "dpop"
	// BoundByCertificate binds them to the certificate of mutual TLS (RFC 8705 §3).
	BoundByCertificate TokenBinding = "certificate"
)

// GrantParameters are what one token request presents as its grant. Which fields count
// is Type's to say; the others are zero.
type GrantParameters struct {
	// Type is the grant of this very request: RefreshToken also for clients of other
	// grants whose token is refreshed. "" means ClientCredentials.
	Type GrantType
	// Code, CodeVerifier (RFC 7636) and RedirectURI are for AuthorizationCode.
	Code, CodeVerifier secret.Value
	RedirectURI        string
	// DeviceCode is for DeviceCode; PollInterval is how long was waited before this poll
	// (RFC 8628 §3.5), 0 for 5 s. AUTHORIZATION_PENDING has in RetryAfter how long to wait
	// before the next one, which is more after slow_down.
	DeviceCode   secret.Value
	PollInterval time.Duration
	// RefreshToken is for RefreshToken; AccessToken is the last token, for providers
	// that are refreshed with it.
	RefreshToken, AccessToken secret.Value
	// Subject is the sub claim of JWTBearer; "" takes none, or the client_id where the
	// provider's profile says so.
	Subject string
	// SubjectToken is for TokenExchange, of the type SubjectTokenType.
	SubjectToken     secret.Value
	SubjectTokenType string
	// Username and UserPassword are for Password.
	Username     string
	UserPassword secret.Value
	// DPoPProof is sent in the DPoP header (RFC 9449 §5); "" sends none.
	DPoPProof string
}

// AuthorizationServer is what the broker asks of authorization servers besides tokens.
// Its methods are called without any lock held, make at most one HTTP request unless
// they say otherwise, never retry, and are safe for concurrent use. Their errors are as
// those of [RequestToken].
type AuthorizationServer interface {
	// AuthorizationURL returns what a browser opens to ask for consent (RFC 6749 §4.1.1).
	// It makes no request.
	AuthorizationURL(AuthorizationRequest) (string, error)
	// AuthorizeDevice begins a consent on another device (RFC 8628 §3.1). The request's
	// Endpoint is the device authorization endpoint; a client that signs assertions for
	// its token endpoint says so by its AssertionAudience.
	AuthorizeDevice(ctx context.Context, req TokenRequest) (DeviceAuthorization, error)
	// CheckIDToken says whether an ID token that came beside a token is one for this
	// client, this issuer and this nonce, with an ID_TOKEN_INVALID error if not. It came
	// over TLS from the token endpoint, which stands for its signature (OpenID Connect
	// Core §3.1.3.7).
	CheckIDToken(idToken secret.Value, issuer, clientID, nonce string) error
	// Discover reads an issuer's metadata (RFC 8414 §3, OpenID Connect Discovery §4): at
	// most two requests. Endpoints are taken that are on the issuer's host or of one of
	// the bound origins. DISCOVERY_FAILED, or a reason of the way there.
	Discover(ctx context.Context, issuer string, bound ...string) (Metadata, error)
	// Introspect asks about a token (RFC 7662).
	Introspect(ctx context.Context, req IntrospectionRequest) (Introspection, error)
}

// AuthorizationRequest is what is asked of a user's browser.
type AuthorizationRequest struct {
	// Provider is the client's profile; "" is none. ProviderVariables are the client's.
	Provider          string
	ProviderVariables map[string]string
	// Endpoint is the authorization endpoint's URL, which may have a query.
	Endpoint string
	ClientID string
	// RedirectURI is where the browser is sent afterwards.
	RedirectURI string
	// State is opaque and good for one answer; CodeChallenge is of PKCE's method S256
	// (RFC 7636 §4.2); Nonce is sent where the scopes have "openid".
	State, CodeChallenge, Nonce string
	Scopes                      []string
	Audience                    string
	Resources                   []string
	// LoginHint is sent if not "".
	LoginHint string
	// Parameters are the client's, sent as they are.
	Parameters map[string]string
}

// DeviceAuthorization is the answer of RFC 8628 §3.2.
type DeviceAuthorization struct {
	DeviceCode              secret.Value
	UserCode                string
	VerificationURI         string
	VerificationURIComplete string
	ExpiresIn, Interval     time.Duration
}

// Metadata is what an issuer says of itself (RFC 8414 §2); "" and nil where it says
// nothing. All URLs are of bound origins or the issuer's host: others are left out and
// named in Ignored.
type Metadata struct {
	Issuer                      string
	TokenEndpoint               string
	AuthorizationEndpoint       string
	DeviceAuthorizationEndpoint string
	RevocationEndpoint          string
	IntrospectionEndpoint       string
	AuthenticationMethods       []AuthenticationMethod
	GrantTypes                  []string
	Scopes                      []string
	CodeChallengeMethods        []string
	// IssuerInAnswer says that answers at the redirect URI name the issuer (RFC 9207).
	IssuerInAnswer bool
	// Those of mtls_endpoint_aliases (RFC 8705 §5).
	MTLSTokenEndpoint               string
	MTLSDeviceAuthorizationEndpoint string
	MTLSRevocationEndpoint          string
	MTLSIntrospectionEndpoint       string
	// Ignored names what was left out and where it led: "token_endpoint: https://other.example".
	Ignored []string
}

// WithCertificate returns m with the endpoints for clients that present a certificate,
// whether to authenticate or to have tokens bound to it: the aliases where there are
// any.
func (m Metadata) WithCertificate() Metadata {
	m.TokenEndpoint = cmp.Or(m.MTLSTokenEndpoint, m.TokenEndpoint)
	m.DeviceAuthorizationEndpoint = cmp.Or(m.MTLSDeviceAuthorizationEndpoint, m.DeviceAuthorizationEndpoint)
	m.RevocationEndpoint = cmp.Or(m.MTLSRevocationEndpoint, m.RevocationEndpoint)
	m.IntrospectionEndpoint = cmp.Or(m.MTLSIntrospectionEndpoint, m.IntrospectionEndpoint)
	return m
}

// IntrospectionRequest is one request of RFC 7662 §2.1.
type IntrospectionRequest struct {
	// Endpoint is the introspection endpoint.
	Endpoint string
	// Client authenticates as for a token; its Endpoint is the token endpoint.
	Client TokenRequest
	Token  secret.Value
}

// Introspection is the answer of RFC 7662 §2.2.
type Introspection struct {
	Active bool
	// ExpireTime is by the server's clock; zero if it does not say.
	ExpireTime time.Time
	// Scopes are sorted; nil if it does not say.
	Scopes []string
}
