package profile_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// checkOrigin checks that a URL's host ends as what its template has after its last
// variable in the host, and has nobody's name in it.
func checkOrigin(t *testing.T, template, made string) {
	t.Helper()
	if template == "" {
		return
	}
	u, err := url.Parse(made)
	if err != nil {
		t.Fatalf("%q made %q: %v", template, made, err)
	}
	scheme, rest, _ := strings.Cut(template, "://")
	authority, _, _ := strings.Cut(strings.FieldsFunc(rest, func(r rune) bool { return r == '/' || r == '?' })[0], "#")
	tail := authority[strings.LastIndex(authority, "}")+1:]
	if u.Scheme != scheme || u.User != nil || !strings.HasSuffix(u.Host, tail) || !strings.Contains(template, "{") && template != made {
		t.Fatalf("%q made %q", template, made)
	}
	if strings.Contains(u.Path, "/../") || strings.HasSuffix(u.Path, "/..") {
		t.Fatalf("%q made %q, whose path climbs", template, made)
	}
}

// folder returns one with a profile called acme.
func folder(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "acme.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const whole = head + `
variables:
  tenant: {description: the tenant, example: t1}
  region: {default: eu, pattern: "[a-z]{2}"}
  realm: {default: "{tenant}-{region}", pattern: ".+"}
issuer: https://{tenant}.{region}.example.com
endpoints:
  token: https://{tenant}.{region}.example.com/{realm}/token
  refresh: https://{tenant}.{region}.example.com/refresh
  revocation: https://{tenant}.{region}.example.com/revoke
  authorization: https://login.example.com/?realm={realm}
  api: https://api.example.com/{tenant}/me?fields=id
grants: [authorization_code, refresh_token, jwt_bearer]
authentication:
  methods: [client_secret_post, private_key_jwt]
  signing_algorithm: ES256
  assertion_audience: "{issuer}/{tenant}"
request:
  values: {tenant: "t={tenant}", grant: x}
refresh:
  names: {refresh_token: rt}
  values: {grant: y}
expiry: {lifetime: 20m}
limits: {tokens: 5, period: 1m, max_live_tokens: 3, locks_out: true}
secrets: {rotator: okta, overlapping: true, tokens_end_with_secret: true, propagation: 2m}
`

func TestComplete(t *testing.T) {
	set := load(t, folder(t, whole))
	var policy broker.TokenPolicy
	var rotation broker.RotationSettings
	said := map[string]string{"tenant": "t9", "realm": "a b/c?d"}
	u := broker.Upstream{Provider: "acme", ProviderVariables: said}
	if violations := set.Complete(&u, &policy, &rotation); len(violations) > 0 {
		t.Fatal(violations)
	}
	for what, pair := range map[string][2]any{
		"token":          {u.TokenEndpoint, "https://t9.eu.example.com/a%20b%2Fc%3Fd/token"},
		"refresh":        {u.RefreshEndpoint, "https://t9.eu.example.com/refresh"},
		"revocation":     {u.RevocationEndpoint, "https://t9.eu.example.com/revoke"},
		"authorization":  {u.AuthorizationEndpoint, "https://login.example.com/?realm=a+b%2Fc%3Fd"},
		"api":            {u.APIEndpoint, "https://api.example.com/t9/me?fields=id"},
		"destinations":   {fmt.Sprint(u.TokenDestinations), "[https://api.example.com]"},
		"issuer":         {u.Issuer, "https://t9.eu.example.com"},
		"variables":      {fmt.Sprint(u.ProviderVariables), "map[realm:a b/c?d region:eu tenant:t9]"},
		"said":           {fmt.Sprint(said), "map[realm:a b/c?d tenant:t9]"},
		"grant":          {u.Grant, broker.AuthorizationCode},
		"authentication": {u.Authentication, broker.Authentication{Method: broker.ClientSecretPost}},
		"lifetime":       {policy, broker.TokenPolicy{AssumedLifetime: 20 * time.Minute}},
		"budget":         {u.IssueBudget, broker.IssueBudget{Tokens: 5, Period: time.Minute}},
		"live":           {u.MaxLiveTokens, 3},
		"overlapping":    {rotation.OverlappingSecrets && rotation.TokensEndWithSecret && rotation.Rotator == "", true},
		"propagation":    {rotation.Propagation, 2 * time.Minute},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[0], pair[1])
		}
	}
	again, againPolicy, againRotation := u, policy, rotation
	if violations := set.Complete(&again, &againPolicy, &againRotation); len(violations) > 0 || fmt.Sprint(again, againPolicy, againRotation) != fmt.Sprint(u, policy, rotation) {
		t.Errorf("completed again: %v\n%v\n%v", violations, again, u)
	}
}

// TestCompleteKeeps: what is set stays.
func TestCompleteKeeps(t *testing.T) {
	set := load(t, folder(t, whole))
	policy := broker.TokenPolicy{AssumedLifetime: time.Hour}
	rotation := broker.RotationSettings{Every: time.Hour, Propagation: time.Minute}
	u := broker.Upstream{
		Provider: "acme", ProviderVariables: map[string]string{"tenant": "t9"}, TokenEndpoint: "https://own.example.com/token", Issuer: "https://own.example.com",
		Grant: broker.JWTBearer, Authentication: broker.Authentication{Method: broker.PrivateKeyJWT}, IssueBudget: broker.IssueBudget{Tokens: 1, Period: time.Second}, SingleActiveToken: true,
	}
	if violations := set.Complete(&u, &policy, &rotation); len(violations) > 0 {
		t.Fatal(violations)
	}
	if u.APIEndpoint != "" || u.TokenDestinations != nil {
		t.Errorf("got %q at %q, want no tokens of another server sent to this provider", u.APIEndpoint, u.TokenDestinations)
	}
	if u.TokenEndpoint != "https://own.example.com/token" || u.RefreshEndpoint != "" || u.RevocationEndpoint != "" {
		t.Errorf("got %q, %q, %q, want the client's own token endpoint and none of another server", u.TokenEndpoint, u.RefreshEndpoint, u.RevocationEndpoint)
	}
	if want := (broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "ES256", AssertionAudience: "https://own.example.com/t9"}); u.Authentication != want {
		t.Errorf("got %+v, want %+v", u.Authentication, want)
	}
	if u.Grant != broker.JWTBearer || u.IssueBudget.Tokens != 1 || u.MaxLiveTokens != 0 || policy.AssumedLifetime != time.Hour || rotation.Propagation != time.Minute {
		t.Errorf("changed what was set: %+v, %+v, %+v", u, policy, rotation)
	}
	if rotation.Rotator != "okta" || rotation.OverlappingSecrets {
		t.Errorf("got the rotator %q, overlapping: %t; want that of the profile, since its settings are there", rotation.Rotator, rotation.OverlappingSecrets)
	}
}

// TestCompleteSendsTokensNowhereElse: a client that says where its tokens go, or what to
// call, keeps its word.
func TestCompleteSendsTokensNowhereElse(t *testing.T) {
	set := load(t, folder(t, whole))
	for _, own := range []broker.Upstream{{APIEndpoint: "https://own.example.com/me"}, {TokenDestinations: []string{"https://own.example.com"}}} {
		u := own
		u.Provider, u.ProviderVariables = "acme", map[string]string{"tenant": "t9"}
		if violations := set.Complete(&u, new(broker.TokenPolicy), new(broker.RotationSettings)); len(violations) > 0 {
			t.Fatal(violations)
		}
		if u.APIEndpoint != own.APIEndpoint || !slices.Equal(u.TokenDestinations, own.TokenDestinations) {
			t.Errorf("got %q at %q, want %q at %q", u.APIEndpoint, u.TokenDestinations, own.APIEndpoint, own.TokenDestinations)
		}
	}
	if p, ok := set.Provider("acme"); !ok || !p.LocksOut {
		t.Errorf("got %+v, want one that locks out", p)
	}
}

func TestCompleteRefuses(t *testing.T) {
	set := load(t, folder(t, whole))
	good := map[string]string{"tenant": "t1"}
	tests := []struct {
		name string
		u    broker.Upstream
		want []string
	}{
		{"no provider", broker.Upstream{}, nil},
		{"variables without provider", broker.Upstream{ProviderVariables: good}, []string{"client.provider_variables"}},
		{"unknown provider", broker.Upstream{Provider: "acne"}, []string{"client.provider"}},
		{"missing variable", broker.Upstream{Provider: "acme"}, []string{`client.provider_variables["tenant"]`}},
		{"unknown variable", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": "t1", "Tenant": "x"}}, []string{`client.provider_variables["Tenant"]`}},
		{"variable where there are none", broker.Upstream{Provider: "generic", ProviderVariables: good}, []string{`client.provider_variables["tenant"]`}},
		{"host that ends", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": "evil.example/"}}, []string{`client.provider_variables["tenant"]`}},
		{"host with a line", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": "t1\n"}}, []string{`client.provider_variables["tenant"]`}},
		{"empty variable", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": ""}}, []string{`client.provider_variables["tenant"]`, `client.provider_variables["tenant"]`}},
		{"several", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"region": "europe"}}, []string{`client.provider_variables["region"]`, `client.provider_variables["tenant"]`}},
		{"path that climbs", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": "t1", "realm": "a/../../b"}}, []string{"client.provider_variables"}},
		{"labels that are none", broker.Upstream{Provider: "acme", ProviderVariables: map[string]string{"tenant": "a..b"}}, []string{"client.provider_variables"}},
		{"grant", broker.Upstream{Provider: "acme", ProviderVariables: good, Grant: broker.Password}, []string{"client.grant_type"}},
		{"method", broker.Upstream{Provider: "acme", ProviderVariables: good, Authentication: broker.Authentication{Method: broker.TLSClientAuth}}, []string{"client.authentication_method"}},
		{"no issuer to discover", broker.Upstream{Provider: "generic-oidc"}, []string{"client.issuer"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, v := range set.Complete(&test.u, new(broker.TokenPolicy), new(broker.RotationSettings)) {
				got = append(got, v.Field)
				if v.Problem == "" {
					t.Errorf("%s: says nothing", v.Field)
				}
			}
			slices.Sort(got)
			got = slices.Compact(got)
			if want := slices.Compact(slices.Clone(test.want)); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestShapes(t *testing.T) {
	p := load(t, folder(t, whole)).Profile("acme")
	said := map[string]string{"tenant": "t&1"}
	if got, want := fmt.Sprint(p.RequestShape().Values(said)), "map[grant:x tenant:t=t&1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.RefreshShape().Values(said)), "map[grant:y tenant:t=t&1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if p.RequestShape().Name("refresh_token") != "refresh_token" || p.RefreshShape().Name("refresh_token") != "rt" {
		t.Error("names of refreshes are not those of Refresh alone")
	}
	aspire := load(t, "").Profile("aspire")
	if shape := aspire.RefreshShape(); shape.Name("client_id") != "ClientId" || shape.Name("grant_type") != "" || shape.Name("refresh_token") != "RefreshToken" {
		t.Error("names of refreshes lack those of Request")
	}
}

// TestGrantTypeStaysWithItsGrant: another grant_type is not sent with refreshes.
func TestGrantTypeStaysWithItsGrant(t *testing.T) {
	p, err := profile.Parse("acme.yaml", []byte(head+"grants: [client_credentials, refresh_token]\nrequest: {values: {grant_type: account, a: b}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(p.RequestShape().Values(nil), p.RefreshShape().Values(nil)), "map[a:b grant_type:account] map[a:b]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
