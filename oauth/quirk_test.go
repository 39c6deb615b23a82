package oauth_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// jwt returns a token with a payload and no signature to speak of.
func jwt(payload string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

// thumbprint has the form of one.
var thumbprint = base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("t", 32)))

// TestGrantedByProfiles: what servers send that depart from the standards, and what is
// read of it. It is midnight of the first of January 2000, by the clocks of both.
func TestGrantedByProfiles(t *testing.T) {
	decade := 10 * 365 * 24 * time.Hour
	expires := func(unit, zero string) string {
		return fmt.Sprintf("response: {expires_in: {paths: [ends, expires_in], unit: %s, zero: %s}}", unit, zero)
	}
	tests := []struct {
		name, profile string
		grant         broker.GrantType
		header        []string
		body          string
		// want is token, type, lifetime, refresh token and what else is there.
		want string
	}{
		{name: "json login", profile: "response: {access_token: [Token], refresh_token: [RefreshToken]}", body: `{"Token":"at","RefreshToken":"rt"}`, want: "at Bearer - rt"},
		{name: "nested", profile: "response: {access_token: ['data.tokens[1].value']}", body: `{"data":{"tokens":[{},{"value":"at"}]}}`, want: "at Bearer -"},
		{name: "second path", profile: "response: {access_token: [user.token, token]}", body: `{"user":null,"token":"at"}`, want: "at Bearer -"},
		{name: "first path that says something", profile: "response: {access_token: [a, b]}", body: `{"a":"","b":"at"}`, want: "at Bearer -"},
		{name: "slack", profile: `
response:
  success: {path: ok, equals: "true"}
  access_token: [authed_user.access_token, access_token]
  scope: [authed_user.scope]
  scope_separator: ","
  token_types: [user]
`, body: `{"ok":true,"token_type":"user","access_token":"bot","authed_user":{"access_token":"at","scope":"b,a"}}`, want: "at Bearer - scopes=[a b]"},
		{name: "as deep as paths lead", profile: "response: {access_token: [a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p]}", body: `{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":{"j":{"k":{"l":{"m":{"n":{"o":{"p":` + `"at"` + strings.Repeat("}", 16), want: "at Bearer -"},
		{name: "success is a number", profile: `response: {success: {path: errcode, equals: "0"}}
errors: {code: [errcode]}`, body: `{"errcode":0,"access_token":"at"}`, want: "at Bearer -"},
		{name: "success is text that looks like a code", profile: `response: {success: {path: code, equals: "0"}}
errors: {code: [code]}`, body: `{"code":"0","access_token":"at"}`, want: "at Bearer -"},
		{name: "form", profile: "response: {access_token: [token]}", body: "token=at&expires_in=60", want: "at Bearer 1m0s"},
		{name: "form by its type", profile: "response: {access_token: [token]}", header: []string{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"}, body: "token=a%7Bt", want: "a{t Bearer -"},
		{name: "unknown member twice", profile: "response: {access_token: [token]}", body: `{"token":"at","x":1,"x":2}`, want: "at Bearer -"},
		{name: "null error", profile: "errors: {code: [fault.code]}", body: `{"access_token":"at","fault":null,"error":null}`, want: "at Bearer -"},

		{name: "string", profile: expires("seconds", "absent"), body: `{"access_token":"at","expires_in":"3599"}`, want: "at Bearer 59m59s"},
		{name: "milliseconds", profile: expires("milliseconds", "absent"), body: `{"access_token":"at","ends":90000}`, want: "at Bearer 1m30s"},
		{name: "minutes", profile: expires("minutes", "absent"), body: `{"access_token":"at","ends":"90"}`, want: "at Bearer 1h30m0s"},
		{name: "second path of a time", profile: expires("seconds", "absent"), body: `{"access_token":"at","ends":null,"expires_in":60}`, want: "at Bearer 1m0s"},
		{name: "point in time", profile: expires("unix", "absent"), body: `{"access_token":"at","ends":"946684860"}`, want: "at Bearer 1m0s"},
		{name: "point in time by their clock", profile: expires("unix", "absent"), header: []string{"Date", "Sat, 01 Jan 2000 00:00:30 GMT"}, body: `{"access_token":"at","ends":946684860}`, want: "at Bearer 30s"},
		{name: "point in time that has passed", profile: expires("unix", "absent"), body: `{"access_token":"at","ends":946684000}`, want: "at Bearer 0s"},
		{name: "point in milliseconds", profile: expires("unix_milliseconds", "absent"), body: `{"access_token":"at","ends":946684860000}`, want: "at Bearer 1m0s"},
		{name: "rfc3339", profile: expires("rfc3339", "absent"), body: `{"access_token":"at","ends":"2000-01-01T02:01:00+02:00"}`, want: "at Bearer 1m0s"},
		{name: "iso with a fraction and no zone", profile: expires("rfc3339", "absent"), body: `{"access_token":"at","ends":"2000-01-01T00:01:00.5"}`, want: "at Bearer 1m0.5s"},
		{name: "iso with a short zone", profile: expires("rfc3339", "absent"), body: `{"access_token":"at","ends":"2000-01-01T00:01:00+0000"}`, want: "at Bearer 1m0s"},
		{name: "no time", profile: expires("rfc3339", "absent"), body: `{"access_token":"at","ends":"soon"}`, want: "at Bearer -"},
		{name: "clock", profile: expires("clock", "absent"), body: `{"access_token":"at","ends":"10:02:30"}`, want: "at Bearer 242h30m0s"},
		{name: "no clock", profile: expires("clock", "absent"), body: `{"access_token":"at","ends":"02:30"}`, want: "at Bearer -"},
		{name: "zero", profile: expires("seconds", "absent"), body: `{"access_token":"at","ends":0}`, want: "at Bearer -"},
		{name: "zero is never", profile: expires("seconds", "never"), body: `{"access_token":"at","ends":"0"}`, want: "at Bearer " + decade.String()},
		{name: "zero is expired", profile: expires("unix", "expired"), body: `{"access_token":"at","ends":0}`, want: "at Bearer 0s"},
		{name: "negative", profile: expires("seconds", "expired"), body: `{"access_token":"at","ends":-1}`, want: "at Bearer -"},
		{name: "absurd", profile: expires("unix", "never"), body: `{"access_token":"at","ends":1e300}`, want: "at Bearer " + decade.String()},
		{name: "tiny", profile: expires("milliseconds", "never"), body: `{"access_token":"at","ends":1e-30}`, want: "at Bearer -"},

		{name: "declared besides", profile: "expiry: {policy: answer, lifetime: 2h}", body: `{"access_token":"at"}`, want: "at Bearer - declared=2h0m0s"},
		{name: "declared only", profile: "expiry: {policy: declared, lifetime: 2h}", body: `{"access_token":"at","expires_in":60}`, want: "at Bearer 1m0s declared=2h0m0s only"},
		{name: "rolling", profile: "expiry: {policy: rolling, lifetime: 24h}", body: `{"access_token":"at"}`, want: "at Bearer - declared=24h0m0s only"},

		{name: "end of the refresh token", profile: "response: {refresh_expires_in: {paths: [x], unit: minutes}}", body: `{"access_token":"at","refresh_token":"rt","x":2}`, want: "at Bearer - rt ends=2m0s"},
		{name: "end of the refresh token, keycloak", body: `{"access_token":"at","refresh_token":"rt","refresh_expires_in":1800}`, want: "at Bearer - rt ends=30m0s"},
		{name: "end of the refresh token, github", body: `{"access_token":"at","refresh_token":"rt","refresh_token_expires_in":15811200}`, want: "at Bearer - rt ends=4392h0m0s"},
		{name: "id token", body: `{"access_token":"at","id_token":"id.to.ken"}`, want: "at Bearer - id=id.to.ken"},
		{name: "refresh token that nobody can use, of a client's own authority", body: `{"access_token":"at","refresh_token":"ü"}`, want: "at Bearer -"},
		{name: "exchanged", grant: broker.TokenExchange, body: `{"access_token":"at","token_type":"N_A","issued_token_type":"urn:x"}`, want: "at N_A - issued=urn:x"},
		{name: "exchanged without RFC 8693", profile: "grants: [token_exchange]\nrequest: {values: {grant_type: other}}", grant: broker.TokenExchange, body: `{"access_token":"at"}`, want: "at Bearer -"},
		{name: "bound to a certificate", body: `{"access_token":"` + jwt(`{"cnf":{"x5t#S256":"`+thumbprint+`"}}`) + `"}`, want: "JWT Bearer - x5t=" + thumbprint},
		{name: "bound to a key", profile: "response: {access_token: [t]}", body: `{"t":"` + jwt(`{"cnf":{"jkt":"`+thumbprint+`"}}`) + `"}`, want: "JWT Bearer - jkt=" + thumbprint},
		{name: "bound to nonsense", body: `{"access_token":"` + jwt(`{"cnf":{"jkt":"x","x5t#S256":7}}`) + `"}`, want: "JWT Bearer -"},
		{name: "type in lower case", profile: "response: {token_types: [token]}", body: `{"access_token":"at","token_type":"Token"}`, want: "at Bearer -"},
		{name: "huge", body: `{"access_token":"` + strings.Repeat("a", 12000) + `"}`, want: strings.Repeat("a", 12000) + " Bearer -"},
	}
	yaml := make(map[string]string)
	for i, tt := range tests {
		yaml[fmt.Sprintf("p%d", i)] = tt.profile + "\n"
	}
	set := profiles(t, yaml)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := set.Profile(fmt.Sprintf("p%d", i))
				if tt.profile == "" {
					p = nil
				}
				got, err := oauth.ReadAnswerTo(p, broker.GrantParameters{Type: tt.grant}, canary, 200, headerOf(tt.header), tt.body)
				if err != nil {
					t.Fatal(err)
				}
				if got := told(got); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
				if tt.profile != "" {
					return
				}
				// What the standards say holds with a profile that says nothing.
				same, err := oauth.ReadAnswerTo(set.Profile("generic"), broker.GrantParameters{Type: tt.grant}, canary, 200, headerOf(tt.header), tt.body)
				if err != nil || told(same) != tt.want {
					t.Errorf("generic: got %s, %v, want %s", told(same), err, tt.want)
				}
			})
		})
	}
}

func headerOf(pairs []string) http.Header {
	header := make(http.Header)
	for pair := range slices.Chunk(pairs, 2) {
		header.Add(pair[0], pair[1])
	}
	return header
}

// told says what is in an answer, on one line.
func told(r broker.TokenResponse) string {
	token := r.AccessToken.RevealString()
	if strings.HasPrefix(token, "eyJ") {
		token = "JWT"
	}
	words := []string{token, r.TokenType, strings.Replace(show(r.ExpiresIn), "nil", "-", 1)}
	add := func(label, value string) {
		if value != "" {
			words = append(words, label+value)
		}
	}
	add("", r.RefreshToken.RevealString())
	if r.RefreshExpiresIn != nil {
		add("ends=", r.RefreshExpiresIn.String())
	}
	if r.Declared != nil {
		add("declared=", r.Declared.String())
	}
	if r.DeclaredOnly {
		add("", "only")
	}
	if r.Scopes != nil {
		add("scopes=", fmt.Sprint(r.Scopes))
	}
	add("id=", r.IDToken.RevealString())
	add("issued=", r.IssuedTokenType)
	add("x5t=", r.CertificateThumbprint)
	add("jkt=", r.KeyThumbprint)
	return strings.Join(words, " ")
}

// TestMalformedByProfiles: answers with a good status that are no good.
func TestMalformedByProfiles(t *testing.T) {
	set := profiles(t, map[string]string{
		"nested":  "response: {access_token: [data.token]}\n",
		"success": "response: {success: {path: ok, equals: \"true\"}}\n",
	})
	tests := []struct {
		name, profile string
		grant         broker.GrantType
		body, text    string
		reason        broker.Reason // UPSTREAM_MALFORMED if empty
	}{
		{name: "token elsewhere", profile: "nested", body: `{"access_token":"canary"}`, text: "no access_token"},
		{name: "token that is an object", profile: "nested", body: `{"data":{"token":{"x":"canary"}}}`, text: "no access_token"},
		{name: "path through a list", profile: "nested", body: `{"data":[{"token":"canary"}]}`, text: "no access_token"},
		{name: "token twice, nested", profile: "nested", body: `{"data":{"token":"canary","token":"b"}}`, text: "twice"},
		{name: "way to it twice", profile: "nested", body: `{"data":{"token":"canary"},"data":{"token":"b"}}`, text: "twice"},
		{name: "list", profile: "nested", body: `[{"data":1}]`, text: "neither"},
		{name: "more scopes than are kept", profile: "success", body: `{"ok":"true","access_token":"at","scope":[` + strings.Repeat(`"a",`, 20000) + `"canary"]}`, text: "over the limit"},
		{name: "long list of scopes with something else", profile: "success", body: `{"ok":"true","access_token":"at","scope":["a",{"ok":"canary"}]}`, text: "something else than strings"},
		{name: "empty", profile: "nested", text: "an empty body"},
		{name: "page", profile: "nested", body: "<html>canary", text: "an HTML or XML page"},
		{name: "cut off", profile: "nested", body: `{"data":{"token":"canary"`, text: "not one whole object"},
		{name: "more after it", profile: "nested", body: `{"data":{"token":"canary"}} {}`, text: "not one whole object"},
		{name: "deep", profile: "nested", body: strings.Repeat(`{"data":`, 100000), text: "not one whole object"},
		{name: "no success", profile: "success", body: `{"ok":false,"access_token":"canary"}`, text: "no success by the provider's profile", reason: broker.ReasonUpstreamRefused},
		{name: "success is not told", profile: "success", body: `{"access_token":"canary"}`, text: "no success by the provider's profile", reason: broker.ReasonUpstreamRefused},
		{name: "success and an error", profile: "success", body: `{"ok":true,"access_token":"canary","error":"invalid_scope"}`, reason: broker.ReasonScopeRejected},
		{name: "error of something in front", profile: "nested", body: `{"data":{"token":"canary"},"error":"invalid_client"}`, reason: broker.ReasonClientRejected},
		{name: "exchange that does not say what", grant: broker.TokenExchange, body: `{"access_token":"at"}`, text: "no issued_token_type"},
		{name: "exchange that says too much", grant: broker.TokenExchange, body: `{"access_token":"at","issued_token_type":"` + strings.Repeat("a", 300) + `"}`, text: "issued_token_type"},
		{name: "not applicable, of no exchange", body: `{"access_token":"at","token_type":"N_A"}`, text: "N_A", reason: broker.ReasonTokenTypeUnsupported},
		{name: "refresh token that cannot be used", grant: broker.RefreshToken, body: `{"access_token":"at","refresh_token":"canary\n"}`, text: "refresh_token has a character"},
		{name: "refresh token too long", grant: broker.AuthorizationCode, body: `{"access_token":"at","refresh_token":"` + strings.Repeat("a", broker.MaxTokenBytes+1) + `"}`, text: "over the limit"},
		{name: "id token too long", grant: broker.AuthorizationCode, body: `{"access_token":"at","id_token":"` + strings.Repeat("a", broker.MaxTokenBytes+1) + `"}`, text: "its id_token has"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.reason == "" {
				tt.reason = broker.ReasonUpstreamMalformed
			}
			_, err := oauth.ReadAnswerTo(set.Profile(tt.profile), broker.GrantParameters{Type: tt.grant}, canary, 200, http.Header{}, tt.body)
			wantReason(t, err, tt.reason, tt.text)
		})
	}
}
