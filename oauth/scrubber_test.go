package oauth_test

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/oauth"
)

func TestCleanKeepsWhatHelps(t *testing.T) {
	const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"
	tests := []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"plain", "Client authentication failed", "Client authentication failed"},
		{
			"entra", "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 255d1aef-8c98-452f-ac51-23d051240864\r\nTimestamp: 2016-01-09 02:02:12Z",
			"AADSTS7000215: Invalid client secret provided. Trace ID: 255d1aef-8c98-452f-ac51-23d051240864 Timestamp: 2016-01-09 02:02:12Z",
		},
		{"url", "see https://login.example.com/oauth2/token/errors", "see https://login.example.com/oauth2/token/errors"},
		{"identifier", "ServiceAccountNotEnabledForClient api_v2_read_only_scope", "ServiceAccountNotEnabledForClient api_v2_read_only_scope"},
		{"control characters", "a\x00b\x1b[31mc\u202ed", "a?b?[31mc?d"},
		{"not UTF-8", "a\xffb", "a?b"},
		{"jwt", "bad token " + jwt + " given", "bad token [withheld] given"},
		{"short jwt", "eyJ9 x", "[withheld] x"},
		{"random base64", "secret 'x8Q~aB3dE9fGh1JkLmN0pQrStUvWxYz' is wrong", "secret '[withheld]' is wrong"},
		{"random hex", "key 9f86d081884c7d659a2feaa0c55ad015", "key [withheld]"},
		{"long", strings.Repeat("abc ", 100), strings.Repeat("abc ", 49) + "a..."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := oauth.Clean(tt.text, canary)
			if got != tt.want {
				t.Errorf("Clean = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCleanWithholdsEchoes(t *testing.T) {
	secrets := []string{
		"plain-secret-value", canary, "pass", `quo"te\back<slash>&`, "correct horse battery staple", strings.Repeat("kX9", 30),
	}
	for _, s := range secrets {
		half := s[:max(len(s)/2, min(len(s), 8))]
		texts := map[string]string{
			"raw":            "secret " + s + " is wrong",
			"upper case":     strings.ToUpper(s),
			"first half":     "begins with " + half + "...",
			"form":           url.QueryEscape(s),
			"path":           url.PathEscape(s),
			"html":           html.EscapeString(s),
			"hex":            hex.EncodeToString([]byte(s)),
			"base64":         base64.StdEncoding.EncodeToString([]byte(s)),
			"base64url":      base64.RawURLEncoding.EncodeToString([]byte(s)),
			"basic":          base64.StdEncoding.EncodeToString([]byte("client:" + s)),
			"basic, longer":  base64.StdEncoding.EncodeToString([]byte("client2:" + s)),
			"basic, longest": base64.StdEncoding.EncodeToString([]byte("client23:" + s)),
		}
		if len(s) > 8 {
			texts["in pieces"] = s[:8] + "\n" + s[8:]
			texts["in groups"] = strings.Join(strings.Split(s, ""), " ")
		}
		for name, text := range texts {
			if got := oauth.Clean(text, s); !strings.Contains(got, "withheld") {
				t.Errorf("%s of %q: Clean = %q", name, s, got)
			}
		}
	}
}

func TestKeyEchoesAreWithheld(t *testing.T) {
	pem := keyPEM(t, "PRIVATE KEY")
	line := strings.Split(pem, "\n")[1]
	if got := oauth.Clean("cannot read "+line[:20], oauth.KeySpellings([]byte(pem))...); !strings.Contains(got, "withheld") {
		t.Errorf("Clean = %q", got)
	}
	if got, want := oauth.Clean("no PRIVATE KEY for this client", oauth.KeySpellings([]byte(pem))...), "no PRIVATE KEY for this client"; got != want {
		t.Errorf("Clean = %q, want %q", got, want)
	}
	jwk := keyJWK(t)
	d := strings.Split(strings.Split(jwk, `"d":"`)[1], `"`)[0]
	if got := oauth.Clean("d is "+d[4:16], oauth.KeySpellings([]byte(jwk))...); !strings.Contains(got, "withheld") {
		t.Errorf("Clean = %q", got)
	}
}
