package e2e_test

import (
	"net/http"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo/systems"
)

// TestSystemPlatform is client credentials with Basic, an API with permissions, and what goes wrong there: the broker never takes
// one for the other.
func TestSystemPlatform(t *testing.T) {
	t.Parallel()
	const name, chosen, secret = "clients/platform", "a client_id of our own", "s3cr3t=/+%"
	platform := systems.NewPlatform()
	platform.SetClient(chosen, secret, "calls:read")
	s := newSystem(t, platform, nil)
	client := &pb.Client{Name: name, TokenEndpoint: s.origin + "/oauth/v2/token", ClientId: chosen, AuthenticationMethod: basicRaw}
	if _, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(secret)}); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}

	got, err := s.token(t.Context(), name)
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	if left := time.Until(got.GetExpireTime().AsTime()); left < 59*time.Minute || left > time.Hour || got.GetExpirySource() != pb.ExpirySource_EXPIRY_SOURCE_RESPONSE {
		t.Errorf("it lives %v by %v, want an hour by the response", left, got.GetExpirySource())
	}
	if claims := claimsOf(t, got.GetAccessToken()); claims["sub"] != chosen || got.GetTokenType() != "Bearer" {
		t.Errorf("the token is of %v, type %s", claims["sub"], got.GetTokenType())
	}
	s.wantStatus("the token", "/v2/calls", got.GetAccessToken(), http.StatusOK)
	s.wantStatus("no token", "/v2/calls", "made-up", http.StatusUnauthorized)

	// A missing permission is the API's to say: the broker's token is good and stays.
	s.wantStatus("a missing permission", "/v2/users", got.GetAccessToken(), http.StatusForbidden)
	if again, err := s.token(t.Context(), name); err != nil || again.GetTokenId() != got.GetTokenId() || platform.TokenRequests() != 1 {
		t.Errorf("after a 403: %v, token %s after %s, %d token requests; want the same one", err, again.GetTokenId(), got.GetTokenId(), platform.TokenRequests())
	}

	// A token that was revoked there: the caller reports it and gets another one.
	platform.Revoke(got.GetAccessToken())
	s.wantStatus("a revoked token", "/v2/calls", got.GetAccessToken(), http.StatusUnauthorized)
	s.renewed(name, got, "/v2/calls")

	// The secret is changed there: tokens go on, new ones are CLIENT_REJECTED until the new secret is here.
	platform.SetClient(chosen, "another secret", "calls:read", "users:read")
	_, err = s.caller.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: name})
	if err != nil {
		t.Errorf("a warm token after the secret was changed: %v", err)
	}
	if _, err := s.operator.tokens.RevokeTokens(t.Context(), &pb.RevokeTokensRequest{Client: name}); err != nil {
		t.Fatalf("RevokeTokens: %v", err)
	}
	_, err = s.token(t.Context(), name)
	wantReason(t, "a cold token after the secret was changed", err, "CLIENT_REJECTED")
	rotate(t, s.node, name, "another secret")
	mended, err := s.token(t.Context(), name)
	if err != nil {
		t.Fatalf("after the rotation: %v", err)
	}
	s.wantStatus("a permission that came", "/v2/users", mended.GetAccessToken(), http.StatusOK)
	s.stop(t)
}
