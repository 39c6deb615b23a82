package oauth_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func revocation(server string) broker.RevocationRequest {
	origin, _ := broker.Origin(server)
	return broker.RevocationRequest{
		Endpoint: server + "/revoke", TokenEndpoint: server + "/token", Destinations: []string{origin},
		Authentication: broker.Authentication{Method: broker.ClientSecretPost},
		ClientID:       "acme", Secret: secret.NewString("s3cret"), Token: secret.NewString("canary-token"),
	}
}

func TestRevokeToken(t *testing.T) {
	var form url.Values
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ = url.ParseQuery(r.URL.Path + "=&" + string(body))
		w.WriteHeader(http.StatusOK)
	})
	if err := client.RevokeToken(t.Context(), revocation(server.URL)); err != nil {
		t.Fatal(err)
	}
	want := url.Values{"/revoke": {""}, "token": {"canary-token"}, "token_type_hint": {"access_token"}, "client_id": {"acme"}, "client_secret": {"s3cret"}}
	if got := form.Encode(); got != want.Encode() {
		t.Errorf("sent %q, want %q", got, want.Encode())
	}
	refresh := revocation(server.URL)
	refresh.Kind = broker.RefreshTokenKind
	if err := client.RevokeToken(t.Context(), refresh); err != nil {
		t.Fatal(err)
	}
	if got := form.Get("token_type_hint"); got != "refresh_token" {
		t.Errorf("token_type_hint = %q, want refresh_token", got)
	}
	elsewhere := revocation(server.URL)
	elsewhere.Destinations = []string{"https://other.example"}
	if err := client.RevokeToken(t.Context(), elsewhere); broker.ReasonOf(err) != broker.ReasonDestinationNotBound {
		t.Errorf("to an origin that the secret is not bound to: %v", err)
	}
}

// TestRefusedRevocations: what the server echoes stays out of the error.
func TestRefusedRevocations(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		want   broker.Reason
	}{
		{"unknown token", 200, `{"error":"canary-token"}`, ""},
		{"no content", 204, "", ""},
		{"later", 503, "canary-token", broker.ReasonUpstreamUnavailable},
		{"not for access tokens", 400, `{"error":"unsupported_token_type","error_description":"canary-token"}`, broker.ReasonUpstreamRefused},
		{"wrong secret", 401, `{"error":"invalid_client","error_description":"s3cret"}`, broker.ReasonClientRejected},
		{"no such page", 404, "<html>canary-token", broker.ReasonUpstreamRefused},
		{"redirect", 302, "", broker.ReasonUpstreamRedirected},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client, server := serve(t, answer(test.status, test.body, "Retry-After", "7"))
			err := client.RevokeToken(t.Context(), revocation(server.URL))
			if got := broker.ReasonOf(err); got != test.want {
				t.Fatalf("reason %q (%v), want %q", got, err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "canary-token") || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("the error tells too much: %v", err)
			}
			if test.status == 503 && broker.AsError(err).RetryAfter.Seconds() != 7 {
				t.Errorf("RetryAfter = %v, want 7s", broker.AsError(err).RetryAfter)
			}
		})
	}
}
