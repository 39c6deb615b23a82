package broker

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// RequestToken asks an authorization server for one access token with the grant that
// the request presents. It is called without any lock held,
// makes exactly one HTTP request, never retries, and is safe for concurrent use.
//
// Its errors are *[Error] with an UPSTREAM_ or one of the rejection reasons, and
// never hold a secret, a token or a response body. Those about a grant that a request
// may use up (AuthorizationCode, DeviceCode, RefreshToken) are wrapped in *[UnsentError]
// where surely no byte of the request was written.
type RequestToken func(ctx context.Context, req TokenRequest) (TokenResponse, error)

// TokenRequest is one request to a token endpoint.
type TokenRequest struct {
	// Endpoint is the token endpoint's URL.
	Endpoint string
	// Destinations are the origins that the secret is bound to. A request to any
	// other is refused as DESTINATION_NOT_BOUND before a connection is made.
	Destinations []string
	// Authentication says how the client proves who it is.
	Authentication Authentication
	// ClientID is what the authorization server calls the client.
	ClientID string
	// Secret is the client secret, or the private key for private_key_jwt.
	Secret secret.Value
	// Scopes are sorted and unique; empty sends no scope parameter.
	Scopes []string
	// Audience is sent as "audience" (not in an RFC; Auth0 and others); "" sends none.
	Audience string
	// Resources are RFC 8707 resource indicators, sorted and unique.
	Resources []string
	// Parameters are sent in the form as they are. They cannot name a parameter
	// that the broker itself sends.
	Parameters map[string]string
	// Provider is the profile that says how this server departs from the standards; ""
	// if it is taken to follow them.
	Provider string
	// ProviderVariables are the client's.
	ProviderVariables map[string]string
	// Grant is what the request presents; its zero value is client_credentials.
	Grant GrantParameters
}

// TokenResponse is an authorization server's successful answer (RFC 6749 §5.1).
type TokenResponse struct {
	// AccessToken is at most [MaxTokenBytes].
	AccessToken secret.Value
	// TokenType as it was answered, in its canonical spelling: "Bearer".
	TokenType string
	// ExpiresIn counts from SentTime; nil when the answer did not say.
	ExpiresIn *time.Duration
	// RefreshIn is when the server wants to be asked for the next token, counted
	// from SentTime (not in an RFC; Microsoft Entra); nil when the answer did not say.
	RefreshIn *time.Duration
	// Scopes are the granted scopes, sorted; nil when the answer did not say, which
	// means "as requested".
	Scopes []string
	// SentTime is when the request was sent; lifetimes count from it, since the
	// server's own clock started no earlier.
	SentTime time.Time
	// ServerTime is the answer's Date header; zero when missing.
	ServerTime time.Time
	// Declared is how long the provider's profile says that tokens live, for when the
	// answer does not; nil if it does not either. DeclaredOnly says that the answer and
	// the token itself are not to be believed.
	Declared     *time.Duration
	DeclaredOnly bool
	// RefreshToken is at most [MaxTokenBytes]; zero if there was none. RefreshExpiresIn
	// counts from SentTime; nil when the answer did not say.
	RefreshToken     secret.Value
	RefreshExpiresIn *time.Duration
	// IDToken came beside it (OpenID Connect Core §3.1.3.3); zero if none did.
	IDToken secret.Value
	// IssuedTokenType is that of RFC 8693 §2.2.1; "" if the answer did not say.
	IssuedTokenType string
	// CertificateThumbprint and KeyThumbprint are what the token says that it is bound to
	// (cnf: RFC 8705 §3.1, RFC 9449 §6.1), base64url; "" if it says nothing.
	CertificateThumbprint, KeyThumbprint string

	// introspected is when the server says that the token expires, by its own clock.
	introspected *time.Time
}
