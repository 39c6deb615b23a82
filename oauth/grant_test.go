package oauth_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// profiles returns the built-in profiles and others, by name, without what each has to
// say that is about no request.
func profiles(t testing.TB, yaml map[string]string) *profile.Set {
	t.Helper()
	folder := t.TempDir()
	for name, text := range yaml {
		whole := "name: " + name + "\ntitle: A test\nendpoints: {token: 'https://as.example/token'}\n" + text
		if err := os.WriteFile(filepath.Join(folder, name+".yaml"), []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := profile.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// dumped returns a request as it came, without what all have.
func dumped(r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	lines := []string{r.Method + " " + r.URL.RequestURI()}
	usual := map[string]string{"Accept": "application/json", "User-Agent": "tokenbroker/1"}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if value := strings.Join(r.Header[name], ", "); name != "Content-Length" && value != usual[name] {
			lines = append(lines, name+": "+value)
		}
	}
	text := strings.Join(append(lines, string(body)), "\n")
	return regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`).ReplaceAllString(text, "JWT")
}

const (
	formType = "Content-Type: application/x-www-form-urlencoded\n"
	jsonType = "Content-Type: application/json\n"
	basic    = "Authorization: Basic cmVwb3J0czpzM2NyZXQ=\n" // reports:s3cret
)

// TestRequestsOfEachGrant compares what goes over the wire, byte by byte.
func TestRequestsOfEachGrant(t *testing.T) {
	s := secret.NewString
	set := profiles(t, map[string]string{
		"renamed": `
request:
  names: {client_id: ClientId, client_secret: Secret, grant_type: "", scope: Rights, code: Code}
  scope_separator: ","
  headers: {X-Version: "2", Accept: application/vnd.test+json}
  format: json
authentication: {methods: [client_secret_post]}
`,
		"query": "request: {format: query, method: GET}\nauthentication: {methods: [client_secret_post]}\n",
		"values": `
variables: {tenant: {description: A tenant., example: acme}}
request:
  values: {grant_type: account_credentials, account: "{tenant}", plan: basic, empty: ""}
`,
		"audience": "request: {resource_as: audience}\n",
		"refreshes": `
grants: [authorization_code, refresh_token]
request:
  names: {client_id: id}
  values: {api: "1", grant_type: login}
refresh:
  names: {refresh_token: RefreshToken, access_token: Token}
  values: {api: "2", more: "yes"}
  unauthenticated: true
`,
		"by-access-token": "refresh: {with: access_token, names: {access_token: token}}\n",
		"assertion": `
grants: [jwt_bearer]
authentication:
  methods: [none]
  assertion_claims: {scope: "{scope}"}
request: {names: {scope: ""}}
`,
	})
	var got string
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = dumped(r)
		answer(200, `{"access_token":"at","Token":"at","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`)(w, r)
	}, func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set })
	tests := []struct {
		name   string
		change func(*broker.TokenRequest)
		want   string
	}{
		{"client credentials", func(*broker.TokenRequest) {}, "POST /token\n" + basic + formType + "grant_type=client_credentials"},
		{"authorization code", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.AuthorizationCode, Code: s("c/1"), CodeVerifier: s("v-1"), RedirectURI: "https://app.example/cb"}
		}, "POST /token\n" + basic + formType + "code=c%2F1&code_verifier=v-1&grant_type=authorization_code&redirect_uri=https%3A%2F%2Fapp.example%2Fcb"},
		{"authorization code of a public client", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.AuthorizationCode, Code: s("c"), CodeVerifier: s("v")}
			r.Authentication.Method, r.Secret = broker.NoAuthentication, secret.Value{}
		}, "POST /token\n" + formType + "client_id=reports&code=c&code_verifier=v&grant_type=authorization_code"},
		{"refresh token", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("r+1"), AccessToken: s("not sent")}
		}, "POST /token\n" + basic + formType + "grant_type=refresh_token&refresh_token=r%2B1"},
		{"refresh token with scopes", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("r")}
			r.Scopes = []string{"a", "b"}
		}, "POST /token\n" + basic + formType + "grant_type=refresh_token&refresh_token=r&scope=a+b"},
		{"device code", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.DeviceCode, DeviceCode: s("d")}
		}, "POST /token\n" + basic + formType + "device_code=d&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code"},
		{"password", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.Password, Username: "ann", UserPassword: s("p w")}
		}, "POST /token\n" + basic + formType + "grant_type=password&password=p+w&username=ann"},
		{"token exchange", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.TokenExchange, SubjectToken: s("st"), SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt"}
			r.Scopes, r.Audience, r.Resources = []string{"a"}, "aud", []string{"https://r1", "https://r2"}
			r.Parameters = map[string]string{"requested_token_type": "t"}
		}, "POST /token\n" + basic + formType + "audience=aud&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange" +
			"&requested_token_type=t&resource=https%3A%2F%2Fr1&resource=https%3A%2F%2Fr2&scope=a&subject_token=st" +
			"&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"},
		{"jwt bearer", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.JWTBearer}
			r.Authentication.Method, r.Secret, r.Scopes = broker.NoAuthentication, s(keyJWK(t)), []string{"a", "b"}
		}, "POST /token\n" + formType + "assertion=JWT&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&scope=a+b"},
		{"jwt bearer with client assertion", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.JWTBearer}
			r.Authentication.Method, r.Secret = broker.PrivateKeyJWT, s(keyJWK(t))
		}, "POST /token\n" + formType + "assertion=JWT&client_assertion=JWT&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer" +
			"&client_id=reports&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"},
		{"scopes in the assertion", func(r *broker.TokenRequest) {
			r.Provider, r.Grant = "assertion", broker.GrantParameters{Type: broker.JWTBearer}
			r.Authentication.Method, r.Secret, r.Scopes = broker.NoAuthentication, s(keyJWK(t)), []string{"a"}
		}, "POST /token\n" + formType + "assertion=JWT&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"},
		{"dpop", func(r *broker.TokenRequest) { r.Grant.DPoPProof = "eyJh.eyJh.c2ln" }, "POST /token\n" + basic + formType + "Dpop: JWT\ngrant_type=client_credentials"},
		{"json, renamed", func(r *broker.TokenRequest) {
			r.Provider, r.Authentication.Method, r.Secret = "renamed", broker.ClientSecretPost, s(`a"<&`)
			r.Scopes, r.Resources = []string{"a", "b"}, []string{"r1", "r2"}
		}, "POST /token\nAccept: application/vnd.test+json\n" + jsonType + "X-Version: 2\n" +
			`{"ClientId":"reports","Rights":"a,b","Secret":"a\"<&","resource":["r1","r2"]}`},
		{"json, code", func(r *broker.TokenRequest) {
			r.Provider, r.Grant = "renamed", broker.GrantParameters{Type: broker.AuthorizationCode, Code: s("c")}
		}, "POST /token\nAccept: application/vnd.test+json\n" + basic + jsonType + "X-Version: 2\n" + `{"Code":"c"}`},
		{"query", func(r *broker.TokenRequest) {
			r.Provider, r.Authentication.Method = "query", broker.ClientSecretPost
		}, "GET /token?client_id=reports&client_secret=s3cret&grant_type=client_credentials\n"},
		{"values", func(r *broker.TokenRequest) {
			r.Provider, r.ProviderVariables, r.Parameters = "values", map[string]string{"tenant": "a b"}, map[string]string{"plan": "gold"}
		}, "POST /token\n" + basic + formType + "account=a+b&grant_type=account_credentials&plan=gold"},
		{"resources as audiences", func(r *broker.TokenRequest) {
			r.Provider, r.Audience, r.Resources = "audience", "a1", []string{"r1", "r2"}
		}, "POST /token\n" + basic + formType + "audience=a1&audience=r1&audience=r2&grant_type=client_credentials"},
		{"refresh, otherwise", func(r *broker.TokenRequest) {
			r.Provider, r.Grant = "refreshes", broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("r"), AccessToken: s("a")}
		}, "POST /token\n" + formType + "RefreshToken=r&Token=a&api=2&grant_type=refresh_token&more=yes"},
		{"no refresh, otherwise", func(r *broker.TokenRequest) {
			r.Provider, r.Authentication.Method = "refreshes", broker.ClientSecretPost
			r.Grant = broker.GrantParameters{Type: broker.AuthorizationCode, Code: s("c")}
		}, "POST /token\n" + formType + "api=1&client_secret=s3cret&code=c&grant_type=login&id=reports"},
		{"refresh with the access token", func(r *broker.TokenRequest) {
			r.Provider, r.Grant = "by-access-token", broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("not sent"), AccessToken: s("a")}
		}, "POST /token\n" + basic + formType + "grant_type=refresh_token&token=a"},
		{"aspire, login", func(r *broker.TokenRequest) {
			r.Provider, r.Authentication.Method, r.Scopes = "aspire", broker.ClientSecretPost, []string{"jobs"}
		}, "POST /token\n" + jsonType + `{"ClientId":"reports","Secret":"s3cret"}`},
		{"aspire, refresh", func(r *broker.TokenRequest) {
			r.Provider, r.Grant = "aspire", broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: s("r")}
		}, "POST /token\n" + jsonType + `{"RefreshToken":"r"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := tokenRequest(server)
			req.Secret = s("s3cret")
			tt.change(&req)
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("sent\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestRequestsThatAreNotSent: what lacks something, or would let a setting stand in for a
// credential.
func TestRequestsThatAreNotSent(t *testing.T) {
	set := profiles(t, map[string]string{
		"renamed": "request: {names: {client_secret: Secret, scope: Rights}}\n",
	})
	sent := false
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sent = true
		answer(200, `{"access_token":"at"}`)(w, r)
	}, func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set })
	grant := func(g broker.GrantParameters) func(*broker.TokenRequest) {
		return func(r *broker.TokenRequest) { r.Grant = g }
	}
	parameter := func(name string) func(*broker.TokenRequest) {
		return func(r *broker.TokenRequest) {
			r.Provider, r.Scopes, r.Parameters = "renamed", []string{"a"}, map[string]string{name: "x"}
		}
	}
	tests := []struct {
		name   string
		change func(*broker.TokenRequest)
		reason broker.Reason
		text   string
	}{
		{"no such profile", func(r *broker.TokenRequest) { r.Provider = "nobody" }, broker.ReasonProviderUnknown, `"nobody"`},
		{"no such grant", grant(broker.GrantParameters{Type: "implicit"}), broker.ReasonInvalidRequest, "grant_type"},
		{"no code", grant(broker.GrantParameters{Type: broker.AuthorizationCode}), broker.ReasonInvalidRequest, "code: is missing"},
		{"no device code", grant(broker.GrantParameters{Type: broker.DeviceCode}), broker.ReasonInvalidRequest, "device_code: is missing"},
		{"no refresh token", grant(broker.GrantParameters{Type: broker.RefreshToken}), broker.ReasonInvalidRequest, "refresh_token: is missing"},
		{"no subject token", grant(broker.GrantParameters{Type: broker.TokenExchange}), broker.ReasonInvalidRequest, "subject_token: is missing"},
		{"no password", grant(broker.GrantParameters{Type: broker.Password, Username: "ann"}), broker.ReasonInvalidRequest, "password: is missing"},
		{"subject token of a megabyte", grant(broker.GrantParameters{Type: broker.TokenExchange, SubjectToken: secret.NewString(strings.Repeat("a", 1<<20))}), broker.ReasonInvalidRequest, "subject_token: has 1048576 bytes"},
		{"assertion without a key", grant(broker.GrantParameters{Type: broker.JWTBearer}), broker.ReasonInvalidRequest, "jwt_bearer needs none, private_key_jwt"},
		{"assertion with no key", func(r *broker.TokenRequest) {
			r.Grant.Type, r.Authentication.Method = broker.JWTBearer, broker.NoAuthentication
		}, broker.ReasonSecretUnusable, ""},
		{"parameter with the server's name of the secret", parameter("secret"), broker.ReasonInvalidRequest, `"secret"`},
		{"parameter with the server's name of the scope", parameter("Rights"), broker.ReasonInvalidRequest, `"Rights"`},
		{"parameter of the grant", func(r *broker.TokenRequest) {
			r.Grant = broker.GrantParameters{Type: broker.DeviceCode, DeviceCode: secret.NewString("d")}
			r.Parameters = map[string]string{"device_code": "x"}
		}, broker.ReasonInvalidRequest, `"device_code"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := tokenRequest(server)
			tt.change(&req)
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, tt.reason, tt.text)
		})
	}
	if sent {
		t.Error("a request was sent")
	}
}

// TestSpecialCharactersInEachFormat: what is sent is what a server reads, in every format
// and whatever it is called.
func TestSpecialCharactersInEachFormat(t *testing.T) {
	set := profiles(t, map[string]string{
		"form":  "request: {names: {client_secret: 'the[secret]'}}\n",
		"json":  "request: {format: json, names: {client_secret: 'the[secret]'}}\n",
		"query": "request: {format: query, method: GET, names: {client_secret: 'the[secret]'}}\n",
	})
	var got map[string]string
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = make(map[string]string)
		if r.Header.Get("Content-Type") == "application/json" {
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
		} else if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		for name := range r.Form {
			got[name] = r.Form.Get(name)
		}
		answer(200, `{"access_token":"at"}`)(w, r)
	}, func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set })
	for _, format := range []string{"form", "json", "query"} {
		for _, value := range specialSecrets {
			req := tokenRequest(server)
			req.Provider, req.Authentication.Method, req.Secret = format, broker.ClientSecretPost, secret.NewString(value)
			req.Grant = broker.GrantParameters{Type: broker.RefreshToken, RefreshToken: secret.NewString(value)}
			if _, err := client.RequestToken(t.Context(), req); err != nil {
				t.Fatalf("%s with %q: %v", format, value, err)
			}
			want := map[string]string{"grant_type": "refresh_token", "client_id": "reports", "the[secret]": value, "refresh_token": value}
			if !maps.Equal(got, want) {
				t.Errorf("%s: the server read %q, want %q", format, got, want)
			}
		}
	}
}

// TestQueryIsSentOnce: net/http repeats a GET by itself when a kept connection ends, but
// a code or a refresh token may be good once only.
func TestQueryIsSentOnce(t *testing.T) {
	set := profiles(t, map[string]string{"query": "request: {format: query, method: GET}\n"})
	requests := 0
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			answer(200, `{"access_token":"at"}`)(w, r)
			return
		}
		panic(http.ErrAbortHandler)
	}, func(_ *httptest.Server, cfg *oauth.Config) { cfg.Profiles = set })
	req := tokenRequest(server)
	req.Provider = "query"
	if _, err := client.RequestToken(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonUpstreamConnect, "")
	if requests != 2 {
		t.Errorf("%d requests were sent, want 2", requests)
	}
}
