package authserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
)

func newKey(t *testing.T, kid string) (jose.JSONWebKey, jose.JSONWebKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: key, KeyID: kid}
	return private, private.Public()
}

func sign(t *testing.T, key crypto.PrivateKey, alg jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestAssertions(t *testing.T) {
	private, public := newKey(t, "k1")
	stranger, _ := newKey(t, "k1")
	otherName, _ := newKey(t, "k2")
	otherName.Key = private.Key
	server, _ := start(t, func(cfg *authserver.Config) {
		cfg.Clients = append(cfg.Clients, authserver.Client{ID: "signer", Keys: []jose.JSONWebKey{public}})
	})
	now := time.Now().Unix()
	claims := func(changes map[string]any) map[string]any {
		all := map[string]any{
			"iss": "signer", "sub": "signer", "aud": server.TokenEndpoint(), "jti": rand.Text(), "iat": now, "exp": now + 60,
		}
		maps.Copy(all, changes)
		maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
		return all
	}
	tests := []struct {
		name      string
		assertion string
		extra     string
		want      string
	}{
		{name: "good", assertion: sign(t, private, jose.ES256, claims(nil))},
		{name: "with client_id", assertion: sign(t, private, jose.ES256, claims(nil)), extra: "&client_id=signer"},
		{name: "without kid", assertion: sign(t, private.Key, jose.ES256, claims(nil))},
		{name: "for the issuer", assertion: sign(t, private, jose.ES256, claims(map[string]any{"aud": []string{"x", "http://" + hostOf(t, server.TokenEndpoint())}}))},
		{name: "another client_id", assertion: sign(t, private, jose.ES256, claims(nil)), extra: "&client_id=reports", want: "invalid_client"},
		{name: "another key", assertion: sign(t, stranger, jose.ES256, claims(nil)), want: "invalid_client"},
		{name: "unknown kid", assertion: sign(t, otherName, jose.ES256, claims(nil)), want: "invalid_client"},
		{name: "symmetric", assertion: sign(t, make([]byte, 32), jose.HS256, claims(nil)), want: "invalid_client"},
		{name: "another audience", assertion: sign(t, private, jose.ES256, claims(map[string]any{"aud": "https://elsewhere"})), want: "invalid_client"},
		{name: "no audience", assertion: sign(t, private, jose.ES256, claims(map[string]any{"aud": nil})), want: "invalid_client"},
		{name: "expired", assertion: sign(t, private, jose.ES256, claims(map[string]any{"exp": now - 1})), want: "invalid_client"},
		{name: "no exp", assertion: sign(t, private, jose.ES256, claims(map[string]any{"exp": nil})), want: "invalid_client"},
		{name: "lives too long", assertion: sign(t, private, jose.ES256, claims(map[string]any{"exp": now + 3600})), want: "invalid_client"},
		{name: "from the future", assertion: sign(t, private, jose.ES256, claims(map[string]any{"iat": now + 120})), want: "invalid_client"},
		{name: "not yet", assertion: sign(t, private, jose.ES256, claims(map[string]any{"nbf": now + 120})), want: "invalid_client"},
		{name: "no jti", assertion: sign(t, private, jose.ES256, claims(map[string]any{"jti": nil})), want: "invalid_client"},
		{name: "another issuer", assertion: sign(t, private, jose.ES256, claims(map[string]any{"iss": "x"})), want: "invalid_client"},
		{name: "unknown subject", assertion: sign(t, private, jose.ES256, claims(map[string]any{"sub": "x"})), want: "invalid_client"},
		{name: "client without keys", assertion: sign(t, private, jose.ES256, claims(map[string]any{"sub": "reports", "iss": "reports"})), want: "invalid_client"},
		{name: "garbage", assertion: "eyJ.x.y", want: "invalid_client"},
	}
	const form = "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion="
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, body := ask{body: form + tt.assertion + tt.extra}.do(t, server.TokenEndpoint())
			if got, _ := body["error"].(string); got != tt.want {
				t.Errorf("error = %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("replayed", func(t *testing.T) {
		once := sign(t, private, jose.ES256, claims(nil))
		for i, want := range []string{"", "invalid_client"} {
			_, body := ask{body: form + once}.do(t, server.TokenEndpoint())
			if got, _ := body["error"].(string); got != want {
				t.Errorf("use %d: error = %q, want %q", i+1, got, want)
			}
		}
	})
	t.Run("another type", func(t *testing.T) {
		_, body := ask{body: "grant_type=client_credentials&client_assertion_type=x&client_assertion=y"}.do(t, server.TokenEndpoint())
		if got := body["error"]; got != "invalid_request" {
			t.Errorf("error = %v, want invalid_request", got)
		}
	})
	t.Run("withdrawn key", func(t *testing.T) {
		if err := server.SetKeys("signer"); err != nil {
			t.Fatal(err)
		}
		_, body := ask{body: form + sign(t, private, jose.ES256, claims(nil))}.do(t, server.TokenEndpoint())
		if got := body["error"]; got != "invalid_client" {
			t.Errorf("error = %v, want invalid_client", got)
		}
	})
}

func TestPrivateKeysAreNotRegistered(t *testing.T) {
	private, _ := newKey(t, "k1")
	server, _ := start(t, nil)
	if err := server.AddClient(authserver.Client{ID: "signer", Keys: []jose.JSONWebKey{private}}); err == nil {
		t.Error("AddClient takes a private key")
	}
}

func hostOf(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
