package profile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// head is what each profile must have, on two lines.
const head = "name: acme\ntitle: Acme\n"

// problems parses a profile and returns what is wrong with it as "line: key: text".
func problems(t *testing.T, text string) []string {
	t.Helper()
	_, err := profile.Parse("some/folder/acme.yaml", []byte(text))
	if err == nil {
		return nil
	}
	var wrong *strictyaml.Error
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want a *strictyaml.Error", err)
	}
	var texts []string
	for _, p := range wrong.Problems {
		texts = append(texts, fmt.Sprintf("%d: %s", p.Line, p))
	}
	return texts
}

// TestBadProfiles: each has the problems whose beginnings are given, and no other.
func TestBadProfiles(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{"1: name: is empty", "1: title: is required"}},
		{"syntax", "name: [a\n", []string{"2: did not find"}},
		{"unknown key", head + "endpoint: x\n", []string{"3: unknown key endpoint"}},
		{"unknown key within", head + "refresh:\n  withh: login\n", []string{"4: unknown key withh"}},
		{"wrong type", head + "grants: client_credentials\n", []string{"3: `client_...` is text where a list is needed"}},
		{"duration without unit", head + "expiry: {lifetime: soon}\n", []string{"3: `soon` is text where a duration such as 30s is needed"}},
		{"no value", head + "grants:\n", []string{"3: grants: has no value"}},
		{"alias", head + "issuer: &x https://id.example.com\nstatus_page: *x\n", []string{"4: *x is an alias"}},
		{"key twice", head + "grants: [password]\ngrants: [password]\n", []string{`4: mapping key "grants" already defined at line 3`}},
		{"two documents", head + "---\n" + head, []string{"3: begins a second document"}},
		{"too long", head + "# " + strings.Repeat("x", 64<<10), []string{"1: has 655"}},
		{"name of another file", "name: acne\ntitle: Acme\n", []string{`1: name: is "acne"; it must be "acme"`}},
		{"name is no id", "name: A/..\ntitle: Acme\n", []string{`1: name: is "A/.."`, "1: name: has 'A' (U+0041)"}},
		{"control character", "name: acme\ntitle: \"A\\e[1m\"\n", []string{"2: title: must have at most"}},
		{"status page", head + "status_page: http://x.example\n", []string{"3: status_page: must be an https URL"}},
		{"hint", head + "hints: {NO_SUCH: text, CLIENT_REJECTED: \"\"}\n", []string{"3: hints.CLIENT_REJECTED: is empty", "3: hints.NO_SUCH: is not a reason"}},

		{"unknown variable", head + "endpoints: {token: \"https://{tenant}.example.com/\"}\n", []string{"3: endpoints.token: names {tenant}, which is not among variables"}},
		{"unused variable", head + "variables: {tenant: {example: x}}\n", []string{"3: variables.tenant: is used nowhere"}},
		{"name of a variable", head + "variables:\n  Tenant: {example: x}\n", []string{"4: variables.Tenant: a name has", "4: variables.Tenant: is used nowhere"}},
		{"brace in a name", head + "issuer: https://x.example/{a b}\n", []string{"3: issuer: {a b} does not name a variable"}},
		{"brace open", head + "issuer: https://x.example/{a\n", []string{"3: issuer: has a { without a }"}},
		{"brace closed", head + "issuer: https://x.example/a}\n", []string{"3: issuer: has a } without a {"}},
		{
			"loop of one", head + "variables:\n  a: {default: \"x{a}\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.default: names itself: a → a"},
		},
		{
			"loop of two", head + "variables:\n  a: {default: \"{b}\"}\n  b: {default: \"{a}\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.default: names itself: a → b → a"},
		},
		{
			"default of nothing", head + "variables:\n  a: {default: \"{b}\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.default: names {b}, which is not among variables"},
		},
		{"no example", head + "variables:\n  a: {description: x}\nissuer: https://x.example/{a}\n", []string{"4: variables.a.example: is required"}},
		{
			"example does not match", head + "variables:\n  a: {example: x/y}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.example: does not match [A-Za-z0-9._-]+"},
		},
		{
			"pattern", head + "variables:\n  a: {example: x, pattern: \"(\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.pattern: is not a regular expression: missing closing"},
		},
		{
			"pattern that leaves its group", head + "variables:\n  a: {example: x, pattern: \"x)|(y\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.pattern: is not a regular expression: unexpected )"},
		},
		{
			"pattern of nothing", head + "variables:\n  a: {example: x, pattern: \"x*\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.pattern: matches the empty text"},
		},
		{
			"endless pattern", head + "variables:\n  a: {example: x, pattern: \"" + strings.Repeat("x", 600) + "\"}\nissuer: https://x.example/{a}\n",
			[]string{"4: variables.a.pattern: has 600 bytes"},
		},
		{"reserved name", head + "variables:\n  issuer: {example: x}\nissuer: https://x.example/{issuer}\n", []string{"4: variables.issuer: is what assertion_audience"}},

		{"scheme", head + "endpoints: {token: \"ftp://x.example/\"}\n", []string{"3: endpoints.token: has another scheme than https"}},
		{
			"variable as scheme", head + "variables: {s: {example: https}}\nendpoints: {token: \"{s}://x.example/\"}\n",
			[]string{"3: variables.s: is used nowhere", "4: endpoints.token: has another scheme than https"},
		},
		{"plain http", head + "endpoints: {token: \"http://x.example/\"}\n", []string{"3: endpoints.token: must be https; plain http is for loopback"}},
		{
			"plain http to a variable", head + "variables: {h: {example: localhost}}\nendpoints: {token: \"http://{h}/\"}\n",
			[]string{"3: variables.h: is used nowhere", "4: endpoints.token: must be https"},
		},
		{"user", head + "endpoints: {token: \"https://user:pw@x.example/\"}\n", []string{"3: endpoints.token: must not have a user"}},
		{"query", head + "endpoints: {token: \"https://x.example/?a=b\"}\n", []string{"3: endpoints.token: must not have a query"}},
		{"fragment", head + "endpoints: {authorization: \"https://x.example/#a\"}\n", []string{"3: endpoints.authorization: must not have a fragment"}},
		{"no host", head + "endpoints: {token: \"https:///token\"}\n", []string{"3: endpoints.token: has no host"}},
		{"no host but a port", head + "endpoints: {token: \"https://:443/token\"}\n", []string{"3: endpoints.token: has no host"}},
		{"space", head + "endpoints: {token: \"https://x.example/a b\"}\n", []string{"3: endpoints.token: has a character that must be percent-encoded"}},
		{"backslash", head + "endpoints: {token: 'https://x.example\\@y.example/'}\n", []string{"3: endpoints.token: has a character that must be percent-encoded"}},
		{"path that climbs", head + "endpoints: {token: \"https://x.example/a/%2e%2e/b\"}\n", []string{"3: endpoints.token: has a path with a segment . or .."}},
		{
			"part of a label", head + "variables: {t: {example: x}}\nendpoints: {token: \"https://login-{t}.example.com/\"}\n",
			[]string{"3: variables.t: is used nowhere", "4: endpoints.token: {t} must be a whole label"},
		},
		{
			"two in a label", head + "variables: {t: {example: x}}\nendpoints: {token: \"https://{t}{t}.example.com/\"}\n",
			[]string{"3: variables.t: is used nowhere", "4: endpoints.token: {t} must be a whole label"},
		},
		{
			"host variable with a slash", head + "variables:\n  t: {example: x, pattern: \"[a-z/]+\"}\nendpoints: {token: \"https://{t}.example.com/\"}\n",
			[]string{"5: endpoints.token: has {t} in its host, so variables.t.pattern must match"},
		},
		{
			"host variable of anything", head + "variables:\n  t: {example: x, pattern: \".+\"}\nendpoints: {token: \"https://{t}.example.com/\"}\n",
			[]string{"5: endpoints.token: has {t} in its host, so variables.t.pattern must match"},
		},
		{
			"host variable with the sign of Kelvin", head + "variables:\n  t: {example: k, pattern: \"(?i)k\"}\nendpoints: {token: \"https://{t}.example.com/\"}\n",
			[]string{"5: endpoints.token: has {t} in its host, so variables.t.pattern must match"},
		},
		{
			"port of letters", head + "variables:\n  p: {example: \"80\"}\nendpoints: {token: \"https://x.example:{p}/\"}\n",
			[]string{"5: endpoints.token: has {p} as a port"},
		},
		{
			"other origin", head + "endpoints:\n  token: https://x.example/token\n  revocation: https://y.example/revoke\n",
			[]string{"5: endpoints.revocation: must have the origin of endpoints.token"},
		},
		{
			"other port", head + "endpoints:\n  token: https://x.example/token\n  refresh: https://x.example:8443/refresh\n",
			[]string{"5: endpoints.refresh: must have the origin of endpoints.token"},
		},
		{"credential without token endpoint", head + "endpoints:\n  device_authorization: https://x.example/device\n", []string{"4: endpoints.device_authorization: needs endpoints.token"}},

		{"grant", head + "grants: [implicit]\n", []string{`3: grants[0]: is "implicit"; it must be one of`}},
		{"grant twice", head + "grants: [password, password]\n", []string{"3: grants[1]: is there twice"}},
		{"method", head + "authentication: {methods: [basic]}\n", []string{`3: authentication.methods[0]: is "basic"`}},
		{"algorithm", head + "authentication: {signing_algorithm: none}\n", []string{`3: authentication.signing_algorithm: is "none"`}},
		{"audience", head + "authentication: {assertion_audience: \"{x}\"}\n", []string{"3: authentication.assertion_audience: names {x}"}},
		{"assertion that lives long", head + "authentication: {assertion_lifetime: 61m}\n", []string{"3: authentication.assertion_lifetime: is 1h1m0s"}},

		{"format", head + "request: {format: xml}\n", []string{`3: request.format: is "xml"`}},
		{"query by POST", head + "request: {format: query}\n", []string{"3: request.format: is query; query goes with the method GET"}},
		{"unknown parameter", head + "request: {names: {clientid: x}}\n", []string{"3: request.names.clientid: is not a standard's parameter"}},
		{"two of one name", head + "request: {names: {client_id: x, client_secret: x}}\n", []string{"3: request.names.client_secret: has the name of client_id"}},
		{"name with a space", head + "request: {names: {client_id: \"a b\"}}\n", []string{"3: request.names.client_id: must have"}},
		{"secret as a value", head + "request: {values: {client_secret: x}}\n", []string{"3: request.values.client_secret: is the name of what carries a credential"}},
		{"renamed secret as a value", head + "request: {names: {client_secret: Key}, values: {Key: x}}\n", []string{"3: request.values.Key: is the name of what carries a credential"}},
		{
			"renamed secret as a value of refreshes", head + "request: {names: {client_secret: Key}}\nrefresh: {values: {Key: x}}\n",
			[]string{"4: refresh.values.Key: is the name of what carries a credential"},
		},
		{"secret of another name", head + "request: {values: {AppSecret: x}}\n", []string{"3: request.values.AppSecret: is the name of what carries a credential"}},
		{"grant type of several grants", head + "grants: [client_credentials, authorization_code]\nrequest: {values: {grant_type: x}}\n", []string{"4: request.values.grant_type: would be sent with each"}},
		{"header of a credential", head + "request: {headers: {Authorization: x}}\n", []string{"3: request.headers.Authorization: is the broker's to send"}},
		{"header of a key", head + "request: {headers: {X-Api-Key: x}}\n", []string{"3: request.headers.X-Api-Key: is the broker's to send"}},
		{"header twice", head + "request: {headers: {X-Version: x, x-version: y}}\n", []string{"3: request.headers.x-version: is there twice"}},
		{"header of two lines", head + "request: {headers: {X-Version: \"a\\r\\nb\"}}\n", []string{"3: request.headers.X-Version: must have"}},
		{"separator", head + "request: {scope_separator: \"&\"}\n", []string{`3: request.scope_separator: is "&"`}},
		{"resource as", head + "request: {resource_as: client_secret}\n", []string{"3: request.resource_as: is not the name"}},
		{"state as a value", head + "consent: {values: {state: x, response_type: token}}\n", []string{"3: consent.values.state: is the name", "3: consent.values.response_type: is the broker's"}},
		{"PKCE", head + "consent: {pkce: plain}\n", []string{`3: consent.pkce: is "plain"`}},

		{"path of nothing", head + "response: {access_token: [\"\"]}\n", []string{"3: response.access_token[0]: is empty"}},
		{"path with two dots", head + "response: {access_token: [a..b]}\n", []string{`3: response.access_token[0]: "a..b" is not a path`}},
		{"path with an open bracket", head + "response: {access_token: [\"a[0\"]}\n", []string{`3: response.access_token[0]: "a[0" is not a path`}},
		{"path with a negative index", head + "errors: {code: [\"a[-1]\"]}\n", []string{`3: errors.code[0]: "a[-1]" is not a path`}},
		{"path with a star", head + "errors: {code: [\"a[*]\"]}\n", []string{`3: errors.code[0]: "a[*]" is not a path`}},
		{"path that begins with an index", head + "errors: {code: [\"[0]\"]}\n", []string{`3: errors.code[0]: "[0]" is not a path`}},
		{"endless path", head + "errors: {code: [a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a]}\n", []string{"3: errors.code[0]: \"a.a"}},
		{"half a predicate", head + "response: {success: {path: ok}}\n", []string{"3: response.success: needs both"}},
		{"unit", head + "response: {expires_in: {unit: fortnights}}\n", []string{`3: response.expires_in.unit: is "fortnights"`}},
		{"zero", head + "response: {expires_in: {zero: forever}}\n", []string{`3: response.expires_in.zero: is "forever"`}},
		{"token type", head + "response: {token_types: [Token]}\n", []string{`3: response.token_types: "Token" must be in lower case`}},
		{"alias to what no answer means", head + "errors: {aliases: {bad: STORE_SEALED}}\n", []string{`3: errors.aliases.bad: is "STORE_SEALED"; an answer can mean`}},
		{"alias in upper case", head + "errors: {aliases: {Bad: CLIENT_REJECTED}}\n", []string{`3: errors.aliases.Bad: "Bad" must be in lower case`}},
		{"retryable in upper case", head + "errors: {retryable: [BUSY]}\n", []string{`3: errors.retryable: "BUSY" must be`}},
		{"description without match", head + "errors: {descriptions: [{reason: CLIENT_REJECTED}]}\n", []string{"3: errors.descriptions[0].match: is required"}},
		{"description that matches all", head + "errors: {descriptions: [{match: x*, reason: CLIENT_REJECTED}]}\n", []string{"3: errors.descriptions[0].match: matches the empty text"}},
		{"description with a group", head + "errors: {descriptions: [{match: \"(?P<hours>x)\", reason: CLIENT_REJECTED}]}\n", []string{`3: errors.descriptions[0].match: has a group "hours"`}},

		{"policy", head + "expiry: {policy: sliding, lifetime: 1h}\n", []string{`3: expiry.policy: is "sliding"`}},
		{"rolling for how long", head + "expiry: {policy: rolling}\n", []string{"3: expiry.lifetime: is required"}},
		{"lifetime", head + "expiry: {lifetime: -1s}\n", []string{"3: expiry.lifetime: is -1s"}},
		{"refresh", head + "refresh: {with: magic, rotation: often}\n", []string{`3: refresh.with: is "magic"`, `3: refresh.rotation: is "often"`}},
		{"grace without rotation", head + "refresh: {rotation: never, grace: 10s}\n", []string{"3: refresh.grace: says nothing"}},
		{"budget without period", head + "limits: {tokens: 3}\n", []string{"3: limits.tokens: needs"}},
		{"two limits", head + "limits: {max_live_tokens: 3, single_active_token: true}\n", []string{"3: limits.max_live_tokens: must be 0"}},
		{"rotator", head + "secrets: {rotator: \"a b\", propagation: 25h}\n", []string{"3: secrets.rotator: has ' '", "3: secrets.propagation: is 25h0m0s"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := problems(t, test.text)
			same := len(got) == len(test.want)
			for _, want := range test.want {
				same = same && slices.ContainsFunc(got, func(text string) bool { return strings.HasPrefix(text, want) })
			}
			if !same {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestGoodProfiles: what looks unusual and is right.
func TestGoodProfiles(t *testing.T) {
	for name, text := range map[string]string{
		"least":                   head,
		"loopback":                head + "variables: {port: {example: \"80\", pattern: \"[0-9]{1,5}\"}}\nendpoints: {token: \"http://127.0.0.1:{port}/token\"}\n",
		"loopback by IPv6":        head + "endpoints: {token: \"http://[::1]:8080/token\"}\n",
		"variable as whole host":  head + "variables: {host: {example: a.example}}\nendpoints: {token: \"https://{host}/token\", revocation: \"https://{host}/revoke\"}\n",
		"variable in two labels":  head + "variables: {a: {example: a}, b: {example: b}}\nendpoints: {token: \"https://{a}.{b}.example/token\"}\n",
		"default of another":      head + "variables: {a: {example: a}, b: {default: \"{a}-x\"}}\nendpoints: {token: \"https://{b}.example/token\"}\n",
		"API elsewhere":           head + "endpoints: {token: \"https://x.example/\", api: \"https://api.example/me?a=b\", authorization: \"https://login.example/?p=1\"}\n",
		"grant type of one grant": head + "grants: [client_credentials, refresh_token]\nrequest: {values: {grant_type: account_credentials}}\n",
		"left out":                head + "request: {names: {scope: \"\", grant_type: \"\"}}\n",
		"wait in the description": head + "errors: {descriptions: [{match: 'wait (?P<seconds>\\d+) s', reason: UPSTREAM_RATE_LIMITED}]}\n",
		"deep path":               head + "response: {access_token: [\"a.b[0][1].c\", \"@odata\"]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := problems(t, text); len(got) > 0 {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p, err := profile.Parse("acme.yaml", []byte(head+"request: {scope_separator: \",\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(p.Request.Format, p.Request.Method, p.Consent.ScopeName, p.Consent.ScopeSeparator, p.Response.ExpiresIn, p.Expiry.Policy, p.Refresh.With, p.Grants, p.Authentication.Methods, p.Answer().AccessToken)
	if want := "formPOSTscope,{[expires_in] seconds absent}answerrefresh_token[client_credentials] [client_secret_basic] [access_token]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if p.Authentication.AssertionLifetime != time.Minute {
		t.Errorf("assertions live %v, want 1 min", p.Authentication.AssertionLifetime)
	}
}

// FuzzParse: whatever a file holds, there is no panic, problems have lines, and a
// profile without problems sends nothing to where its text does not lead.
func FuzzParse(f *testing.F) {
	set, err := profile.Load("")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range set.Names() {
		provider, _ := set.Provider(name)
		f.Add([]byte(provider.Definition), "x")
	}
	f.Add([]byte("name: x\ntitle: x\nvariables: {a: {example: b, pattern: '[a-z./]+'}}\nendpoints: {token: 'https://x.example/{a}'}\n"), "../x")
	f.Add([]byte("name: x\ntitle: x\nvariables: {a: {example: b, default: '{a}'}}\nendpoints: {token: 'https://{a}.example/'}\n"), "y.example/")
	f.Fuzz(func(t *testing.T, raw []byte, value string) {
		p, err := profile.Parse("x.yaml", raw)
		if err != nil {
			var wrong *strictyaml.Error
			if !errors.As(err, &wrong) || len(wrong.Problems) == 0 || wrong.Problems[0].Line < 1 {
				t.Fatalf("got %v, want problems with lines", err)
			}
			return
		}
		said := map[string]string{}
		for name := range p.Variables {
			said[name] = value
		}
		u, violations := p.Expand(said)
		if len(violations) > 0 {
			return
		}
		checkOrigin(t, p.Endpoints.Token, u.TokenEndpoint)
		checkOrigin(t, p.Endpoints.Authorization, u.AuthorizationEndpoint)
		p.RequestShape().Values(said)
		p.Headers(said)
	})
}
