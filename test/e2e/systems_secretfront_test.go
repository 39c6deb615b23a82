package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
	"github.com/tokenbroker/tokenbroker/test/zoo/systems"
)

// documentedProfile returns the profile that docs/providers/secret-front.md shows: a user who follows the page has this one.
func documentedProfile(t *testing.T) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "providers", "secret-front.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml secret-front.yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("the page shows no profile")
	}
	return text
}

// TestSystemSecretFront is a front that is not OAuth 2 at all, with a profile that a user wrote: one that looks at secrets, and one
// that wrongly does not.
func TestSystemSecretFront(t *testing.T) {
	t.Parallel()
	for _, lax := range []bool{false, true} {
		name := "strict"
		if lax {
			name = "lax"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trySecretFront(t, lax)
		})
	}
}

func trySecretFront(t *testing.T, lax bool) {
	const name, account, secret = "clients/front", "acme", "the front's secret"
	front := systems.NewSecretFront(account, secret, lax)
	s := newSystem(t, front, map[string]string{"secret-front": documentedProfile(t)})
	create := func(name, account, secret string) {
		t.Helper()
		client := &pb.Client{
			Name: name, Provider: "secret-front", ProviderVariables: map[string]string{"host": "127.0.0.1"},
			TokenEndpoint: s.origin + "/api/session/open", ClientId: account,
		}
		if _, err := s.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(secret)}); err != nil {
			t.Fatalf("CreateClient: %v", err)
		}
	}
	create(name, account, secret)
	got, err := s.token(t.Context(), name)
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	if left := time.Until(got.GetExpireTime().AsTime()); left < 29*time.Minute || left > 30*time.Minute+time.Second || got.GetExpirySource() != pb.ExpirySource_EXPIRY_SOURCE_RESPONSE {
		// It is told as a point in time, and the front tells its own time in whole seconds.
		t.Errorf("it lives %v by %v, want 30 min by the response", left, got.GetExpirySource())
	}
	if code, body := s.call("/api/items", got.GetAccessToken()); code != http.StatusOK || !strings.Contains(body, `"OK"`) {
		t.Errorf("the API says %d: %s", code, body)
	}

	// The front refuses with 200; only its body tells. What it says of the mistakes is told by their own names.
	front.CloseSessions()
	if _, body := s.call("/api/items", got.GetAccessToken()); !strings.Contains(body, "DENIED") {
		t.Errorf("the API takes a session that was closed: %s", body)
	}
	create("clients/nobody", "nobody", secret)
	_, err = s.token(t.Context(), "clients/nobody")
	wantReason(t, "an unknown account", err, "CLIENT_REJECTED")

	// A wrong secret is not verified, and so never promoted; a lax front's is, since nobody there looks at it: that is what the page
	// says how to find out.
	if _, err := s.operator.rotations.StageSecret(t.Context(), &pb.StageSecretRequest{Client: name, Secret: secretInput("surely wrong")}); err != nil {
		t.Fatalf("StageSecret: %v", err)
	}
	_, err = s.operator.rotations.VerifySecret(t.Context(), &pb.VerifySecretRequest{Client: name})
	if lax {
		if err != nil {
			t.Errorf("VerifySecret at a front that looks at no secret: %v", err)
		}
	} else {
		wantReason(t, "VerifySecret of a wrong secret", err, "CLIENT_REJECTED")
	}
	if _, err := s.operator.rotations.AbortRotation(t.Context(), &pb.AbortRotationRequest{Client: name}); err != nil {
		t.Errorf("AbortRotation: %v", err)
	}
	s.stop(t)
}
