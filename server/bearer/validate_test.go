package bearer_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/server/bearer"
)

func TestConfigFile(t *testing.T) {
	const file = `issuers:
  - issuer: https://kubernetes.default.svc.cluster.local
    audiences: [tokenbroker]
    algorithms: [RS256]
    jwks_url: https://kubernetes.default.svc/openid/v1/jwks
    ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    token_file: /var/run/secrets/kubernetes.io/serviceaccount/token
    refresh_interval: 10m
    max_stale: 1h
    leeway: 10s
    max_lifetime: 2h
    types: ["", JWT]
    subject_claim: /kubernetes.io/serviceaccount/uid
    required_claims: {/kubernetes.io/namespace: crm}
    single_use: true
  - {issuer: "https://issuer.example", audiences: [a], algorithms: [EdDSA], discovery: true}
  - {issuer: "http://127.0.0.1:1", audiences: [a], algorithms: [ES256], discovery: true, insecure_http_loopback: true}
  - {issuer: accounts, audiences: [a], algorithms: [ES256], jwks_file: keys.json}
`
	var cfg bearer.Config
	if problems := strictyaml.Decode([]byte(file), &cfg); problems != nil {
		t.Fatal(problems)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	if got := cfg.Issuers[0]; got.MaxStale != time.Hour || got.RequiredClaims["/kubernetes.io/namespace"] != "crm" {
		t.Errorf("got %+v", got)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*bearer.Issuer)
		want   []string
	}{
		{"nothing wrong", func(*bearer.Issuer) {}, nil},
		{"all missing", func(i *bearer.Issuer) { *i = bearer.Issuer{} }, []string{"issuer: is required", "audiences: is required", "algorithms: is required", "jwks_file: set exactly one"}},
		{"# in the issuer", func(i *bearer.Issuer) { i.Issuer = "https://a#b" }, []string{`issuer: must not have`}},
		{"control character in the issuer", func(i *bearer.Issuer) { i.Issuer = "https://a\n" }, []string{`issuer: must not have`}},
		{"long issuer", func(i *bearer.Issuer) { i.Issuer = strings.Repeat("a", 257) }, []string{`issuer: has 257 bytes`}},
		{"empty audience", func(i *bearer.Issuer) { i.Audiences = []string{"a", ""} }, []string{`audiences: has an empty one`}},
		{"none", func(i *bearer.Issuer) { i.Algorithms = []string{"none"} }, []string{`algorithms[0]: "none" is none of RS256,`}},
		{"HMAC", func(i *bearer.Issuer) { i.Algorithms = []string{"RS256", "HS256"} }, []string{`algorithms[1]: "HS256" is none of`}},
		{"two sources", func(i *bearer.Issuer) { i.JWKSFile = "a" }, []string{"jwks_file: set exactly one"}},
		{"http", func(i *bearer.Issuer) { i.JWKSURL = "http://issuer.example" }, []string{"jwks_url: must be an https URL: whoever"}},
		{"http to loopback", func(i *bearer.Issuer) { i.JWKSURL = "http://127.0.0.1/" }, []string{"jwks_url: must be an https URL, unless insecure_http_loopback"}},
		{"http to a name", func(i *bearer.Issuer) { i.JWKSURL, i.InsecureHTTPLoopback = "http://localhost/", true }, []string{"jwks_url: must be an https URL: whoever"}},
		{"password", func(i *bearer.Issuer) { i.JWKSURL = "https://u:canary@issuer.example" }, []string{"jwks_url: must not hold a user"}},
		{"fragment", func(i *bearer.Issuer) { i.JWKSURL += "#a" }, []string{"jwks_url: must not have a fragment"}},
		{"file URL", func(i *bearer.Issuer) { i.JWKSURL = "file://host/a" }, []string{"jwks_url: must be an https URL"}},
		{"no host", func(i *bearer.Issuer) { i.JWKSURL = "https:///keys" }, []string{"jwks_url: is not a URL with a host"}},
		{"discovery of no URL", func(i *bearer.Issuer) { i.Issuer, i.JWKSURL, i.Discovery = "accounts", "", true }, []string{"issuer: is not a URL with a host, as in https://issuer.example.com, because discovery"}},
		{"discovery with a query", func(i *bearer.Issuer) { i.Issuer, i.JWKSURL, i.Discovery = issuerName+"?a", "", true }, []string{"issuer: must not have a query"}},
		{"remote settings of a file", func(i *bearer.Issuer) {
			i.JWKSURL, i.JWKSFile, i.CAFile, i.TokenFile, i.InsecureHTTPLoopback, i.RefreshInterval = "", "a", "b", "c", true, time.Minute
		}, []string{"ca_file: has no", "token_file: has no", "insecure_http_loopback: has no", "refresh_interval: has no"}},
		{"times", func(i *bearer.Issuer) {
			i.Leeway, i.MaxLifetime, i.RefreshInterval, i.MaxStale = 6*time.Minute, -1, time.Second, time.Second
		}, []string{"refresh_interval: 1s is not", "max_stale: 1s is not", "leeway: 6m0s is not", "max_lifetime: -1ns is negative"}},
		{"single use without end", func(i *bearer.Issuer) { i.SingleUse = true }, []string{"max_lifetime: must be set with single_use"}},
		{"claims", func(i *bearer.Issuer) {
			i.SubjectClaim, i.RequiredClaims = "/", map[string]string{"": "a", "/a//b": "a", "/a~2": "a", "a~": "b", "/~01~1": "c"}
		}, []string{"subject_claim: is no JSON Pointer", `required_claims: "" is empty`, `required_claims: "/a//b" is no JSON`, `required_claims: "/a~2" is no JSON`}},
		{"types", func(i *bearer.Issuer) { i.Types = []string{"JWT\n"} }, []string{"types[0]: has a control"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: []string{"RS256"}, JWKSURL: jwksURL}
			test.change(&issuer)
			cfg := bearer.Config{Issuers: []bearer.Issuer{issuer}}
			err := cfg.Validate()
			if len(test.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("got no problem, want %q", test.want)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Errorf("got %d problems, want %d:\n%v", len(lines), len(test.want), err)
			}
			for n, want := range test.want {
				if n < len(lines) && !strings.HasPrefix(lines[n], "issuers[0]."+want) {
					t.Errorf("got  %s\nwant issuers[0].%s", lines[n], want)
				}
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error has a password: %v", err)
			}
			if _, err := bearer.New(cfg); err == nil {
				t.Error("New takes what Validate refuses")
			}
		})
	}
}

func TestIssuersAreDifferent(t *testing.T) {
	issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: []string{"RS256"}, JWKSURL: jwksURL}
	err := bearer.Config{Issuers: []bearer.Issuer{issuer, issuer}}.Validate()
	if err == nil || !strings.HasPrefix(err.Error(), "issuers[1].issuer: is the same as issuers[0].issuer") {
		t.Errorf("got %v", err)
	}
	if err := (bearer.Config{}).Validate(); err == nil {
		t.Error("no issuers are no problem")
	}
}

// TestFilesOfNew: what is not there, or not what it should be, is told at the start.
func TestFilesOfNew(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "garbage"), "garbage")
	issuer := bearer.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: []string{"RS256"}}
	for name, change := range map[string]func(*bearer.Issuer, string){
		"jwks_file": func(i *bearer.Issuer, path string) { i.JWKSFile = path },
		"ca_file":   func(i *bearer.Issuer, path string) { i.JWKSURL, i.CAFile = jwksURL, path },
	} {
		for _, file := range []string{"missing", "garbage", "."} {
			t.Run(name+" "+file, func(t *testing.T) {
				bad := issuer
				change(&bad, filepath.Join(dir, file))
				if _, err := bearer.New(bearer.Config{Issuers: []bearer.Issuer{bad}}); err == nil || !strings.HasPrefix(err.Error(), "issuers[0]: "+name+": ") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}
