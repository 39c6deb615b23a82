package oauth_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// makeKey returns what the rotator makes for a client with private_key_jwt.
func makeKey(t *testing.T, algorithm string, edits ...func(*broker.RotatorCall)) (secret.Value, error) {
	t.Helper()
	call := broker.RotatorCall{ID: "acme", Authentication: broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: algorithm}}
	call.Settings.Parameters = map[string]string{oauth.RSABitsParameter: "2048"} // quicker
	for _, edit := range edits {
		edit(&call)
	}
	return oauth.KeyPairRotator{MaxAge: time.Minute}.MakeSecret(call)
}

// TestMadeKeysWork signs with a made key at a strict server that knows the published
// half, for every algorithm.
func TestMadeKeysWork(t *testing.T) {
	server, err := authserver.Start(t.Context(), "127.0.0.1:0", authserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	defer client.Close()
	for _, algorithm := range append(broker.SigningAlgorithms(), "") {
		t.Run("algorithm "+algorithm, func(t *testing.T) {
			value, err := makeKey(t, algorithm)
			if err != nil {
				t.Fatal(err)
			}
			auth := broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: algorithm}
			if err := oauth.CheckSecret(auth, value); err != nil {
				t.Fatalf("CheckSecret: %v", err)
			}
			public := publicOf(t, value)
			if want := map[string]string{"": "RS256"}[algorithm] + algorithm; public.Algorithm != want || public.Use != "sig" {
				t.Errorf("the published key is for %s, use %s, want %s", public.Algorithm, public.Use, want)
			}
			id := "client-" + strings.ToLower(algorithm)
			if err := server.AddClient(authserver.Client{ID: id, Keys: []jose.JSONWebKey{public}}); err != nil {
				t.Fatal(err)
			}
			origin, err := broker.Origin(server.TokenEndpoint())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.RequestToken(t.Context(), broker.TokenRequest{
				Endpoint: server.TokenEndpoint(), Destinations: []string{origin}, ClientID: id, Authentication: auth, Secret: value,
			}); err != nil {
				t.Errorf("RequestToken: %v", err)
			}
		})
	}
}

// publicOf returns the published half, which is checked to hold nothing private and to
// have its thumbprint as id.
func publicOf(t *testing.T, value secret.Value) jose.JSONWebKey {
	t.Helper()
	text, err := oauth.PublicKey(value)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	var key jose.JSONWebKey
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatal(err)
	}
	if err := key.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := members[private]; ok {
			t.Errorf("the published key has %q", private)
		}
	}
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if want := base64.RawURLEncoding.EncodeToString(thumbprint); key.KeyID != want || !key.IsPublic() || !key.Valid() {
		t.Errorf("the published key has id %s, want %s; public %v", key.KeyID, want, key.IsPublic())
	}
	return key
}

// TestMadeKeysFollowThePresentOne where no algorithm is configured.
func TestMadeKeysFollowThePresentOne(t *testing.T) {
	for _, algorithm := range []string{"ES384", "EdDSA", "PS256"} {
		present, err := makeKey(t, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		next, err := makeKey(t, "", func(call *broker.RotatorCall) { call.Current = present })
		if err != nil {
			t.Fatal(err)
		}
		got := publicOf(t, next)
		if got.Algorithm != algorithm || got.KeyID == publicOf(t, present).KeyID {
			t.Errorf("after %s a key for %s was made, or the same", algorithm, got.Algorithm)
		}
		created, err := oauth.KeyPairRotator{}.Create(t.Context(), broker.RotatorCall{New: next})
		if err != nil || created.Handle != got.KeyID || !created.Value.IsZero() {
			t.Errorf("Create = %q, %v, want the id %q and no value", created.Handle, err, got.KeyID)
		}
	}
}

// TestRSABits follows the parameter.
func TestRSABits(t *testing.T) {
	for text, want := range map[string]int{"": 3072, "2048": 2048} {
		value, err := makeKey(t, "RS256", func(call *broker.RotatorCall) { call.Settings.Parameters[oauth.RSABitsParameter] = text })
		if err != nil {
			t.Fatal(err)
		}
		key, ok := publicOf(t, value).Key.(interface{ Size() int })
		if !ok || key.Size()*8 != want {
			t.Errorf("with %q bits the key has not %d", text, want)
		}
	}
}

func TestNoKeyIsMade(t *testing.T) {
	tests := []struct {
		name string
		edit func(*broker.RotatorCall)
		want string
	}{
		{"another method", func(c *broker.RotatorCall) { c.Authentication.Method = broker.ClientSecretPost }, "private_key_jwt"},
		{"a fixed key id", func(c *broker.RotatorCall) { c.Authentication.KeyID = "k" }, "key_id"},
		{"short", func(c *broker.RotatorCall) { c.Settings.Parameters[oauth.RSABitsParameter] = "1024" }, "2048"},
		{"no number", func(c *broker.RotatorCall) { c.Settings.Parameters[oauth.RSABitsParameter] = "many" }, "2048"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := makeKey(t, "RS256", test.edit)
			wantReason(t, err, broker.ReasonRotatorNotSet, test.want)
		})
	}
}

// TestPublicKeyForms takes each form in which operators have a key.
func TestPublicKeyForms(t *testing.T) {
	jwk, err := jose.JSONWebKey{Key: keys().p256, KeyID: "own-id", Use: "sig"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	text, err := oauth.PublicKey(secret.New(jwk))
	if err != nil || !strings.Contains(text, `"kid":"own-id"`) || strings.Contains(text, `"d"`) {
		t.Errorf("PublicKey = %q, %v", text, err)
	}
	_, err = oauth.PublicKey(secret.NewString("canary-no-key"))
	wantReason(t, err, broker.ReasonSecretUnusable, "neither")
	wantNoCanary(t, err)
}

// TestKeyPairTraits waits for whoever keeps the set.
func TestKeyPairTraits(t *testing.T) {
	traits := oauth.KeyPairRotator{MaxAge: 10 * time.Minute}.Traits(broker.RotationSettings{})
	if traits.Shape != broker.ShapeKeyPair || !traits.TakesChosen || traits.Propagation <= 10*time.Minute || traits.NeedsManagement {
		t.Errorf("the traits are %+v", traits)
	}
}
