package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Client is a registered OAuth client: what the broker needs to know to get
// tokens for it, and which secret versions it has. It holds no secret.
//
// A Client that this package hands out is shared and must not be changed.
type Client struct {
	// ID is the name chosen by its creator: [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?
	// without "..".
	ID string `json:"id"`
	// UID is random, given at creation: equal ids with different uids are
	// different clients.
	UID string `json:"-"`
	// Labels are for people and filters; they change nothing upstream.
	Labels map[string]string `json:"labels,omitempty"`
	// Upstream is how tokens are had.
	Upstream Upstream `json:"upstream"`
	// TokenPolicy overrides defaults of the token life.
	TokenPolicy TokenPolicy `json:"token_policy"`
	// Rotation is how its secret is changed.
	Rotation RotationSettings `json:"rotation,omitzero"`
	// Secrets are all versions whose value may still exist, by ascending number.
	Secrets []SecretVersion `json:"secrets,omitempty"`
	// NextVersion is the number that the next staged secret gets.
	NextVersion int64 `json:"next_version"`
	// MinSecretVersion is the floor: tokens got with an older secret are not served.
	MinSecretVersion int64 `json:"min_secret_version,omitempty"`
	// TokenGeneration grows with each RevokeTokens; tokens of earlier generations are
	// not served.
	TokenGeneration int64 `json:"token_generation,omitempty"`
	// Disabled says that an operator stopped the client.
	Disabled bool `json:"disabled,omitempty"`
	// CreateTime, UpdateTime and DeleteTime are UTC; DeleteTime is zero unless
	// the client is (softly) deleted.
	CreateTime time.Time `json:"create_time"`
	UpdateTime time.Time `json:"update_time"`
	DeleteTime time.Time `json:"delete_time,omitzero"`
	// PurgeTime is when its purge began, PurgeEndTime when that was done; both are zero
	// of a client that this package hands out.
	PurgeTime    time.Time `json:"purge_time,omitzero"`
	PurgeEndTime time.Time `json:"purge_end_time,omitzero"`
	// CreateRequestID is the request_id (AIP-155) that created it; "" if none.
	CreateRequestID string `json:"create_request_id,omitempty"`

	version uint64
	// added is the version that this not yet committed revision brings; 0 if none.
	added int64
}

// Upstream says where and how a client gets its tokens.
type Upstream struct {
	// TokenEndpoint is an absolute https URL without query, fragment or user.
	TokenEndpoint string `json:"token_endpoint"`
	// RevocationEndpoint is where tokens are revoked (RFC 7009); "" if nowhere. It has
	// the origin of TokenEndpoint, since the secret is sent there.
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`
	// ClientID is what the authorization server calls the client.
	ClientID string `json:"client_id"`
	// Authentication is how the client proves who it is.
	Authentication Authentication `json:"authentication"`
	// DefaultScopes are asked for when a caller names none.
	DefaultScopes []string `json:"default_scopes,omitempty"`
	// AllowedScopes may be asked for besides the default ones.
	AllowedScopes []string `json:"allowed_scopes,omitempty"`
	// Audience is sent when a caller names none.
	Audience string `json:"audience,omitempty"`
	// AllowedAudiences may be asked for besides Audience.
	AllowedAudiences []string `json:"allowed_audiences,omitempty"`
	// Resources are sent when a caller names none (RFC 8707).
	Resources []string `json:"resources,omitempty"`
	// AllowedResources may be asked for besides Resources.
	AllowedResources []string `json:"allowed_resources,omitempty"`
	// Parameters are sent with each token request.
	Parameters map[string]string `json:"parameters,omitempty"`
	// IssueBudget is how many tokens the server issues in a period.
	IssueBudget IssueBudget `json:"issue_budget,omitzero"`
	// MaxLiveTokens is how many tokens the server lets live at a time; 0 is no bound.
	// Callers then share tokens with all default and allowed scopes and resources,
	// whichever of them they ask for.
	MaxLiveTokens int `json:"max_live_tokens,omitempty"`
	// SingleActiveToken says that a new token ends the one before it. Callers then
	// share one token as with MaxLiveTokens.
	SingleActiveToken bool `json:"single_active_token,omitempty"`
	// TokenDestinations are origins that the broker may send the client's tokens to by
	// itself, as the management client of others' rotations.
	TokenDestinations []string `json:"token_destinations,omitempty"`
	// Provider is the profile that completed these settings and that says how the server
	// departs from the standards; "" if it is taken to follow them.
	Provider string `json:"provider,omitempty"`
	// ProviderVariables are what the profile's endpoints need to know.
	ProviderVariables map[string]string `json:"provider_variables,omitempty"`
	// Grant is how tokens are had; "" means ClientCredentials.
	Grant GrantType `json:"grant,omitempty"`
	// Issuer is the server's issuer identifier (RFC 8414); "" if it has none.
	Issuer string `json:"issuer,omitempty"`
	// IssuerInAnswer says that its metadata promises the issuer in answers at the redirect
	// URI (RFC 9207): one without is refused.
	IssuerInAnswer bool `json:"issuer_in_answer,omitempty"`
	// AuthorizationEndpoint is where users consent. No secret is sent there.
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`
	// DeviceAuthorizationEndpoint (RFC 8628), IntrospectionEndpoint (RFC 7662) and
	// RefreshEndpoint, where refresh tokens are used, have the origin of TokenEndpoint,
	// since the secret is sent there; "" if there is none, and for the last one means
	// TokenEndpoint.
	DeviceAuthorizationEndpoint string `json:"device_authorization_endpoint,omitempty"`
	IntrospectionEndpoint       string `json:"introspection_endpoint,omitempty"`
	RefreshEndpoint             string `json:"refresh_endpoint,omitempty"`
	// TokenBinding is what tokens are bound to.
	TokenBinding TokenBinding `json:"token_binding,omitempty"`
	// AssertionSubject is the sub claim of JWTBearer when a caller names no subject.
	AssertionSubject string `json:"assertion_subject,omitempty"`
	// RedirectURIs are those of applications that host their own callback.
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	// APIEndpoint is a resource of the API that answers GET and changes nothing, for the
	// check of a lookup; "" if none is known. Its origin is one of TokenDestinations.
	APIEndpoint string `json:"api_endpoint,omitempty"`
}

// AuthenticationMethod is a client authentication method in the spelling of the
// IANA registry "OAuth Token Endpoint Authentication Methods".
type AuthenticationMethod string

// The methods this broker speaks.
const (
	// ClientSecretBasic form-encodes id and secret, then uses HTTP Basic (RFC 6749 §2.3.1).
	ClientSecretBasic AuthenticationMethod = "client_secret_basic"
	// ClientSecretBasicRaw is Basic without form-encoding, for servers that skip
	// that step of the RFC. The name is ours.
	ClientSecretBasicRaw AuthenticationMethod = "client_secret_basic_raw"
	// ClientSecretPost sends id and secret in the form.
	ClientSecretPost AuthenticationMethod = "client_secret_post"
	// PrivateKeyJWT signs an assertion (RFC 7523 §2.2, OpenID Connect Core §9).
	PrivateKeyJWT AuthenticationMethod = "private_key_jwt"
	// ClientSecretJWT signs an assertion with the secret by HMAC (OpenID Connect Core §9).
	ClientSecretJWT AuthenticationMethod = "client_secret_jwt"
	// TLSClientAuth presents a certificate of an authority that the server trusts
	// (RFC 8705 §2.1).
	TLSClientAuth AuthenticationMethod = "tls_client_auth"
	// SelfSignedTLSClientAuth presents a certificate that the server knows (RFC 8705 §2.2).
	SelfSignedTLSClientAuth AuthenticationMethod = "self_signed_tls_client_auth"
	// NoAuthentication is that of a public client, and of JWTBearer, where the secret is
	// the key of the assertion.
	NoAuthentication AuthenticationMethod = "none"
	// PrivateKeyBearer signs a JWT that is the request's bearer token, as GitHub Apps do.
	// The name is ours.
	PrivateKeyBearer AuthenticationMethod = "private_key_bearer"
)

// AuthenticationMethods lists the methods in the order in which they are documented.
func AuthenticationMethods() []AuthenticationMethod {
	return []AuthenticationMethod{
		ClientSecretBasic, ClientSecretBasicRaw, ClientSecretPost, PrivateKeyJWT, ClientSecretJWT,
		TLSClientAuth, SelfSignedTLSClientAuth, NoAuthentication, PrivateKeyBearer,
	}
}

// Authentication says how a client authenticates at its token endpoint.
type Authentication struct {
	// Method is one of [AuthenticationMethods].
	Method AuthenticationMethod `json:"method"`
	// SigningAlgorithm is the JWS algorithm of private_key_jwt, client_secret_jwt or
	// private_key_bearer, such as "RS256"; "" takes the natural one of the key (RS256,
	// ES256/384/512, EdDSA), and HS256 for a client secret.
	SigningAlgorithm string `json:"signing_algorithm,omitempty"`
	// KeyID is the assertion's kid header; "" takes the JWK's own, or sends none.
	KeyID string `json:"key_id,omitempty"`
	// AssertionAudience is the assertion's aud; "" takes the token endpoint.
	AssertionAudience string `json:"assertion_audience,omitempty"`
}

// SigningAlgorithms lists the JWS algorithms that m signs with, "" taking the first or
// the natural one of the key; nil if it signs nothing.
func (m AuthenticationMethod) SigningAlgorithms() []string {
	switch m {
	case PrivateKeyJWT, PrivateKeyBearer:
		return SigningAlgorithms()
	case ClientSecretJWT:
		return []string{"HS256", "HS384", "HS512"}
	}
	return nil
}

// hasPublicKey reports whether m's secrets are private keys that the authorization server
// knows the public halves of.
func (m AuthenticationMethod) hasPublicKey() bool {
	return m == PrivateKeyJWT || m == PrivateKeyBearer || m == SelfSignedTLSClientAuth
}

// SigningAlgorithms lists the asymmetric ones: those of private keys.
func SigningAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// TokenPolicy overrides the defaults of a token's life. Zero fields take the default.
type TokenPolicy struct {
	// MinValidity is served when a caller asks for none; default 10 s.
	MinValidity time.Duration `json:"min_validity,omitempty"`
	// AssumedLifetime is used where neither the answer nor the token tell when it
	// expires; default 5 min.
	AssumedLifetime time.Duration `json:"assumed_lifetime,omitempty"`
	// RequireAllScopes fails a token that was granted fewer scopes than asked for;
	// by default it is served with a warning.
	RequireAllScopes bool `json:"require_all_scopes,omitempty"`
	// Unshared makes each replica get tokens of its own, which then never lie in the
	// store. Not for clients whose tokens are limited.
	Unshared bool `json:"unshared,omitempty"`
}

// Stage is a label that at most one secret version of a client carries.
type Stage string

// The stages.
const (
	// Unlabelled versions are kept until retired; nothing uses them.
	Unlabelled Stage = ""
	// Pending was staged and waits for promotion.
	Pending Stage = "pending"
	// Current is the one that tokens are got with.
	Current Stage = "current"
	// Previous was current before the last promotion.
	Previous Stage = "previous"
)

// SecretVersion describes one immutable secret value, which is kept elsewhere.
type SecretVersion struct {
	// Number is unique within the client's uid and never used twice.
	Number int64 `json:"number"`
	Stage  Stage `json:"stage,omitempty"`
	// Fingerprint covers uid, number, destinations and value; see [Broker].
	Fingerprint string `json:"fingerprint"`
	// Destinations are the origins that this value may be sent to, fixed when staged.
	Destinations []string  `json:"destinations"`
	CreateTime   time.Time `json:"create_time"`
	// VerifyTime is when a token was last had with it by VerifySecret; zero if never.
	VerifyTime time.Time `json:"verify_time,omitzero"`
	// PromoteTime is when it became current; zero if never.
	PromoteTime time.Time `json:"promote_time,omitzero"`
	// ExpireTime is when the authorization server will stop taking it, as declared
	// by the operator; zero if unknown.
	ExpireTime time.Time `json:"expire_time,omitzero"`
	// PublicKey is the public half of a private key, a JWK; "" of other secrets, and of
	// those that came before there was this field.
	PublicKey string `json:"public_key,omitempty"`
	// Destroying says that the value is being, or was, destroyed on request.
	Destroying bool `json:"destroying,omitempty"`
	// RequestID is the request_id (AIP-155) that staged it; "" if none.
	RequestID string `json:"request_id,omitempty"`
	// RotationID is the rotation that staged it; "" for the first secret of a client.
	RotationID string `json:"rotation_id,omitempty"`
	// Handle is what the provider calls this secret; "" if it has no name for it.
	Handle string `json:"handle,omitempty"`
	// Registered says that a registration access token (RFC 7592) is kept with it.
	Registered bool `json:"registered,omitempty"`
	// TokenDestinations are the origins that the broker itself may send tokens to which
	// were got with this value, fixed when staged.
	TokenDestinations []string `json:"token_destinations,omitempty"`
	// Reference names the secret that this version is where it is owned by somebody
	// else, and OwnerVersion the owner's number of it; no value then lies in the store.
	// Zero for all others. The current version follows its owner: the latest of
	// Reference becomes a new version, which is promoted once a token was had with it.
	Reference    SecretReference `json:"reference,omitzero"`
	OwnerVersion int64           `json:"owner_version,omitempty"`
	// Followed says that it was found by following its owner and not staged.
	Followed bool `json:"followed,omitempty"`
}

// State is what an operator sees of a client's life.
type State string

// The states of a client.
const (
	// StateActive clients get tokens.
	StateActive State = "active"
	// StateDisabled clients were stopped by DisableClient.
	StateDisabled State = "disabled"
	// StateDeleted clients were softly deleted and can be undeleted.
	StateDeleted State = "deleted"
	// StatePurged clients are gone; their record keeps the name, the uid and the next
	// version number until a new client takes the name. Nobody sees one.
	StatePurged State = "purged"
)

// State returns purged before deleted before disabled before active.
func (c *Client) State() State {
	switch {
	case !c.PurgeTime.IsZero():
		return StatePurged
	case !c.DeleteTime.IsZero():
		return StateDeleted
	case c.Disabled:
		return StateDisabled
	default:
		return StateActive
	}
}

// Etag identifies this very revision of this very client (AIP-154); "" if it was never
// stored.
func (c *Client) Etag() string {
	if c.version == 0 {
		return ""
	}
	return c.UID + "-" + strconv.FormatUint(c.version, 10)
}

// Staged returns the version that carries stage, which must not be Unlabelled.
func (c *Client) Staged(stage Stage) (SecretVersion, bool) {
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Stage == stage })
	if i < 0 {
		return SecretVersion{}, false
	}
	return c.Secrets[i], true
}

// Secret returns the version of that number.
func (c *Client) Secret(number int64) (SecretVersion, bool) {
	i := slices.IndexFunc(c.Secrets, func(v SecretVersion) bool { return v.Number == number })
	if i < 0 {
		return SecretVersion{}, false
	}
	return c.Secrets[i], true
}

// usable returns the error that a token request for c gets because of c's state.
func (c *Client) usable() error {
	switch c.State() {
	case StatePurged:
		return newError(ReasonClientNotFound, c.ID, "")
	case StateDeleted:
		return newError(ReasonClientDeleted, c.ID, "deleted at %s", c.DeleteTime.Format(time.RFC3339))
	case StateDisabled:
		return newError(ReasonClientDisabled, c.ID, "")
	default:
		return nil
	}
}

// clone returns a deep copy, so that a shared Client can be the start of a new one.
func (c *Client) clone() *Client {
	d := *c
	d.Labels = maps.Clone(c.Labels)
	d.Upstream, d.Rotation = c.Upstream.clone(), c.Rotation.clone()
	d.Secrets = slices.Clone(c.Secrets)
	for i := range d.Secrets {
		d.Secrets[i].Destinations = slices.Clone(d.Secrets[i].Destinations)
		d.Secrets[i].TokenDestinations = slices.Clone(d.Secrets[i].TokenDestinations)
	}
	return &d
}

func (u Upstream) clone() Upstream {
	for _, list := range []*[]string{&u.DefaultScopes, &u.AllowedScopes, &u.AllowedAudiences, &u.Resources, &u.AllowedResources, &u.TokenDestinations, &u.RedirectURIs} {
		*list = slices.Clone(*list)
	}
	u.Parameters, u.ProviderVariables = maps.Clone(u.Parameters), maps.Clone(u.ProviderVariables)
	return u
}

// settingsHash covers the settings that change what the authorization server
// answers and are not in a token's key by themselves: a token got with other
// settings must not be served (two tenants must not meet).
func (u Upstream) settingsHash() string {
	encoded, err := json.Marshal(struct {
		Endpoint, ClientID string
		Authentication     Authentication
		Parameters         map[string]string
		Provider           string            `json:",omitempty"`
		ProviderVariables  map[string]string `json:",omitempty"`
		Grant              GrantType         `json:",omitempty"`
		RefreshEndpoint    string            `json:",omitempty"`
		TokenBinding       TokenBinding      `json:",omitempty"`
		AssertionSubject   string            `json:",omitempty"`
	}{
		u.TokenEndpoint, u.ClientID, u.Authentication, u.Parameters, u.Provider, u.ProviderVariables, u.Grant, u.RefreshEndpoint,
		u.TokenBinding, u.AssertionSubject,
	})
	if err != nil {
		panic(fmt.Sprintf("broker: encode settings: %v", err)) // strings and maps of strings always encode
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:12])
}
