package broker_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

var badIDs = []struct{ name, id string }{
	{"empty", ""},
	{"129 characters", strings.Repeat("a", 129)},
	{"1 MB", strings.Repeat("a", 1<<20)},
	{"slash", "a/b"},
	{"leading slash", "/a"},
	{"encoded slash", "a%2fb"},
	{"encoded slash, upper case", "..%2Fx"},
	{"double-encoded slash", "a%252fb"},
	{"backslash", `a\b`},
	{"one dot", "."},
	{"two dots", ".."},
	{"parent inside", "a/../b"},
	{"two dots inside", "a..b"},
	{"dot at the start", ".a"},
	{"dot at the end", "a."},
	{"dash at the start", "-a"},
	{"dash at the end", "a-"},
	{"underscore at the end", "a_"},
	{"upper case", "Acme"},
	{"space", "a b"},
	{"trailing space", "a "},
	{"newline", "a\n"},
	{"NUL", "a\x00"},
	{"plus", "a+b"},
	{"star", "*"},
	{"cyrillic a", "\u0430cme"},
	{"fullwidth a", "\uff41cme"},
	{"fullwidth solidus", "a\uff0fb"},
	{"division slash", "a\u2215b"},
	{"one dot leader", "a\u2024b"},
	{"two dot leader", "a\u2025b"},
	{"long s", "\u017fcope"},
	{"kelvin", "\u212aelvin"},
	{"zero width joiner", "a\u200db"},
	{"right to left override", "a\u202eb"},
	{"combining accent", "e\u0301a"},
	{"invalid UTF-8", "a\xffb"},
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"a", "0", "acme-crm", "a.b_c-d", "a--b", "a__b", "a.b.c", strings.Repeat("a", 128)} {
		if err := broker.CheckID("id", id); err != nil {
			t.Errorf("CheckID(%q) = %v, want none", id, err)
		}
	}
	f := newFixture(t)
	f.create(t, "acme")
	before := content(t, f.memory)
	for _, test := range badIDs {
		t.Run(test.name, func(t *testing.T) {
			for operation, err := range withID(t, f, test.id) {
				wantReason(t, operation, err, broker.ReasonInvalidRequest)
				if fields := fieldsOf(err); len(fields) != 1 {
					t.Errorf("%s: fields %q, want one", operation, fields)
				}
				if len(err.Error()) > 500 {
					t.Errorf("%s: the error has %d bytes; it must not quote what has no bound", operation, len(err.Error()))
				}
			}
		})
	}
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
}

// withID does all that takes an id.
func withID(t *testing.T, f *fixture, id string) map[string]error {
	ctx, errs := t.Context(), map[string]error{}
	n := newClient("x")
	n.ID = id
	_, errs["CreateClient"] = f.CreateClient(ctx, n)
	_, errs["GetClient"] = f.GetClient(ctx, id)
	_, errs["UpdateClient"] = f.UpdateClient(ctx, broker.ClientUpdate{ID: id, Edit: func(*broker.Client) {}})
	_, errs["DeleteClient"] = f.DeleteClient(ctx, id, "")
	_, errs["UndeleteClient"] = f.UndeleteClient(ctx, id)
	_, errs["SetDisabled"] = f.SetDisabled(ctx, id, true)
	_, _, errs["GetToken"] = f.GetToken(ctx, broker.TokenQuery{ClientID: id})
	_, _, errs["GetToken with scope"] = f.GetToken(ctx, broker.TokenQuery{ClientID: id, Scopes: []string{"read"}})
	_, errs["StageSecret"] = f.StageSecret(ctx, id, input("s"), "")
	_, _, errs["VerifySecret"] = f.VerifySecret(ctx, id, 0)
	_, errs["PromoteSecret"] = f.PromoteSecret(ctx, broker.Promotion{ClientID: id})
	errs["RetireSecret"] = f.RetireSecret(ctx, id, 1)
	_, errs["CheckLookup"] = f.CheckLookup(ctx, broker.LookupCheck{ClientID: id, Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
	return errs
}

func numbered(n int, format string) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return list
}

// badSettings are settings that no client may have, and the field at fault.
var badSettings = []struct {
	name  string
	field string
	edit  func(*broker.NewClient)
}{
	{"no client_id", "client.client_id", func(n *broker.NewClient) { n.Upstream.ClientID = "" }},
	{"client_id of 513 bytes", "client.client_id", func(n *broker.NewClient) { n.Upstream.ClientID = strings.Repeat("a", 513) }},
	{"client_id with newline", "client.client_id", func(n *broker.NewClient) { n.Upstream.ClientID = "a\r\nb" }},
	{"no method", "client.authentication_method", func(n *broker.NewClient) { n.Upstream.Authentication.Method = "" }},
	{"unknown method", "client.authentication_method", func(n *broker.NewClient) { n.Upstream.Authentication.Method = "magic" }},
	{"algorithm with basic", "client.assertion", func(n *broker.NewClient) { n.Upstream.Authentication.SigningAlgorithm = "RS256" }},
	{"key id with basic", "client.assertion", func(n *broker.NewClient) { n.Upstream.Authentication.KeyID = "k" }},
	{"assertion audience with basic", "client.assertion", func(n *broker.NewClient) { n.Upstream.Authentication.AssertionAudience = "https://as.example" }},
	{"algorithm of a key with client_secret_jwt", "client.assertion.signing_algorithm", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.ClientSecretJWT, SigningAlgorithm: "RS256"}
	}},
	{"algorithm of a secret with private_key_jwt", "client.assertion.signing_algorithm", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "HS256"}
	}},
	{"audience with private_key_bearer", "client.assertion.audience", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyBearer, AssertionAudience: "https://as.example"}
	}},
	{"key id with a certificate", "client.assertion", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.TLSClientAuth, KeyID: "k"}
	}},
	{"algorithm none", "client.assertion.signing_algorithm", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "none"}
	}},
	{"symmetric algorithm", "client.assertion.signing_algorithm", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, SigningAlgorithm: "HS256"}
	}},
	{"key id with control character", "client.assertion.key_id", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, KeyID: "k\x01"}
	}},
	{"assertion audience not UTF-8", "client.assertion.audience", func(n *broker.NewClient) {
		n.Upstream.Authentication = broker.Authentication{Method: broker.PrivateKeyJWT, AssertionAudience: "\xff"}
	}},
	{"10,000 scopes", "client.default_scopes", func(n *broker.NewClient) { n.Upstream.DefaultScopes = numbered(10_000, "s%d") }},
	{"10,000 allowed scopes", "client.allowed_scopes", func(n *broker.NewClient) { n.Upstream.AllowedScopes = numbered(10_000, "s%d") }},
	{"duplicate scope", "client.default_scopes[2]", func(n *broker.NewClient) { n.Upstream.DefaultScopes = []string{"a", "b", "a"} }},
	{"empty scope", "client.default_scopes[0]", func(n *broker.NewClient) { n.Upstream.DefaultScopes = []string{""} }},
	{"two scopes in one", "client.default_scopes[0]", func(n *broker.NewClient) { n.Upstream.DefaultScopes = []string{"read write"} }},
	{"scope with quote", "client.default_scopes[0]", func(n *broker.NewClient) { n.Upstream.DefaultScopes = []string{`a"b`} }},
	{"scope with backslash", "client.allowed_scopes[0]", func(n *broker.NewClient) { n.Upstream.AllowedScopes = []string{`a\b`} }},
	{"scope with NUL", "client.allowed_scopes[0]", func(n *broker.NewClient) { n.Upstream.AllowedScopes = []string{"a\x00"} }},
	{"scope with umlaut", "client.allowed_scopes[0]", func(n *broker.NewClient) { n.Upstream.AllowedScopes = []string{"ä"} }},
	{"scope not UTF-8", "client.allowed_scopes[0]", func(n *broker.NewClient) { n.Upstream.AllowedScopes = []string{"\xff"} }},
	{"scope of 257 bytes", "client.allowed_scopes[0]", func(n *broker.NewClient) { n.Upstream.AllowedScopes = []string{strings.Repeat("a", 257)} }},
	{"audience with newline", "client.audience", func(n *broker.NewClient) { n.Upstream.Audience = "a\nb" }},
	{"audience of 2,049 bytes", "client.audience", func(n *broker.NewClient) { n.Upstream.Audience = strings.Repeat("a", 2049) }},
	{"empty audience", "client.allowed_audiences[0]", func(n *broker.NewClient) { n.Upstream.AllowedAudiences = []string{""} }},
	{"21 audiences", "client.allowed_audiences", func(n *broker.NewClient) { n.Upstream.AllowedAudiences = numbered(21, "a%d") }},
	{"duplicate audience", "client.allowed_audiences[1]", func(n *broker.NewClient) { n.Upstream.AllowedAudiences = []string{"a", "a"} }},
	{"relative resource", "client.resources[0]", func(n *broker.NewClient) { n.Upstream.Resources = []string{"/api"} }},
	{"resource with fragment", "client.resources[0]", func(n *broker.NewClient) { n.Upstream.Resources = []string{"https://a.example/#x"} }},
	{"resource with empty fragment", "client.allowed_resources[0]", func(n *broker.NewClient) { n.Upstream.AllowedResources = []string{"https://a.example/#"} }},
	{"two resources in one", "client.resources[0]", func(n *broker.NewClient) { n.Upstream.Resources = []string{"https://a.example/ https://b.example/"} }},
	{"two resources joined by a space that is not ASCII", "client.allowed_resources[0]", func(n *broker.NewClient) {
		n.Upstream.AllowedResources = []string{"https://a.example/\u2003https://b.example/"}
	}},
	{"21 parameters", "client.parameters", func(n *broker.NewClient) {
		n.Upstream.Parameters = map[string]string{}
		for _, name := range numbered(21, "p%d") {
			n.Upstream.Parameters[name] = "v"
		}
	}},
	{"parameter without name", `client.parameters[""]`, func(n *broker.NewClient) { n.Upstream.Parameters = map[string]string{"": "v"} }},
	{"parameter with newline", `client.parameters["p"]`, func(n *broker.NewClient) { n.Upstream.Parameters = map[string]string{"p": "a\nb"} }},
	{"parameter of 1,025 bytes", `client.parameters["p"]`, func(n *broker.NewClient) { n.Upstream.Parameters = map[string]string{"p": strings.Repeat("a", 1025)} }},
	{"33 labels", "client.labels", func(n *broker.NewClient) {
		n.Labels = map[string]string{}
		for _, key := range numbered(33, "l%d") {
			n.Labels[key] = "v"
		}
	}},
	{"label with upper case", `client.labels["Team"]`, func(n *broker.NewClient) { n.Labels = map[string]string{"Team": "v"} }},
	{"label without key", `client.labels[""]`, func(n *broker.NewClient) { n.Labels = map[string]string{"": "v"} }},
	{"label key of 64 bytes", `client.labels["` + strings.Repeat("a", 64) + `"]`, func(n *broker.NewClient) { n.Labels = map[string]string{strings.Repeat("a", 64): "v"} }},
	{"label value of 64 bytes", `client.labels["a"]`, func(n *broker.NewClient) { n.Labels = map[string]string{"a": strings.Repeat("v", 64)} }},
	{"label value with control character", `client.labels["a"]`, func(n *broker.NewClient) { n.Labels = map[string]string{"a": "\x7f"} }},
	{"negative min_validity", "client.token_policy.min_validity", func(n *broker.NewClient) { n.TokenPolicy.MinValidity = -1 }},
	{"min_validity over a day", "client.token_policy.min_validity", func(n *broker.NewClient) { n.TokenPolicy.MinValidity = 24*time.Hour + 1 }},
	{"negative assumed_lifetime", "client.token_policy.assumed_lifetime", func(n *broker.NewClient) { n.TokenPolicy.AssumedLifetime = -1 }},
	{"assumed_lifetime over 30 days", "client.token_policy.assumed_lifetime", func(n *broker.NewClient) { n.TokenPolicy.AssumedLifetime = 30*24*time.Hour + 1 }},
	{"settings that would not fit into a record", "client", func(n *broker.NewClient) {
		// JSON encodes each & in six bytes.
		n.Upstream.AllowedAudiences = numbered(20, "%02d"+strings.Repeat("&", 2000))
		n.Upstream.AllowedResources = numbered(20, "https://a.example/%02d"+strings.Repeat("&", 2000))
	}},
}

func TestSettings(t *testing.T) {
	for _, test := range badSettings {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			before := content(t, f.memory)

			n := newClient("other")
			test.edit(&n)
			_, err := f.CreateClient(t.Context(), n)
			wantField(t, "CreateClient", err, test.field)
			for name, s := range map[string]broker.SecretInput{"UpdateClient": {}, "UpdateClient with secret": input("a-new-one")} {
				_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: s, Edit: func(c *broker.Client) {
					c.Labels, c.Upstream, c.TokenPolicy = n.Labels, n.Upstream, n.TokenPolicy
				}})
				wantField(t, name, err, test.field)
			}
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
		})
	}
}

// wantField checks that a request was refused because of that field, and only of that.
func wantField(t *testing.T, what string, err error, field string) {
	t.Helper()
	wantReason(t, what, err, broker.ReasonInvalidRequest)
	fields := slices.Compact(fieldsOf(err))
	if !slices.Equal(fields, []string{field}) {
		t.Errorf("%s: fields %q, want %q", what, fields, field)
	}
	if err != nil && len(err.Error()) > 8<<10 {
		t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
	}
}

// TestReservedParameters: a setting must not replace what the broker sends, nor
// bring in a credential or another grant, however it is spelled.
func TestReservedParameters(t *testing.T) {
	reserved := []string{
		"client_id", "client_secret", "client_assertion", "client_assertion_type", "grant_type", "scope", "audience", "resource",
		"username", "password", "refresh_token", "code", "assertion", "subject_token", "actor_token",
		"redirect_uri", "state", "code_verifier", "device_code", "nonce", "response_type",
	}
	f := newFixture(t)
	for _, name := range reserved {
		for _, spelled := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			n := newClient("acme")
			n.Upstream.Parameters = map[string]string{spelled: "x"}
			_, err := f.CreateClient(t.Context(), n)
			wantField(t, "CreateClient with parameter "+spelled, err, fmt.Sprintf("client.parameters[%q]", spelled))
		}
	}
	if got := f.memory.Keys(); len(got) != 0 {
		t.Errorf("written: %q, want nothing", got)
	}
}

func TestManyProblemsGiveAShortAnswer(t *testing.T) {
	f := newFixture(t)
	n := newClient("Acme")
	n.Upstream.DefaultScopes = slices.Repeat([]string{`"`}, 100)
	n.Upstream.AllowedScopes = slices.Repeat([]string{`"`}, 100)
	_, err := f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient", err, broker.ReasonInvalidRequest)
	if got, want := len(fieldsOf(err)), 21; got != want {
		t.Errorf("%d violations, want %d", got, want)
	}
	if want := "and 181 more problems"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
}

func TestSecrets(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	before := content(t, f.memory)
	tests := []struct {
		name  string
		value string
		want  bool
	}{
		{"a space inside", "correct horse", true},
		{"unicode", "pässwörd", true},
		{"64 KiB", strings.Repeat("a", 64<<10), true},
		{"white space", " \t\n", false},
		{"trailing newline", password + "x\n", false},
		{"trailing CRLF", password + "x\r\n", false},
		{"trailing no-break space", password + "x\u00a0", false},
		{"leading space", " " + password + "x", false},
		{"newline inside", "hunter\ntwo-hunter", false},
		{"NUL inside", "hunter\x00two-hunter", false},
		{"escape inside", "hunter\x1b[31m", false},
		{"delete inside", "hunter\x7ftwo", false},
		{"64 KiB and a byte", strings.Repeat("a", 64<<10+1), false},
		{"1 MB", strings.Repeat("a", 1<<20), false},
		{"invalid UTF-8", "hunter\xff\xfe", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			errs := map[string]error{}
			n := newClient("other-" + fmt.Sprint(len(test.value)))
			n.Secret = input(test.value)
			if test.want {
				f := newFixture(t)
				_, err := f.CreateClient(t.Context(), n)
				wantReason(t, "CreateClient", err, "")
				return
			}
			_, errs["CreateClient"] = f.CreateClient(t.Context(), n)
			_, errs["StageSecret"] = f.StageSecret(t.Context(), "acme", n.Secret, "")
			_, errs["UpdateClient"] = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: n.Secret, Edit: func(*broker.Client) {}})
			for _, operation := range slices.Sorted(maps.Keys(errs)) {
				wantField(t, operation, errs[operation], "secret")
				if strings.Contains(errs[operation].Error(), "hunter") {
					t.Errorf("%s quotes the secret: %v", operation, errs[operation])
				}
			}
		})
	}
	_, err := f.StageSecret(t.Context(), "acme", broker.SecretInput{Value: secret.New(nil)}, "")
	wantField(t, "StageSecret of nothing", err, "secret")
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
}

func TestRequestIDs(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	before := content(t, f.memory)
	for _, id := range []string{strings.Repeat("a", 65), "a b", "a\n", "ä", "\x00"} {
		n := newClient("other")
		n.RequestID = id
		_, err := f.CreateClient(t.Context(), n)
		wantField(t, "CreateClient", err, "request_id")
		_, err = f.StageSecret(t.Context(), "acme", input("another-one"), id)
		wantField(t, "StageSecret", err, "request_id")
	}
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
}

func TestQueries(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	tests := []struct {
		name   string
		query  broker.TokenQuery
		want   broker.Reason
		fields []string
	}{
		{"scope not allowed", broker.TokenQuery{Scopes: []string{"root"}}, broker.ReasonScopeNotAllowed, nil},
		{"one of the scopes not allowed", broker.TokenQuery{Scopes: []string{"read", "root"}}, broker.ReasonScopeNotAllowed, nil},
		{"scope in upper case", broker.TokenQuery{Scopes: []string{"READ"}}, broker.ReasonScopeNotAllowed, nil},
		{"audience not allowed", broker.TokenQuery{Audience: "aud-3"}, broker.ReasonTargetNotAllowed, nil},
		{"resource not allowed", broker.TokenQuery{Resources: []string{"https://api.example/c"}}, broker.ReasonTargetNotAllowed, nil},
		{"resource below an allowed one", broker.TokenQuery{Resources: []string{"https://api.example/a/b"}}, broker.ReasonTargetNotAllowed, nil},
		{"empty scope", broker.TokenQuery{Scopes: []string{""}}, broker.ReasonInvalidRequest, []string{"scopes[0]"}},
		{"two scopes in one", broker.TokenQuery{Scopes: []string{"read write"}}, broker.ReasonInvalidRequest, []string{"scopes[0]"}},
		{"duplicate scope", broker.TokenQuery{Scopes: []string{"read", "read"}}, broker.ReasonInvalidRequest, []string{"scopes[1]"}},
		{"10,000 scopes", broker.TokenQuery{Scopes: numbered(10_000, "s%d")}, broker.ReasonInvalidRequest, []string{"scopes"}},
		{"audience with NUL", broker.TokenQuery{Audience: "a\x00b"}, broker.ReasonInvalidRequest, []string{"audience"}},
		{"relative resource", broker.TokenQuery{Resources: []string{"a"}}, broker.ReasonInvalidRequest, []string{"resources[0]"}},
		{"negative min_validity", broker.TokenQuery{MinValidity: in(-time.Second)}, broker.ReasonInvalidRequest, []string{"min_validity"}},
		{"min_validity over a day", broker.TokenQuery{MinValidity: in(25 * time.Hour)}, broker.ReasonInvalidRequest, []string{"min_validity"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.query.ClientID = "acme"
			_, _, err := f.GetToken(t.Context(), test.query)
			wantReason(t, "GetToken", err, test.want)
			if got := fieldsOf(err); !slices.Equal(got, test.fields) {
				t.Errorf("fields = %q, want %q", got, test.fields)
			}
		})
	}
	if got := f.upstream.Count(); got != 0 {
		t.Errorf("%d requests left, want none", got)
	}
}
