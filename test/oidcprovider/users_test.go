package oidcprovider_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

// proof makes a DPoP proof (RFC 9449, section 4.2).
func proof(t *testing.T, key *ecdsa.PrivateKey, target, nonce string) string {
	t.Helper()
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"htm": "POST", "htu": target, "iat": time.Now().Unix(), "jti": rand.Text()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	signed, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

const callback = "https://broker.example/callback"

// startForUsers starts a server with a client for each grant of users.
func startForUsers(t *testing.T) *oidcprovider.Server {
	t.Helper()
	scopes := []string{"openid", "offline_access", "read"}
	return oidcprovider.Start(t, oidcprovider.Config{
		Clients: []oidcprovider.Client{
			{
				ID: "web", Secret: "s3cr3t-web", Scopes: scopes, RedirectURIs: []string{callback},
				Grants: []string{oidcprovider.AuthorizationCode, oidcprovider.RefreshToken},
			},
			{
				ID: "tv", AuthMethod: oidcprovider.None, Scopes: scopes,
				Grants: []string{oidcprovider.DeviceCode, oidcprovider.RefreshToken},
			},
		},
		Resources:           []oidcprovider.Resource{{URI: api, Scopes: []string{"read"}}},
		DefaultResource:     api,
		RotateRefreshTokens: true,
	})
}

// consentTo returns the request for a code of the client "web", and its verifier.
func consentTo(server *oidcprovider.Server, nonce string) (broker.AuthorizationRequest, string) {
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	return broker.AuthorizationRequest{
		Endpoint: server.AuthorizationEndpoint(), ClientID: "web", RedirectURI: callback, State: rand.Text(), Nonce: nonce,
		CodeChallenge: base64.RawURLEncoding.EncodeToString(sum[:]), Scopes: []string{"offline_access", "openid", "read"},
		Parameters: map[string]string{"prompt": "consent"},
	}, verifier
}

// TestAuthorizationCode goes from the URL to a token by code, its ID token, and two uses
// of rotating refresh tokens; the third, of one that was used, ends the grant.
func TestAuthorizationCode(t *testing.T) {
	server := startForUsers(t)
	client := clientOf(t, server)
	asked, verifier := consentTo(server, "nonce-1")
	opened, err := client.AuthorizationURL(asked)
	if err != nil {
		t.Fatal(err)
	}
	answered := server.Consent(opened, "ann")
	if answered.Get("state") != asked.State || answered.Get("iss") != server.Issuer() || answered.Get("code") == "" {
		t.Fatalf("the browser came back with %v", answered)
	}
	req := requestOf(t, server.TokenEndpoint(), "web", "s3cr3t-web", broker.ClientSecretBasic)
	req.Resources = nil
	req.Grant = broker.GrantParameters{
		Type: broker.AuthorizationCode, Code: secret.NewString(answered.Get("code")), CodeVerifier: secret.NewString(verifier), RedirectURI: callback,
	}
	token, err := client.RequestToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if token.RefreshToken.IsZero() || token.IDToken.IsZero() {
		t.Fatalf("token = %+v, want a refresh token and an ID token beside it", token)
	}
	if err := client.CheckIDToken(token.IDToken, server.Issuer(), "web", "nonce-1"); err != nil {
		t.Error(err)
	}
	wantReason(t, client.CheckIDToken(token.IDToken, server.Issuer(), "web", "nonce-2"), broker.ReasonIDTokenInvalid)
	wantReason(t, client.CheckIDToken(token.IDToken, server.Issuer(), "tv", "nonce-1"), broker.ReasonIDTokenInvalid)
	wantReason(t, client.CheckIDToken(token.IDToken, server.Issuer()+"/", "web", "nonce-1"), broker.ReasonIDTokenInvalid)

	first := token.RefreshToken
	for range 2 {
		req.Grant = broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: token.RefreshToken}
		next, err := client.RequestToken(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if next.RefreshToken.IsZero() || next.RefreshToken.Equal(token.RefreshToken) {
			t.Fatal("the refresh token has no successor")
		}
		token = next
	}
	for _, ended := range []secret.Value{first, token.RefreshToken} { // the reuse ends its successors too
		req.Grant = broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: ended}
		if token, err := client.RequestToken(t.Context(), req); err == nil {
			t.Errorf("a refresh token of an ended grant brought %+v", token)
		}
	}
}

// TestCodesThatAreNotTaken are used twice, without their verifier, or for another client.
func TestCodesThatAreNotTaken(t *testing.T) {
	server := startForUsers(t)
	client := clientOf(t, server)
	for _, name := range []string{"used", "another verifier", "another redirect URI"} {
		t.Run(name, func(t *testing.T) {
			asked, verifier := consentTo(server, "")
			opened, err := client.AuthorizationURL(asked)
			if err != nil {
				t.Fatal(err)
			}
			req := requestOf(t, server.TokenEndpoint(), "web", "s3cr3t-web", broker.ClientSecretBasic)
			req.Resources = nil
			req.Grant = broker.GrantParameters{
				Type: broker.AuthorizationCode, Code: secret.NewString(server.Consent(opened, "ann").Get("code")), CodeVerifier: secret.NewString(verifier), RedirectURI: callback,
			}
			switch name {
			case "used":
				if _, err := client.RequestToken(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			case "another verifier":
				req.Grant.CodeVerifier = secret.NewString(rand.Text() + rand.Text())
			default:
				req.Grant.RedirectURI += "s"
			}
			token, err := client.RequestToken(t.Context(), req)
			if err == nil {
				t.Fatalf("the code brought %+v", token)
			}
			t.Log(err)
		})
	}
	asked, _ := consentTo(server, "")
	opened, err := client.AuthorizationURL(asked)
	if err != nil {
		t.Fatal(err)
	}
	if answered := server.Deny(opened); answered.Get("error") != "access_denied" || answered.Get("state") != asked.State {
		t.Errorf("a user who denies came back with %v", answered)
	}
}

// TestDevices waits for a user, who consents or denies.
func TestDevices(t *testing.T) {
	server := startForUsers(t)
	client := clientOf(t, server)
	begin := func(t *testing.T) (broker.DeviceAuthorization, broker.TokenRequest) {
		t.Helper()
		req := requestOf(t, server.DeviceAuthorizationEndpoint(), "tv", "", broker.NoAuthentication)
		req.Resources, req.Scopes = nil, []string{"offline_access", "openid", "read"}
		device, err := client.AuthorizeDevice(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		req.Endpoint, req.Scopes = server.TokenEndpoint(), nil
		req.Grant = broker.GrantParameters{Type: broker.DeviceCode, DeviceCode: device.DeviceCode}
		return device, req
	}
	device, poll := begin(t)
	if device.UserCode == "" || device.VerificationURI == "" || device.VerificationURIComplete == "" || device.ExpiresIn < time.Minute || device.Interval < time.Second {
		t.Fatalf("AuthorizeDevice = %+v", device)
	}
	_, err := client.RequestToken(t.Context(), poll)
	wantReason(t, err, broker.ReasonAuthorizationPending)
	server.ApproveDevice(device.VerificationURIComplete, "ann")
	token, err := client.RequestToken(t.Context(), poll)
	if err != nil {
		t.Fatal(err)
	}
	if token.RefreshToken.IsZero() {
		t.Errorf("token = %+v, want a refresh token beside it", token)
	}
	if err := client.CheckIDToken(token.IDToken, server.Issuer(), "tv", ""); err != nil {
		t.Error(err)
	}
	denied, poll := begin(t)
	server.DenyDevice(denied.VerificationURIComplete)
	_, err = client.RequestToken(t.Context(), poll)
	wantReason(t, err, broker.ReasonAuthorizationDenied)
}
