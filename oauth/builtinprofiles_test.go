package oauth_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// builtIn returns the built-in profiles.
func builtIn(t *testing.T) *profile.Set {
	t.Helper()
	set, err := profile.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// providerRequest is a request of a client of a built-in profile that says what the
// profile's examples say, to a server that is played.
func providerRequest(t *testing.T, set *profile.Set, name string, grant broker.GrantType, server *httptest.Server) broker.TokenRequest {
	t.Helper()
	provider, ok := set.Provider(name)
	if !ok {
		t.Fatalf("there is no profile %s", name)
	}
	u := broker.Upstream{ClientID: "reports", Provider: name, Grant: provider.GrantTypes[0], ProviderVariables: map[string]string{}}
	for _, v := range provider.Variables {
		if v.Default == "" {
			u.ProviderVariables[v.Name] = v.Example
		}
	}
	if violations := set.Complete(&u, new(broker.TokenPolicy), new(broker.RotationSettings)); len(violations) > 0 {
		t.Fatalf("%s: %v", name, violations)
	}
	req := tokenRequest(server)
	req.Provider, req.ProviderVariables, req.Authentication = name, u.ProviderVariables, u.Authentication
	req.Secret = secretFor(t, u.Authentication.Method)
	if req.Authentication.SigningAlgorithm == "RS256" {
		req.Secret = secret.NewString(keyPEM(t, "RSA PRIVATE KEY"))
	}
	req.Grant.Type = grant
	switch grant {
	case broker.AuthorizationCode:
		req.Grant.Code, req.Grant.RedirectURI = secret.NewString("code-1"), "https://app.example.com/callback"
	case broker.RefreshToken:
		req.Grant.RefreshToken = secret.NewString("refresh-1")
	case broker.TokenExchange:
		req.Grant.SubjectToken, req.Grant.SubjectTokenType = secret.NewString("subject-1"), "urn:ietf:params:oauth:token-type:access_token"
	}
	return req
}

// withProfiles has the client know the built-in profiles.
func withProfiles(set *profile.Set) func(*httptest.Server, *oauth.Config) {
	return func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set }
}

// TestProvidersAnswers: what providers' documents show as good answers is understood.
func TestProvidersAnswers(t *testing.T) {
	day := 24 * time.Hour
	tests := []struct {
		provider string
		grant    broker.GrantType
		status   int
		body     string
		token    string
		scopes   []string
		// lifetime is that of the answer, or, with declared, that of the profile.
		lifetime time.Duration
		declared bool
		refresh  string
	}{
		{"auth0", broker.ClientCredentials, 200, `{"access_token":"eyJz","token_type":"Bearer","expires_in":86400}`, "eyJz", nil, day, false, ""},
		{"entra", broker.ClientCredentials, 200, `{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"eyJ0"}`, "eyJ0", nil, 3599 * time.Second, false, ""},
		{"okta", broker.AuthorizationCode, 200, `{"token_type":"Bearer","expires_in":3600,"access_token":"eyJr","scope":"offline_access openid","refresh_token":"i6ma","id_token":"eyJr.e30.x"}`, "eyJr", []string{"offline_access", "openid"}, time.Hour, false, "i6ma"},
		{"google", broker.RefreshToken, 200, `{"access_token":"ya29","expires_in":3920,"scope":"https://www.googleapis.com/auth/calendar","token_type":"Bearer"}`, "ya29", []string{"https://www.googleapis.com/auth/calendar"}, 3920 * time.Second, false, ""},
		{"google-service-account", broker.JWTBearer, 200, `{"access_token":"1/8xb","scope":"https://www.googleapis.com/auth/prediction","token_type":"Bearer","expires_in":3600}`, "1/8xb", []string{"https://www.googleapis.com/auth/prediction"}, time.Hour, false, ""},
		{"salesforce", broker.ClientCredentials, 200, `{"access_token":"00DS!AR8A","signature":"nUFH","token_format":"opaque","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/00D/005","token_type":"Bearer","issued_at":"1667600739962"}`, "00DS!AR8A", nil, 2 * time.Hour, true, ""},
		{"salesforce-marketing-cloud", broker.ClientCredentials, 200, `{"access_token":"eyJh","token_type":"Bearer","expires_in":1079,"scope":"email_read email_send","soap_instance_url":"https://x.soap.marketingcloudapis.com/"}`, "eyJh", []string{"email_read", "email_send"}, 1079 * time.Second, false, ""},
		{"slack", broker.AuthorizationCode, 200, `{"ok":true,"access_token":"xoxb-1","token_type":"bot","scope":"commands,incoming-webhook","bot_user_id":"U0K","authed_user":{"id":"U1234"}}`, "xoxb-1", []string{"commands", "incoming-webhook"}, 3650 * day, true, ""},
		{"slack", broker.RefreshToken, 200, `{"ok":true,"access_token":"xoxe.xoxb-1","expires_in":43200,"refresh_token":"xoxe-1","token_type":"bot","scope":"commands"}`, "xoxe.xoxb-1", []string{"commands"}, 12 * time.Hour, false, "xoxe-1"},
		{"slack-user", broker.AuthorizationCode, 200, `{"ok":true,"authed_user":{"id":"U1234","scope":"chat:write","access_token":"xoxp-1","token_type":"user","refresh_token":"xoxe-2","expires_in":43200}}`, "xoxp-1", []string{"chat:write"}, 12 * time.Hour, false, "xoxe-2"},
		{"slack-user", broker.RefreshToken, 200, `{"ok":true,"access_token":"xoxe.xoxp-2","token_type":"user","refresh_token":"xoxe-3","expires_in":43200}`, "xoxe.xoxp-2", nil, 12 * time.Hour, false, "xoxe-3"},
		{"github", broker.AuthorizationCode, 200, `{"access_token":"gho_16C7","scope":"repo,gist","token_type":"bearer"}`, "gho_16C7", []string{"gist", "repo"}, 3650 * day, true, ""},
		{"github", broker.RefreshToken, 200, `{"access_token":"ghu_1","expires_in":28800,"refresh_token":"ghr_1","refresh_token_expires_in":15811200,"scope":"","token_type":"bearer"}`, "ghu_1", nil, 8 * time.Hour, false, "ghr_1"},
		{"gitlab", broker.AuthorizationCode, 200, `{"access_token":"de67","token_type":"bearer","expires_in":7200,"refresh_token":"8257","created_at":1607635748}`, "de67", nil, 2 * time.Hour, false, "8257"},
		{"atlassian", broker.RefreshToken, 200, `{"access_token":"eyJh","refresh_token":"eyJi","expires_in":3600,"scope":"read:jira-work offline_access"}`, "eyJh", []string{"offline_access", "read:jira-work"}, time.Hour, false, "eyJi"},
		{"zoom", broker.ClientCredentials, 200, `{"access_token":"eyJz","token_type":"bearer","expires_in":3600,"scope":"user:read:admin","api_url":"https://api.zoom.us"}`, "eyJz", []string{"user:read:admin"}, time.Hour, false, ""},
		{"zoho", broker.RefreshToken, 200, `{"access_token":"1000.2dea","expires_in":3600,"api_domain":"https://www.zohoapis.eu","token_type":"Bearer"}`, "1000.2dea", nil, time.Hour, false, ""},
		{"paypal", broker.ClientCredentials, 200, `{"scope":"https://uri.paypal.com/services/invoicing","access_token":"A21A","token_type":"Bearer","app_id":"APP-80","expires_in":"31668","nonce":"2020"}`, "A21A", []string{"https://uri.paypal.com/services/invoicing"}, 31668 * time.Second, false, ""},
		{"xero", broker.RefreshToken, 200, `{"access_token":"eyJh","expires_in":1800,"token_type":"Bearer","refresh_token":"xxyy","scope":"offline_access"}`, "eyJh", []string{"offline_access"}, 30 * time.Minute, false, "xxyy"},
		{"stripe-connect", broker.AuthorizationCode, 200, `{"access_token":"sk_test_1","livemode":false,"refresh_token":"rt_1","token_type":"bearer","stripe_publishable_key":"pk","stripe_user_id":"acct_1","scope":"read_write"}`, "sk_test_1", []string{"read_write"}, 3650 * day, true, "rt_1"},
		{"keycloak", broker.ClientCredentials, 200, `{"access_token":"eyJh","expires_in":300,"refresh_expires_in":0,"token_type":"Bearer","not-before-policy":0,"scope":"profile email"}`, "eyJh", []string{"email", "profile"}, 5 * time.Minute, false, ""},
	}
	set := builtIn(t)
	for _, tt := range tests {
		t.Run(tt.provider+" "+string(tt.grant), func(t *testing.T) {
			client, server := serve(t, answer(tt.status, tt.body), withProfiles(set))
			got, err := client.RequestToken(t.Context(), providerRequest(t, set, tt.provider, tt.grant, server))
			if err != nil {
				t.Fatal(err)
			}
			if got.AccessToken.RevealString() != tt.token || got.TokenType != "Bearer" || got.RefreshToken.RevealString() != tt.refresh {
				t.Errorf("token %q of type %q, refresh token %q, want %q and %q", got.AccessToken.RevealString(), got.TokenType, got.RefreshToken.RevealString(), tt.token, tt.refresh)
			}
			if !slices.Equal(got.Scopes, tt.scopes) {
				t.Errorf("scopes %q, want %q", got.Scopes, tt.scopes)
			}
			lifetime := got.ExpiresIn
			if tt.declared {
				if lifetime != nil || got.DeclaredOnly {
					t.Errorf("the answer tells %v; declared only: %t", lifetime, got.DeclaredOnly)
				}
				lifetime = got.Declared
			}
			if lifetime == nil || *lifetime != tt.lifetime {
				t.Errorf("lifetime %v, want %v", lifetime, tt.lifetime)
			}
		})
	}
}

// TestGitHubInstallation: the answer is a 201 whose token and end have names of their own.
func TestGitHubInstallation(t *testing.T) {
	set := builtIn(t)
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		authorization, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		signed, err := jose.ParseSignedCompact(authorization, []jose.SignatureAlgorithm{jose.RS256})
		body, _ := io.ReadAll(r.Body)
		var claims struct {
			Issuer string `json:"iss"`
		}
		if err == nil {
			err = json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims)
		}
		if !bearer || err != nil || claims.Issuer != "reports" || strings.TrimSpace(string(body)) != "{}" || r.Header.Get("Accept") != "application/vnd.github+json" {
			t.Errorf("Authorization of %q (%v), Accept %q, body %s", claims.Issuer, err, r.Header.Get("Accept"), body)
		}
		answer(http.StatusCreated, fmt.Sprintf(`{"token":"ghs_1","expires_at":%q,"permissions":{"issues":"write"},"repository_selection":"all"}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))(w, r)
	}, withProfiles(set))
	got, err := client.RequestToken(t.Context(), providerRequest(t, set, "github-app", broker.ClientCredentials, server))
	if err != nil {
		t.Fatal(err)
	}
	if got.AccessToken.RevealString() != "ghs_1" || got.ExpiresIn == nil || *got.ExpiresIn < 59*time.Minute || *got.ExpiresIn > time.Hour+time.Second {
		t.Errorf("token %q for %v", got.AccessToken.RevealString(), got.ExpiresIn)
	}
}

// TestProvidersRequests: requests have the names and values that providers document.
func TestProvidersRequests(t *testing.T) {
	tests := []struct {
		provider string
		grant    broker.GrantType
		want     map[string]string // "" is anything
		never    []string
	}{
		{"zoom", broker.ClientCredentials, map[string]string{"grant_type": "account_credentials", "account_id": "gYz8S9w5Q5yrDoIvmdClYw"}, []string{"scope", "client_secret"}},
		{"salesforce-marketing-cloud", broker.ClientCredentials, map[string]string{"grant_type": "client_credentials", "account_id": "12345", "client_id": "reports", "client_secret": canary}, nil},
		{"atlassian", broker.RefreshToken, map[string]string{"grant_type": "refresh_token", "client_id": "reports", "client_secret": canary, "refresh_token": "refresh-1"}, nil},
		{"entra-on-behalf-of", broker.TokenExchange, map[string]string{"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "subject-1", "requested_token_use": "on_behalf_of", "scope": "a b"}, []string{"subject_token", "subject_token_type"}},
		{"google-service-account", broker.JWTBearer, map[string]string{"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": ""}, []string{"scope", "client_secret", "client_id", "client_assertion"}},
		{"salesforce-jwt", broker.JWTBearer, map[string]string{"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": ""}, []string{"scope", "client_secret", "client_assertion"}},
		{"stripe-connect", broker.AuthorizationCode, map[string]string{"grant_type": "authorization_code", "code": "code-1", "client_secret": canary}, []string{"client_id"}},
		{"zoho", broker.AuthorizationCode, map[string]string{"grant_type": "authorization_code", "code": "code-1", "scope": "a,b"}, nil},
	}
	set := builtIn(t)
	for _, tt := range tests {
		t.Run(tt.provider, func(t *testing.T) {
			sent := map[string]string{}
			client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Header.Get("Content-Type") == "application/json" {
					if err := json.Unmarshal(body, &sent); err != nil {
						t.Error(err)
					}
				} else if form, err := url.ParseQuery(string(body)); err != nil {
					t.Error(err)
				} else {
					for name := range form {
						sent[name] = form.Get(name)
					}
				}
				answer(200, `{"access_token":"at","token_type":"Bearer","expires_in":60}`)(w, r)
			}, withProfiles(set))
			req := providerRequest(t, set, tt.provider, tt.grant, server)
			req.Scopes = []string{"a", "b"}
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			for name, want := range tt.want {
				if got, ok := sent[name]; !ok || want != "" && got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			for _, name := range tt.never {
				if _, ok := sent[name]; ok {
					t.Errorf("%s was sent", name)
				}
			}
			if tt.provider == "google-service-account" {
				wantServiceAccountClaims(t, sent["assertion"])
			}
		})
	}
}

// wantServiceAccountClaims checks what Google wants of an assertion.
func wantServiceAccountClaims(t *testing.T, assertion string) {
	t.Helper()
	signed, err := jose.ParseSignedCompact(assertion, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims); err != nil {
		t.Fatal(err)
	}
	if claims["iss"] != "reports" || claims["aud"] != "https://oauth2.googleapis.com/token" || claims["scope"] != "a b" || claims["sub"] != nil {
		t.Errorf("claims = %v", claims)
	}
}
