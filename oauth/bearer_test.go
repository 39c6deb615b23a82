package oauth_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// claimsOf verifies an assertion with the key of keyJWK, and returns what it claims.
func claimsOf(t *testing.T, assertion string) map[string]any {
	t.Helper()
	signed, err := jose.ParseSignedCompact(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signed.Verify(keys().p256.Public())
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// TestGrantAssertions: what an assertion claims that is the grant (RFC 7523 §3).
func TestGrantAssertions(t *testing.T) {
	var form url.Values
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ = url.ParseQuery(string(body))
		answer(200, `{"access_token":"at"}`)(w, r)
	}, func(_ *httptest.Server, cfg *oauth.Config) {
		cfg.Profiles = profiles(t, map[string]string{
			"claims": `
variables: {host: {description: A host., example: a.example}}
grants: [jwt_bearer]
authentication:
  methods: [none]
  assertion_lifetime: 5m
  assertion_claims: {sub: "{client_id}", scope: "{scope}", host: "https://{host}", for: "{subject}"}
`,
		})
	})
	tests := []struct {
		name     string
		change   func(*broker.TokenRequest)
		want     map[string]any // beside iss, iat, exp and jti
		lifetime time.Duration
	}{
		{"plain", func(*broker.TokenRequest) {}, map[string]any{"aud": server.URL + "/token"}, time.Minute},
		{"subject", func(r *broker.TokenRequest) { r.Grant.Subject = "ann" }, map[string]any{"aud": server.URL + "/token", "sub": "ann"}, time.Minute},
		{"audience", func(r *broker.TokenRequest) { r.Authentication.AssertionAudience = "https://as" }, map[string]any{"aud": "https://as"}, time.Minute},
		{"both assertions", func(r *broker.TokenRequest) { r.Authentication.Method = broker.PrivateKeyJWT }, map[string]any{"aud": server.URL + "/token"}, time.Minute},
		{"profile", func(r *broker.TokenRequest) {
			r.Provider, r.ProviderVariables, r.Scopes = "claims", map[string]string{"host": "b.example"}, []string{"a", "b"}
		}, map[string]any{"aud": server.URL + "/token", "sub": "reports", "scope": "a b", "host": "https://b.example"}, 5 * time.Minute},
		{"profile and subject", func(r *broker.TokenRequest) {
			r.Provider, r.ProviderVariables, r.Grant.Subject = "claims", map[string]string{"host": "b.example"}, "ann"
		}, map[string]any{"aud": server.URL + "/token", "sub": "ann", "for": "ann", "host": "https://b.example"}, 5 * time.Minute},
	}
	seen := make(map[any]bool)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := tokenRequest(server)
			req.Secret, req.Grant.Type, req.Authentication.Method = secret.NewString(keyJWK(t)), broker.JWTBearer, broker.NoAuthentication
			tt.change(&req)
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			got := claimsOf(t, form.Get("assertion"))
			issued, expires := got["iat"].(float64), got["exp"].(float64)
			if now := float64(time.Now().Unix()); expires-issued != tt.lifetime.Seconds() || issued > now || issued < now-5 {
				t.Errorf("iat = %v, exp = %v, now = %v", issued, expires, now)
			}
			if id := got["jti"]; got["iss"] != "reports" || len(id.(string)) < 20 || seen[id] {
				t.Errorf("iss = %v, jti = %v", got["iss"], id)
			}
			seen[got["jti"]] = true
			for _, name := range []string{"iss", "iat", "exp", "jti"} {
				delete(got, name)
			}
			if gotText, wantText := marshal(got), marshal(tt.want); gotText != wantText {
				t.Errorf("claims = %s, want %s", gotText, wantText)
			}
			authenticated := form.Has("client_assertion")
			if want := req.Authentication.Method == broker.PrivateKeyJWT; authenticated != want {
				t.Errorf("authenticated: %t, want %t", authenticated, want)
			} else if authenticated && claimsOf(t, form.Get("client_assertion"))["sub"] != "reports" {
				t.Error("the client's own assertion is about somebody else")
			}
		})
	}
}
