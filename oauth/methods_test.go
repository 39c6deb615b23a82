package oauth_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// secretFor is a secret that fits the method.
func secretFor(t *testing.T, method broker.AuthenticationMethod) secret.Value {
	t.Helper()
	switch method {
	case broker.PrivateKeyJWT, broker.PrivateKeyBearer:
		return secret.NewString(keyJWK(t))
	case broker.ClientSecretJWT:
		return secret.NewString(strings.Repeat(canary, 3))
	case broker.TLSClientAuth, broker.SelfSignedTLSClientAuth:
		return secret.NewString(clientPEM(t))
	case broker.NoAuthentication:
		return secret.Value{}
	}
	return secret.NewString(canary)
}

func TestEveryMethodsSecretFits(t *testing.T) {
	for _, method := range broker.AuthenticationMethods() {
		if err := oauth.CheckSecret(broker.Authentication{Method: method}, secretFor(t, method)); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestClientSecretJWT(t *testing.T) {
	client, server, last := capture(t)
	long := strings.Repeat("canary-7f3a9c-", 5) // 70 bytes
	for _, alg := range []jose.SignatureAlgorithm{"", jose.HS256, jose.HS384, jose.HS512} {
		req := tokenRequest(server)
		req.Secret = secret.NewString(long)
		req.Authentication = broker.Authentication{Method: broker.ClientSecretJWT, SigningAlgorithm: string(alg), AssertionAudience: "https://issuer.example"}
		if _, err := client.RequestToken(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		form := last.Load().form
		if alg == "" {
			alg = jose.HS256
		}
		signed, err := jose.ParseSignedCompact(form.Get("client_assertion"), []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		payload, err := signed.Verify([]byte(long))
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		var claims map[string]any
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		if claims["iss"] != "reports" || claims["sub"] != "reports" || claims["aud"] != "https://issuer.example" || claims["jti"] == "" {
			t.Errorf("claims = %v", claims)
		}
		if form.Has("client_secret") || form.Get("client_id") != "reports" {
			t.Errorf("form = %v", form)
		}
	}
}

func TestSecretsTooShortToSign(t *testing.T) {
	for alg, least := range map[string]int{"": 32, "HS256": 32, "HS384": 48, "HS512": 64} {
		auth := broker.Authentication{Method: broker.ClientSecretJWT, SigningAlgorithm: alg}
		if err := oauth.CheckSecret(auth, secret.NewString(strings.Repeat("c", least))); err != nil {
			t.Errorf("%q with %d bytes: %v", alg, least, err)
		}
		err := oauth.CheckSecret(auth, secret.NewString("canary"+strings.Repeat("c", least-7)))
		wantReason(t, err, broker.ReasonSecretUnusable, "needs at least")
	}
	err := oauth.CheckSecret(broker.Authentication{Method: broker.ClientSecretJWT, SigningAlgorithm: "RS256"}, secret.NewString(strings.Repeat("c", 64)))
	wantReason(t, err, broker.ReasonSecretUnusable, "RS256 cannot be signed with a client secret")
}

func TestPrivateKeyBearer(t *testing.T) {
	client, server, last := capture(t)
	req := tokenRequest(server)
	req.Authentication = broker.Authentication{Method: broker.PrivateKeyBearer}
	req.Secret = secret.NewString(pkcs8(t, keys().rsa))
	if _, err := client.RequestToken(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	token, ok := strings.CutPrefix(last.Load().header.Get("Authorization"), "Bearer ")
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if !ok || err != nil {
		t.Fatalf("Authorization = %q: %v", last.Load().header.Get("Authorization"), err)
	}
	payload, err := signed.Verify(keys().rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Issuer  string `json:"iss"`
		Issued  int64  `json:"iat"`
		Expires int64  `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	if claims.Issuer != "reports" || claims.Issued > now-30 || claims.Expires > now+10*60 || claims.Expires-claims.Issued > 10*60 {
		t.Errorf("claims = %+v at %d", claims, now)
	}
	if form := last.Load().form; form.Has("client_id") || form.Has("client_assertion") {
		t.Errorf("form = %v", form)
	}
}

// TestSecretOfNoAuthentication is none, or a key for assertions.
func TestSecretOfNoAuthentication(t *testing.T) {
	auth := broker.Authentication{Method: broker.NoAuthentication}
	for _, value := range []string{"", keyJWK(t), pkcs8(t, keys().rsa)} {
		if err := oauth.CheckSecret(auth, secret.NewString(value)); err != nil {
			t.Error(err)
		}
	}
	wantReason(t, oauth.CheckSecret(auth, secret.NewString(canary)), broker.ReasonSecretUnusable, "none")
}
