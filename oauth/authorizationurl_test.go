package oauth_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

func authorizationRequest() broker.AuthorizationRequest {
	return broker.AuthorizationRequest{
		Endpoint: "https://as.example/authorize", ClientID: "reports", RedirectURI: "https://broker.example/callback", State: "st",
		CodeChallenge: "ch", Nonce: "no", Scopes: []string{"openid", "read"},
	}
}

func TestAuthorizationURL(t *testing.T) {
	base := "client_id=reports&code_challenge=ch&code_challenge_method=S256&nonce=no&redirect_uri=https%3A%2F%2Fbroker.example%2Fcallback" +
		"&response_type=code&scope=openid+read&state=st"
	tests := []struct {
		name   string
		change func(*broker.AuthorizationRequest)
		want   string // the query's parameters that differ from base; "-x" for one that is not there
	}{
		{"plain", func(*broker.AuthorizationRequest) {}, ""},
		{"all", func(r *broker.AuthorizationRequest) {
			r.Audience, r.Resources, r.LoginHint = "https://api", []string{"https://a", "https://b"}, "ann@example.org"
			r.Parameters = map[string]string{"prompt": "consent"}
		}, "audience=https://api&resource=https://a&resource=https://b&login_hint=ann@example.org&prompt=consent"},
		{"endpoint with a query", func(r *broker.AuthorizationRequest) { r.Endpoint += "?tenant=1&state=theirs&client_secret=x" }, "tenant=1"},
		{"no openid", func(r *broker.AuthorizationRequest) { r.Scopes = []string{"read"} }, "scope=read&-nonce"},
		{"no scopes", func(r *broker.AuthorizationRequest) { r.Scopes = nil }, "-scope&-nonce"},
		{"no challenge", func(r *broker.AuthorizationRequest) { r.CodeChallenge = "" }, "-code_challenge&-code_challenge_method"},
	}
	client := oauth.New(oauth.Config{})
	defer client.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := authorizationRequest()
			tt.change(&req)
			got, err := client.AuthorizationURL(req)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := url.ParseQuery(base)
			changes, _ := url.ParseQuery(tt.want)
			for name, values := range changes {
				if without, ok := strings.CutPrefix(name, "-"); ok {
					want.Del(without)
				} else {
					want[name] = values
				}
			}
			if got != "https://as.example/authorize?"+want.Encode() {
				t.Errorf("AuthorizationURL = %s\nwant query %s", got, want.Encode())
			}
		})
	}
}

func TestAuthorizationURLsThatAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*broker.AuthorizationRequest)
		reason broker.Reason
	}{
		{"http", func(r *broker.AuthorizationRequest) { r.Endpoint = "http://as.example/authorize" }, broker.ReasonUpstreamAddressRefused},
		{"script", func(r *broker.AuthorizationRequest) { r.Endpoint = "javascript:alert(1)" }, broker.ReasonUpstreamAddressRefused},
		{"user", func(r *broker.AuthorizationRequest) { r.Endpoint = "https://x@as.example/" }, broker.ReasonUpstreamAddressRefused},
		{"secret", func(r *broker.AuthorizationRequest) { r.Parameters = map[string]string{"client_secret": "x"} }, broker.ReasonInvalidRequest},
		{"state", func(r *broker.AuthorizationRequest) { r.Parameters = map[string]string{"State": "x"} }, broker.ReasonInvalidRequest},
		{"request_uri", func(r *broker.AuthorizationRequest) { r.Parameters = map[string]string{"request_uri": "x"} }, broker.ReasonInvalidRequest},
		{"long", func(r *broker.AuthorizationRequest) { r.Scopes = []string{strings.Repeat("x", 9<<10)} }, broker.ReasonInvalidRequest},
		{"unknown profile", func(r *broker.AuthorizationRequest) { r.Provider = "nobody" }, broker.ReasonProviderUnknown},
	}
	client := oauth.New(oauth.Config{})
	defer client.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := authorizationRequest()
			tt.change(&req)
			_, err := client.AuthorizationURL(req)
			wantReason(t, err, tt.reason, "")
		})
	}
}

// TestAuthorizationURLOfAProfile has each way in which providers differ.
func TestAuthorizationURLOfAProfile(t *testing.T) {
	folder := t.TempDir()
	definition := `name: odd
title: Odd
sources: ["https://odd.example/docs"]
variables: {team: {description: The team., example: "7"}}
endpoints: {token: "https://odd.example/token", authorization: "https://odd.example/authorize"}
grants: [authorization_code]
authentication: {methods: [client_secret_post]}
consent: {values: {access_type: offline, team: "{team}"}, scope_name: user_scope, scope_separator: ",", pkce: refused}
`
	if err := os.WriteFile(filepath.Join(folder, "odd.yaml"), []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	profiles, err := profile.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	client := oauth.New(oauth.Config{Profiles: profiles})
	defer client.Close()
	req := authorizationRequest()
	req.Provider, req.ProviderVariables, req.Scopes = "odd", map[string]string{"team": "7"}, []string{"read", "write"}
	req.Parameters = map[string]string{"access_type": "online"}
	got, err := client.AuthorizationURL(req)
	if err != nil {
		t.Fatal(err)
	}
	want := "https://as.example/authorize?access_type=online&client_id=reports&redirect_uri=https%3A%2F%2Fbroker.example%2Fcallback" +
		"&response_type=code&state=st&team=7&user_scope=read%2Cwrite"
	if got != want {
		t.Errorf("AuthorizationURL = %s, want %s", got, want)
	}
}
