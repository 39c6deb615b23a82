package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// idToken encodes claims with a signature that nobody looks at.
func idToken(t *testing.T, claims any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

func TestCheckIDToken(t *testing.T) {
	now := time.Now().Unix()
	good := map[string]any{"iss": "https://as.example", "sub": "canary-7f3a9c", "aud": "reports", "exp": now + 600, "iat": now, "nonce": "n1"}
	with := func(name string, value any) map[string]any {
		claims := maps.Clone(good)
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
		return claims
	}
	several := with("aud", []string{"other", "reports"})
	severalFor := maps.Clone(several)
	severalFor["azp"] = "reports"
	tests := []struct {
		name  string
		token string
		text  string // "" if it is taken
	}{
		{"good", idToken(t, good), ""},
		{"an array of one", idToken(t, with("aud", []string{"reports"})), ""},
		{"several, for us", idToken(t, severalFor), ""},
		{"another issuer", idToken(t, with("iss", "https://as.example/")), "another issuer"},
		{"no issuer", idToken(t, with("iss", nil)), "another issuer"},
		{"no sub", idToken(t, with("sub", nil)), "no sub"},
		{"another client", idToken(t, with("aud", "canary-7f3a9c")), "aud is not the client_id"},
		{"no aud", idToken(t, with("aud", nil)), "aud"},
		{"several", idToken(t, several), "no azp"},
		{"for another party", idToken(t, with("azp", "canary-7f3a9c")), "azp is not"},
		{"expired", idToken(t, with("exp", now-400)), "expired"},
		{"no exp", idToken(t, with("exp", nil)), "lacks"},
		{"no iat", idToken(t, with("iat", nil)), "lacks"},
		{"from the future", idToken(t, with("iat", now+400)), "future"},
		{"another nonce", idToken(t, with("nonce", "canary-7f3a9c")), "nonce"},
		{"no nonce", idToken(t, with("nonce", nil)), "nonce"},
		{"exp of another type", idToken(t, with("exp", "soon")), "wrong types"},
		{"claims twice", "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"a","iss":"b"}`)) + ".x", "not one JSON object"},
		{"nothing", "", "missing"},
		{"opaque", "canary-7f3a9c", "not a JWT"},
		{"encrypted", "a.b.c.d.e", "encrypted"},
		{"not base64url", "a.!!.c", "not a JWT"},
		{"huge", strings.Repeat("a", broker.MaxTokenBytes+1), "bytes"},
	}
	client := oauth.New(oauth.Config{})
	defer client.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := client.CheckIDToken(secret.NewString(tt.token), "https://as.example", "reports", "n1")
			if tt.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantReason(t, err, broker.ReasonIDTokenInvalid, tt.text)
		})
	}
	if err := client.CheckIDToken(secret.NewString(idToken(t, with("nonce", nil))), "", "reports", ""); err != nil {
		t.Errorf("without issuer and nonce: %v", err)
	}
}
