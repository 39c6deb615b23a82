package oidcprovider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/oidcprovider"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	api    = "https://api.example"
	ledger = "https://ledger.example"
)

// answer is what the token endpoint says.
type answer struct {
	Status      int    `json:"-"`
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	Scope       string `json:"scope"`
	Error       string `json:"error"`
}

// ask sends one token request.
func ask(t *testing.T, server *oidcprovider.Server, form url.Values, user, password string) answer {
	t.Helper()
	form.Set("grant_type", "client_credentials")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.TokenEndpoint(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if user != "" {
		// RFC 6749, section 2.3.1: both parts are form-encoded first.
		request.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(password))
	}
	response, err := server.HTTPClient().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{Status: response.StatusCode}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("status %d, body %q: %v", response.StatusCode, body, err)
	}
	return got
}

// assertion signs a client assertion (RFC 7523).
func assertion(t *testing.T, clientID, audience string, key jose.SigningKey) url.Values {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: clientID, Subject: clientID, Audience: jwt.Audience{audience}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(time.Now()), Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return url.Values{
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {signed},
	}
}

// start starts a server that knows a client for each method.
func start(t *testing.T, plaintext bool) (*oidcprovider.Server, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	scopes := []string{"read", "write"}
	return oidcprovider.Start(t, oidcprovider.Config{
		InsecurePlaintext: plaintext,
		Clients: []oidcprovider.Client{
			{ID: "basic", Secret: "s3cr3t-basic", Scopes: scopes},
			{ID: "raw special:%+", Secret: "s3cr3t: %+/&=~", Scopes: scopes},
			{ID: "post", Secret: "s3cr3t-post", AuthMethod: oidcprovider.Post, Scopes: scopes},
			{ID: "secret-jwt", Secret: strings.Repeat("s3cr3t-j", 8), AuthMethod: oidcprovider.SecretJWT, Scopes: scopes},
			{ID: "key-jwt", AuthMethod: oidcprovider.PrivateKeyJWT, JWKS: jwks, Scopes: scopes},
		},
		Resources: []oidcprovider.Resource{
			{URI: api, Scopes: scopes},
			{URI: ledger, Scopes: []string{"read"}, Lifetime: 90 * time.Second, Opaque: true},
		},
	}), key
}

func TestEveryMethodGetsAToken(t *testing.T) {
	server, key := start(t, false)
	tests := []struct {
		name           string
		form           url.Values
		user, password string
	}{
		{name: "basic", user: "basic", password: "s3cr3t-basic"},
		{name: "post", form: url.Values{"client_id": {"post"}, "client_secret": {"s3cr3t-post"}}},
		{name: "secret jwt", form: assertion(t, "secret-jwt", server.Issuer(),
			jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("s3cr3t-j", 8))})},
		{name: "private key jwt", form: assertion(t, "key-jwt", server.Issuer(),
			jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}})},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			form := url.Values{"scope": {"read"}, "resource": {api}}
			for name, values := range test.form {
				form[name] = values
			}
			got := ask(t, server, form, test.user, test.password)
			if got.Status != http.StatusOK || got.TokenType != "Bearer" || got.ExpiresIn != 600 || got.Scope != "read" {
				t.Fatalf("got %+v, want a Bearer token for 600 s with scope read", got)
			}
			if audience := claims(t, got.AccessToken)["aud"]; audience != api {
				t.Errorf("got audience %v, want %s", audience, api)
			}
			if requests := server.Requests(); requests != i+1 {
				t.Errorf("got %d requests, want %d", requests, i+1)
			}
		})
	}
}

// claims decodes a JWT without checking it.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("the access token has %d parts, want a JWT", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(raw, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestRefusals(t *testing.T) {
	server, _ := start(t, true)
	tests := []struct {
		name   string
		form   url.Values
		secret string
		status int
		want   string
	}{
		{"wrong secret", url.Values{}, "wrong", http.StatusUnauthorized, "invalid_client"},
		{"unknown resource", url.Values{"resource": {"https://other.example"}}, "s3cr3t-basic", http.StatusBadRequest, "invalid_target"},
		{"unregistered scope", url.Values{"scope": {"admin"}}, "s3cr3t-basic", http.StatusOK, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := ask(t, server, test.form, "basic", test.secret)
			if got.Status != test.status || got.Error != test.want {
				t.Errorf("got status %d and error %q, want %d and %q", got.Status, got.Error, test.status, test.want)
			}
		})
	}
	if got := server.Requests(); got != len(tests) {
		t.Errorf("got %d requests, want %d: refused ones count", got, len(tests))
	}
}

func TestSpecialCharactersInBasic(t *testing.T) {
	server, _ := start(t, true)
	if got := ask(t, server, url.Values{}, "raw special:%+", "s3cr3t: %+/&=~"); got.Status != http.StatusOK {
		t.Errorf("got %+v, want a token", got)
	}
}

func TestResourceDecidesFormatAndLifetime(t *testing.T) {
	server, _ := start(t, true)
	got := ask(t, server, url.Values{"scope": {"read write"}, "resource": {ledger}}, "basic", "s3cr3t-basic")
	if got.Status != http.StatusOK || got.ExpiresIn != 90 || got.Scope != "read" || strings.Contains(got.AccessToken, ".") {
		t.Errorf("got %+v, want an opaque token for 90 s with scope read", got)
	}
}

func TestChangedSecretTakesEffectAtOnce(t *testing.T) {
	server, _ := start(t, true)
	if got := ask(t, server, url.Values{}, "basic", "s3cr3t-basic"); got.Status != http.StatusOK {
		t.Fatalf("before: got %+v, want a token", got)
	}
	server.PutClient(oidcprovider.Client{ID: "basic", Secret: "s3cr3t-new", Scopes: []string{"read"}})
	if got := ask(t, server, url.Values{}, "basic", "s3cr3t-basic"); got.Error != "invalid_client" {
		t.Errorf("old secret: got %+v, want invalid_client", got)
	}
	if got := ask(t, server, url.Values{}, "basic", "s3cr3t-new"); got.Status != http.StatusOK {
		t.Errorf("new secret: got %+v, want a token", got)
	}
}
