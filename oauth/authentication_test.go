package oauth_test

import (
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// specialSecrets are what encodings go wrong on.
var specialSecrets = []string{
	"plain", "%", "+", "=", "/", "~", "!", ":", "a b", " ", "ü", `"`, "%2B", "a+b%20c", "&x=y", "?#", "*'()", `\`, canary,
}

func TestSpecialCharactersArriveAtAStrictServer(t *testing.T) {
	server, err := authserver.Start(t.Context(), "127.0.0.1:0", authserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	for _, value := range specialSecrets {
		id := "client-" + value
		if err := server.AddClient(authserver.Client{ID: id, Secrets: []secret.Value{secret.NewString(value)}, Scopes: []string{"b", "a"}}); err != nil {
			t.Fatal(err)
		}
		for _, method := range []broker.AuthenticationMethod{broker.ClientSecretBasic, broker.ClientSecretPost} {
			req := requestTo(server.TokenEndpoint())
			req.ClientID, req.Secret, req.Scopes = id, secret.NewString(value), []string{"a", "b"}
			req.Authentication.Method = method
			got, err := client.RequestToken(t.Context(), req)
			if err != nil {
				t.Errorf("%s with %q: %v", method, value, err)
				continue
			}
			if !slices.Equal(got.Scopes, req.Scopes) || got.ExpiresIn == nil || *got.ExpiresIn != 5*time.Minute {
				t.Errorf("%s: answer = %+v", method, got)
			}
		}
	}
}

func TestRejectionsOfAStrictServer(t *testing.T) {
	server, err := authserver.Start(t.Context(), "127.0.0.1:0", authserver.Config{Clients: []authserver.Client{{
		ID: "reports", Secrets: []secret.Value{secret.NewString(canary)}, Scopes: []string{"read"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	tests := []struct {
		name   string
		change func(*broker.TokenRequest)
		reason broker.Reason
		text   string
	}{
		{"wrong secret", func(r *broker.TokenRequest) { r.Secret = secret.NewString("canary-wrong") }, broker.ReasonClientRejected, "401 with invalid_client"},
		{"wrong id", func(r *broker.TokenRequest) { r.ClientID = "nobody" }, broker.ReasonClientRejected, "invalid_client"},
		{"raw", func(r *broker.TokenRequest) { r.Authentication.Method = broker.ClientSecretBasicRaw }, broker.ReasonRequestRejected, "not form-encoded"},
		{"scope", func(r *broker.TokenRequest) { r.Scopes = []string{"write"} }, broker.ReasonScopeRejected, "invalid_scope"},
		{"path", func(r *broker.TokenRequest) { r.Endpoint += "s" }, broker.ReasonUpstreamRefused, "404"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := requestTo(server.TokenEndpoint())
			tt.change(&req)
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, tt.reason, tt.text)
		})
	}
}

// seen is a request as a server got it.
type seen struct {
	header http.Header
	form   url.Values
	query  string
	// certificate says that the connection presented one.
	certificate bool
}

func capture(t *testing.T) (*oauth.Client, *httptest.Server, *atomic.Pointer[seen]) {
	t.Helper()
	var last atomic.Pointer[seen]
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		last.Store(&seen{r.Header.Clone(), form, r.URL.RawQuery, len(r.TLS.PeerCertificates) > 0})
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "x"})
		answer(200, `{"access_token":"at"}`)(w, r)
	}, func(s *httptest.Server, _ *oauth.Config) { s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert} })
	return client, server, &last
}

func TestOneMethodPerRequest(t *testing.T) {
	client, server, last := capture(t)
	for _, method := range broker.AuthenticationMethods() {
		t.Run(string(method), func(t *testing.T) {
			req := tokenRequest(server)
			req.Authentication.Method = method
			req.Secret = secretFor(t, method)
			for range 2 { // the second would bring a cookie along
				if _, err := client.RequestToken(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			}
			got := last.Load()
			methods := 0
			for _, used := range []bool{got.header.Get("Authorization") != "", got.form.Has("client_secret"), got.form.Has("client_assertion")} {
				if used {
					methods++
				}
			}
			want := 1
			switch method {
			case broker.TLSClientAuth, broker.SelfSignedTLSClientAuth, broker.NoAuthentication:
				want = 0
				if got.form.Get("client_id") != req.ClientID {
					t.Errorf("form = %v, want the client_id", got.form)
				}
			}
			if methods != want || got.certificate != (method == broker.TLSClientAuth || method == broker.SelfSignedTLSClientAuth) {
				t.Errorf("%d methods in %v %v, certificate: %t", methods, got.header, got.form, got.certificate)
			}
			if got.form.Get("grant_type") != "client_credentials" || got.form.Has("scope") || got.query != "" {
				t.Errorf("form = %v, query = %q", got.form, got.query)
			}
			for name, want := range map[string]string{
				"Accept": "application/json", "User-Agent": "tokenbroker/1", "Cookie": "",
				"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "",
			} {
				if got := got.header.Get(name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestBasicOnTheWire(t *testing.T) {
	client, server, last := capture(t)
	tests := []struct {
		method       broker.AuthenticationMethod
		id, value    string
		wantDecoded  string
		wantUnusable bool
	}{
		{method: broker.ClientSecretBasic, id: "a:b c", value: "% + ~ü", wantDecoded: "a%3Ab+c:%25+%2B+~%C3%BC"},
		{method: broker.ClientSecretBasicRaw, id: "ab", value: "% + ~:ü", wantDecoded: "ab:% + ~:ü"},
		{method: broker.ClientSecretBasicRaw, id: "a:b", value: canary, wantUnusable: true},
	}
	for _, tt := range tests {
		req := tokenRequest(server)
		req.Authentication.Method, req.ClientID, req.Secret = tt.method, tt.id, secret.NewString(tt.value)
		_, err := client.RequestToken(t.Context(), req)
		if tt.wantUnusable {
			wantReason(t, err, broker.ReasonSecretUnusable, "colon")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		encoded, _ := strings.CutPrefix(last.Load().header.Get("Authorization"), "Basic ")
		if got, _ := base64.StdEncoding.DecodeString(encoded); string(got) != tt.wantDecoded {
			t.Errorf("%s sends %q, want %q", tt.method, got, tt.wantDecoded)
		}
	}
}

func TestParameters(t *testing.T) {
	client, server, last := capture(t)
	req := tokenRequest(server)
	req.Scopes, req.Audience, req.Resources = []string{"a", "b"}, "https://api", []string{"https://r1", "https://r2"}
	req.Parameters = map[string]string{"tenant": "x y"}
	if _, err := client.RequestToken(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"grant_type": {"client_credentials"}, "scope": {"a b"}, "audience": {"https://api"},
		"resource": {"https://r1", "https://r2"}, "tenant": {"x y"},
	}
	if got := last.Load().form; got.Encode() != want.Encode() {
		t.Errorf("form = %v, want %v", got, want)
	}
	last.Store(nil)
	for _, name := range []string{"grant_type", "scope", "client_id", "Client_Secret", "client_assertion", "resource", "audience", "password"} {
		req.Parameters = map[string]string{name: "x"}
		_, err := client.RequestToken(t.Context(), req)
		wantReason(t, err, broker.ReasonInvalidRequest, name)
	}
	if last.Load() != nil {
		t.Error("a request was sent")
	}
}

func TestSecretsThatDoNotFitAreNotSent(t *testing.T) {
	client, server, last := capture(t)
	for method, value := range map[broker.AuthenticationMethod]string{
		broker.ClientSecretBasic: keyJWK(t), broker.ClientSecretPost: pkcs8(t, keys().p256),
		broker.ClientSecretBasicRaw: "canary\n", broker.PrivateKeyJWT: canary,
	} {
		req := tokenRequest(server)
		req.Authentication.Method, req.Secret = method, secret.NewString(value)
		_, err := client.RequestToken(t.Context(), req)
		wantReason(t, err, broker.ReasonSecretUnusable, "")
	}
	req := tokenRequest(server)
	req.Authentication.Method = "magic"
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonInvalidRequest, "is not one of")
	if last.Load() != nil {
		t.Error("a request was sent")
	}
}

func TestAssertionsAtAStrictServer(t *testing.T) {
	server, err := authserver.Start(t.Context(), "127.0.0.1:0", authserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	k := keys()
	for name, tt := range map[string]struct {
		key  crypto.Signer
		algs []string
	}{
		"rsa": {k.rsa, []string{"", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}},
		"ec":  {k.p256, []string{"", "ES256"}}, "p384": {k.p384, []string{""}}, "p521": {k.p521, []string{""}},
		"ed": {k.ed, []string{"", "EdDSA"}},
	} {
		public := jose.JSONWebKey{Key: tt.key.Public(), KeyID: "kid-" + name}
		if err := server.AddClient(authserver.Client{ID: name, Keys: []jose.JSONWebKey{public}}); err != nil {
			t.Fatal(err)
		}
		for _, alg := range tt.algs {
			for _, audience := range []string{"", strings.TrimSuffix(server.TokenEndpoint(), authserver.TokenPath)} {
				req := requestTo(server.TokenEndpoint())
				req.ClientID, req.Secret = name, secret.NewString(pkcs8(t, tt.key))
				req.Authentication = broker.Authentication{
					Method: broker.PrivateKeyJWT, SigningAlgorithm: alg, KeyID: "kid-" + name, AssertionAudience: audience,
				}
				for range 2 { // a replayed jti would be refused
					if _, err := client.RequestToken(t.Context(), req); err != nil {
						t.Errorf("%s %s: %v", name, alg, err)
					}
				}
			}
		}
	}
	req := requestTo(server.TokenEndpoint())
	req.ClientID, req.Secret = "rsa", secret.NewString(pkcs8(t, k.p256))
	req.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT}
	_, err = client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonClientRejected, "invalid_client")
}

func TestAssertionClaims(t *testing.T) {
	client, server, last := capture(t)
	req := tokenRequest(server)
	req.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT}
	req.Secret = secret.NewString(keyJWK(t))
	if _, err := client.RequestToken(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	form := last.Load().form
	if got, want := form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"; got != want {
		t.Errorf("client_assertion_type = %q, want %q", got, want)
	}
	signed, err := jose.ParseSignedCompact(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if got := signed.Signatures[0].Protected.KeyID; got != "k1" {
		t.Errorf("kid = %q, want the JWK's", got)
	}
	payload, err := signed.Verify(keys().p256.Public())
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"iss": "reports", "sub": "reports", "aud": req.Endpoint} {
		if claims[name] != want {
			t.Errorf("%s = %v, want %v", name, claims[name], want)
		}
	}
	if _, there := claims["nbf"]; there || len(claims["jti"].(string)) < 20 {
		t.Errorf("claims = %v", claims)
	}
	issued, expires := claims["iat"].(float64), claims["exp"].(float64)
	if now := float64(time.Now().Unix()); expires-issued != 60 || issued > now || issued < now-5 {
		t.Errorf("iat = %v, exp = %v, now = %v", issued, expires, now)
	}
}
