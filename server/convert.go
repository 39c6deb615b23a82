package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// methods is AuthenticationMethod :: proto → domain.
var methods = map[pb.AuthenticationMethod]broker.AuthenticationMethod{
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC:         broker.ClientSecretBasic,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_BASIC_RAW:     broker.ClientSecretBasicRaw,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_POST:          broker.ClientSecretPost,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_JWT:             broker.PrivateKeyJWT,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_CLIENT_SECRET_JWT:           broker.ClientSecretJWT,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_TLS_CLIENT_AUTH:             broker.TLSClientAuth,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_SELF_SIGNED_TLS_CLIENT_AUTH: broker.SelfSignedTLSClientAuth,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_NONE:                        broker.NoAuthentication,
	pb.AuthenticationMethod_AUTHENTICATION_METHOD_PRIVATE_KEY_BEARER:          broker.PrivateKeyBearer,
}

// grants is GrantType :: proto → domain; client_credentials is what all have that say
// nothing, as in records of earlier releases.
var grants = map[pb.GrantType]broker.GrantType{
	pb.GrantType_GRANT_TYPE_CLIENT_CREDENTIALS: "",
	pb.GrantType_GRANT_TYPE_AUTHORIZATION_CODE: broker.AuthorizationCode,
	pb.GrantType_GRANT_TYPE_DEVICE_CODE:        broker.DeviceCode,
	pb.GrantType_GRANT_TYPE_REFRESH_TOKEN:      broker.RefreshToken,
	pb.GrantType_GRANT_TYPE_JWT_BEARER:         broker.JWTBearer,
	pb.GrantType_GRANT_TYPE_TOKEN_EXCHANGE:     broker.TokenExchange,
	pb.GrantType_GRANT_TYPE_PASSWORD:           broker.Password,
}

// bindings is TokenBinding :: proto → domain.
var bindings = map[pb.TokenBinding]broker.TokenBinding{
	pb.TokenBinding_TOKEN_BINDING_DPOP:        broker.BoundByDPoP,
	pb.TokenBinding_TOKEN_BINDING_CERTIFICATE: broker.BoundByCertificate,
}

// states is ClientState :: domain → proto.
var states = map[broker.State]pb.ClientState{
	broker.StateActive:   pb.ClientState_CLIENT_STATE_ACTIVE,
	broker.StateDisabled: pb.ClientState_CLIENT_STATE_DISABLED,
	broker.StateDeleted:  pb.ClientState_CLIENT_STATE_DELETED,
}

// stages is SecretStage :: domain → proto.
var stages = map[broker.Stage]pb.SecretStage{
	broker.Unlabelled: pb.SecretStage_SECRET_STAGE_UNSPECIFIED,
	broker.Pending:    pb.SecretStage_SECRET_STAGE_PENDING,
	broker.Current:    pb.SecretStage_SECRET_STAGE_CURRENT,
	broker.Previous:   pb.SecretStage_SECRET_STAGE_PREVIOUS,
}

// settings are the fields of a client that a peer sets.
type settings struct {
	labels      map[string]string
	upstream    broker.Upstream
	tokenPolicy broker.TokenPolicy
	rotation    broker.RotationSettings
}

// settingsFromProto takes the settable fields out of a message. Whether they are
// sound is the broker's to say; only what has no form in the domain is refused here.
func settingsFromProto(c *pb.Client) (settings, error) {
	minValidity, err := durationOf("client.token_policy.min_validity", c.GetTokenPolicy().GetMinValidity())
	if err != nil {
		return settings{}, err
	}
	assumed, err := durationOf("client.token_policy.assumed_lifetime", c.GetTokenPolicy().GetAssumedLifetime())
	if err != nil {
		return settings{}, err
	}
	period, err := durationOf("client.issue_budget.period", c.GetIssueBudget().GetPeriod())
	if err != nil {
		return settings{}, err
	}
	rotation, err := rotationSettingsFromProto(c.GetRotation())
	if err != nil {
		return settings{}, err
	}
	// What is not known here must not become what is taken by default.
	if _, known := grants[c.GetGrantType()]; !known && c.GetGrantType() != 0 {
		return settings{}, broker.Invalid("client.grant_type", "is none that this server knows")
	}
	if _, known := bindings[c.GetTokenBinding()]; !known && c.GetTokenBinding() != 0 {
		return settings{}, broker.Invalid("client.token_binding", "is none that this server knows")
	}
	return settings{
		labels: c.GetLabels(), rotation: rotation,
		upstream: broker.Upstream{
			TokenEndpoint: c.GetTokenEndpoint(), RevocationEndpoint: c.GetRevocationEndpoint(), ClientID: c.GetClientId(),
			Authentication: broker.Authentication{
				Method:           methods[c.GetAuthenticationMethod()],
				SigningAlgorithm: c.GetAssertion().GetSigningAlgorithm(),
				KeyID:            c.GetAssertion().GetKeyId(), AssertionAudience: c.GetAssertion().GetAudience(),
			},
			DefaultScopes: c.GetDefaultScopes(), AllowedScopes: c.GetAllowedScopes(),
			Audience: c.GetAudience(), AllowedAudiences: c.GetAllowedAudiences(),
			Resources: c.GetResources(), AllowedResources: c.GetAllowedResources(),
			Parameters:    c.GetParameters(),
			IssueBudget:   broker.IssueBudget{Tokens: int(c.GetIssueBudget().GetTokens()), Period: orZero(period)},
			MaxLiveTokens: int(c.GetMaxLiveTokens()), SingleActiveToken: c.GetSingleActiveToken(),
			TokenDestinations: c.GetTokenDestinations(),
			Provider:          c.GetProvider(), ProviderVariables: c.GetProviderVariables(), Grant: grants[c.GetGrantType()], Issuer: c.GetIssuer(),
			AuthorizationEndpoint: c.GetAuthorizationEndpoint(), DeviceAuthorizationEndpoint: c.GetDeviceAuthorizationEndpoint(),
			IntrospectionEndpoint: c.GetIntrospectionEndpoint(), RefreshEndpoint: c.GetRefreshEndpoint(),
			TokenBinding: bindings[c.GetTokenBinding()], AssertionSubject: c.GetAssertionSubject(), RedirectURIs: c.GetRedirectUris(), APIEndpoint: c.GetApiEndpoint(),
		},
		tokenPolicy: broker.TokenPolicy{
			MinValidity: orZero(minValidity), AssumedLifetime: orZero(assumed),
			RequireAllScopes: c.GetTokenPolicy().GetRequireAllScopes(), Unshared: c.GetTokenPolicy().GetUnshared(),
		},
	}, nil
}

func orZero(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}

// secretFromProto takes a secret off the wire. The message stays with gRPC, whose
// buffers cannot be wiped (SECURITY.md).
func secretFromProto(in *pb.SecretInput) (broker.SecretInput, error) {
	var input broker.SecretInput
	switch value := in.GetValue().(type) {
	case *pb.SecretInput_ClientSecret:
		input.Value = secret.NewString(value.ClientSecret)
	case *pb.SecretInput_PrivateKey:
		input.Value = secret.NewString(value.PrivateKey)
	case *pb.SecretInput_WrappingToken:
		input.Wrapping = secret.NewString(value.WrappingToken)
	case *pb.SecretInput_Reference:
		input.Reference = broker.SecretReference{Mount: value.Reference.GetMount(), Path: value.Reference.GetPath(), Field: value.Reference.GetField()}
	}
	if input.Value.IsZero() && input.Wrapping.IsZero() && input.Reference.IsZero() {
		return input, broker.Invalid("secret", "is empty; set client_secret, private_key, wrapping_token or reference")
	}
	input.KeepTrailingSpace = in.GetKeepTrailingSpace()
	if token := in.GetRegistrationAccessToken(); token != "" {
		input.Registration = secret.NewString(token)
	}
	if expire := in.GetExpireTime(); expire != nil {
		if expire.CheckValid() != nil {
			return input, broker.Invalid("secret.expire_time", "is not a valid time")
		}
		input.ExpireTime = expire.AsTime()
	}
	return input, nil
}

func clientToProto(c *broker.Client) *pb.Client {
	u := c.Upstream
	message := &pb.Client{
		Name: "clients/" + c.ID, Uid: c.UID, Labels: c.Labels,
		TokenEndpoint: u.TokenEndpoint, RevocationEndpoint: u.RevocationEndpoint, ClientId: u.ClientID,
		DefaultScopes: u.DefaultScopes, AllowedScopes: u.AllowedScopes,
		Audience: u.Audience, AllowedAudiences: u.AllowedAudiences,
		Resources: u.Resources, AllowedResources: u.AllowedResources, Parameters: u.Parameters,
		State: states[c.State()], Etag: c.Etag(),
		CreateTime: timeToProto(c.CreateTime), UpdateTime: timeToProto(c.UpdateTime), DeleteTime: timeToProto(c.DeleteTime),
		MinSecretVersion: c.MinSecretVersion, MaxLiveTokens: int32(u.MaxLiveTokens), SingleActiveToken: u.SingleActiveToken,
		Rotation: rotationSettingsToProto(c.Rotation), TokenDestinations: u.TokenDestinations,
		Provider: u.Provider, ProviderVariables: u.ProviderVariables, GrantType: grantTypeToProto(u.Grant), Issuer: u.Issuer,
		AuthorizationEndpoint: u.AuthorizationEndpoint, DeviceAuthorizationEndpoint: u.DeviceAuthorizationEndpoint,
		IntrospectionEndpoint: u.IntrospectionEndpoint, RefreshEndpoint: u.RefreshEndpoint,
		AssertionSubject: u.AssertionSubject, RedirectUris: u.RedirectURIs, ApiEndpoint: u.APIEndpoint,
	}
	for theirs, ours := range bindings {
		if ours == u.TokenBinding {
			message.TokenBinding = theirs
		}
	}
	if b := u.IssueBudget; !b.IsZero() {
		message.IssueBudget = &pb.IssueBudget{Tokens: int32(b.Tokens), Period: durationToProto(b.Period)}
	}
	message.AuthenticationMethod = methodToProto(u.Authentication.Method)
	if a := u.Authentication; a.SigningAlgorithm+a.KeyID+a.AssertionAudience != "" {
		message.Assertion = &pb.AssertionSettings{SigningAlgorithm: a.SigningAlgorithm, KeyId: a.KeyID, Audience: a.AssertionAudience}
	}
	if p := c.TokenPolicy; p != (broker.TokenPolicy{}) {
		message.TokenPolicy = &pb.TokenPolicy{
			MinValidity: durationToProto(p.MinValidity), AssumedLifetime: durationToProto(p.AssumedLifetime), RequireAllScopes: p.RequireAllScopes,
			Unshared: p.Unshared,
		}
	}
	for _, v := range c.Secrets {
		message.SecretVersions = append(message.SecretVersions, versionToProto(v))
	}
	return message
}

func grantTypeToProto(g broker.GrantType) pb.GrantType {
	for theirs, ours := range grants {
		if ours == g {
			return theirs
		}
	}
	return pb.GrantType_GRANT_TYPE_UNSPECIFIED
}

func versionToProto(v broker.SecretVersion) *pb.SecretVersion {
	message := &pb.SecretVersion{
		Number: v.Number, Stage: stages[v.Stage], Fingerprint: v.Fingerprint, BoundDestinations: v.Destinations,
		CreateTime: timeToProto(v.CreateTime), VerifyTime: timeToProto(v.VerifyTime),
		PromoteTime: timeToProto(v.PromoteTime), ExpireTime: timeToProto(v.ExpireTime), Destroying: v.Destroying,
		ProviderHandle: v.Handle,
	}
	if r := v.Reference; !r.IsZero() {
		message.Reference, message.OwnerVersion = &pb.SecretReference{Mount: r.Mount, Path: r.Path, Field: r.Field}, v.OwnerVersion
	}
	return message
}

func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func durationToProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
