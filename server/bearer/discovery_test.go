package bearer_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestInterval: Cache-Control says when to come back, within bounds.
func TestInterval(t *testing.T) {
	tests := []struct {
		header string
		fixed  time.Duration
		want   time.Duration
	}{
		{"", 0, 5 * time.Minute},
		{"public, max-age=600", 0, 10 * time.Minute},
		{"Max-Age=\"600\"", 0, 10 * time.Minute},
		{"max-age=0", 0, time.Minute},
		{"no-store", 0, time.Minute},
		{"max-age=99999999999999", 0, time.Hour},
		{"max-age=99999999999999999999999", 0, 5 * time.Minute},
		{"max-age=-1", 0, 5 * time.Minute},
		{"max-age=3600", 2 * time.Minute, 2 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.header, func(t *testing.T) {
			inWorld(t, serving(jwkSet(t), "Cache-Control", test.header), func(t *testing.T, w *world) {
				time.Sleep(test.want*9/10 - time.Millisecond)
				w.wantFetches(t, 1)
				time.Sleep(test.want/10 + 2*time.Millisecond)
				w.wantFetches(t, 2)
				if generation := w.Status()[0].Generation; generation != 1 {
					t.Errorf("got generation %d of the same keys, want 1", generation)
				}
			}, func(i *bearer.Issuer) { i.RefreshInterval = test.fixed })
		})
	}
}

func TestDiscovery(t *testing.T) {
	document := func(issuer, uri string) string {
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"token_endpoint":"https://canary.example"}`, issuer, uri)
	}
	tests := []struct {
		name, document string
		want           string // in the error; "" for a good one
	}{
		{"good", document(issuerName, jwksURL), ""},
		{"keys on another host", document(issuerName, "https://keys.example/keys"), ""},
		{"another issuer", document("https://canary.example", jwksURL), "issuer is not the configured one"},
		{"issuer with a slash more", document(issuerName+"/", jwksURL), "issuer is not the configured one"},
		{"no issuer", `{"jwks_uri":"` + jwksURL + `"}`, "issuer is not the configured one"},
		{"issuer twice", `{"issuer":"a","issuer":"` + issuerName + `"}`, "a member twice"},
		{"plain http", document(issuerName, "http://canary.example/keys"), "must be an https URL"},
		{"loopback", document(issuerName, "http://127.0.0.1/canary"), "must be an https URL"},
		{"a file", document(issuerName, "file:///etc/canary"), "not a URL with a host"},
		{"no keys", `{"issuer":"` + issuerName + `"}`, "not a URL with a host"},
		{"HTML", "<canary>", "is not JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.String() {
				case issuerName + "/.well-known/openid-configuration":
					serving(test.document)(w, r)
				case jwksURL, "https://keys.example/keys":
					serving(jwkSet(t))(w, r)
				default:
					t.Errorf("asked for %s", r.URL)
				}
			}, func(t *testing.T, w *world) {
				if test.want == "" {
					wantGood(t, w.Verifier, goodToken(t))
					return
				}
				if refused := wantRefused(t, w.Verifier, goodToken(t), bearer.KeysUnavailable); !strings.Contains(refused.Error(), test.want) {
					t.Errorf("got %v, want %q in it", refused, test.want)
				}
			}, func(i *bearer.Issuer) { i.JWKSURL, i.Discovery = "", true })
		})
	}
}
