package e2e_test

import (
	"net/http"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/zoo/systems"
)

// TestSystemFieldService is the JSON login whose tokens live as long as they are used, with the built-in profile of such a system.
func TestSystemFieldService(t *testing.T) {
	t.Parallel()
	const name = "clients/field-service"
	service := systems.NewFieldService()
	s := newSystem(t, service, nil)
	id, secret := service.NewCredential("Properties", "WorkTickets")
	client := &pb.Client{Name: name, Provider: "aspire", TokenEndpoint: s.origin + "/Authorization", RefreshEndpoint: s.origin + "/Authorization/RefreshToken", ClientId: id}
	created, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(secret)})
	if err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
	if got := created.GetClient(); got.GetAuthenticationMethod() != post || got.GetTokenEndpoint() != client.GetTokenEndpoint() {
		t.Errorf("the profile made it %v at %s, want the form's method at its own endpoint", got.GetAuthenticationMethod(), got.GetTokenEndpoint())
	}

	got, err := s.token(t.Context(), name)
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	if left := time.Until(got.GetExpireTime().AsTime()); left < 23*time.Hour || left > 24*time.Hour || got.GetExpirySource() != pb.ExpirySource_EXPIRY_SOURCE_PROVIDER {
		t.Errorf("it lives %v by %v, want 24 h by the provider's profile", left, got.GetExpirySource())
	}
	s.wantStatus("an endpoint of the credential's", "/Properties", got.GetAccessToken(), http.StatusOK)
	s.wantStatus("another endpoint", "/Invoices", got.GetAccessToken(), http.StatusForbidden)

	// Used each 20 hours it goes on for days; unused it ends, and the caller gets another one.
	for range 3 {
		service.Advance(20 * time.Hour)
		s.wantStatus("a token in use", "/WorkTickets", got.GetAccessToken(), http.StatusOK)
	}
	service.Advance(25 * time.Hour)
	s.wantStatus("a token after a day", "/WorkTickets", got.GetAccessToken(), http.StatusUnauthorized)
	got = s.renewed(name, got, "/WorkTickets")

	// The secret was lost and made anew: tokens go on, the old secret gets none, and what the 401 means is not guessed at.
	secret = service.Regenerate(id)
	if warm, err := s.token(t.Context(), name); err != nil || warm.GetTokenId() != got.GetTokenId() {
		t.Errorf("a warm token after the secret was made anew: %v", err)
	}
	if _, err := s.operator.tokens.RevokeTokens(t.Context(), &pb.RevokeTokensRequest{Client: name}); err != nil {
		t.Fatalf("RevokeTokens: %v", err)
	}
	_, err = s.token(t.Context(), name)
	wantReason(t, "a cold token with the old secret", err, "UPSTREAM_REFUSED")
	rotate(t, s.node, name, secret)
	if got, err = s.token(t.Context(), name); err != nil {
		t.Fatalf("after the rotation: %v", err)
	}
	s.wantStatus("the token of the new secret", "/Properties", got.GetAccessToken(), http.StatusOK)
	s.stop(t)
}
