package oauth_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

func TestGrantedAnswers(t *testing.T) {
	second := func(n float64) *time.Duration { d := time.Duration(n * float64(time.Second)); return &d }
	decade := 10 * 365 * 24 * time.Hour
	member := func(s string) string { return `{"access_token":"at","token_type":"Bearer",` + s + `}` }
	tests := []struct {
		name        string
		status      int
		contentType string
		body        string
		token       string // "at" if empty
		expiresIn   *time.Duration
		refreshIn   *time.Duration
		scopes      []string
	}{
		{name: "plain", body: member(`"expires_in":3600`), expiresIn: second(3600)},
		{name: "string", body: member(`"expires_in":"3599"`), expiresIn: second(3599)},
		{name: "string with spaces", body: member(`"expires_in":" 60 "`), expiresIn: second(60)},
		{name: "refresh_in", body: member(`"expires_in":86400,"refresh_in":43200`), expiresIn: second(86400), refreshIn: second(43200)},
		{name: "refresh_in as string", body: member(`"refresh_in":"43200"`), refreshIn: second(43200)},
		{name: "refresh_in zero", body: member(`"expires_in":60,"refresh_in":0`), expiresIn: second(60)},
		{name: "float", body: member(`"expires_in":59.5`), expiresIn: second(59.5)},
		{name: "exponent", body: member(`"expires_in":3.6e3`), expiresIn: second(3600)},
		{name: "null", body: member(`"expires_in":null`)},
		{name: "empty string", body: member(`"expires_in":""`)},
		{name: "zero", body: member(`"expires_in":0`)},
		{name: "zero string", body: member(`"expires_in":"0"`)},
		{name: "negative", body: member(`"expires_in":-1`)},
		{name: "tiny", body: member(`"expires_in":1e-30`)},
		{name: "words", body: member(`"expires_in":"1 hour"`)},
		{name: "not a number", body: member(`"expires_in":"NaN"`)},
		{name: "infinity", body: member(`"expires_in":"Inf"`)},
		{name: "hexadecimal", body: member(`"expires_in":"0x10"`)},
		{name: "object", body: member(`"expires_in":{"s":1}`)},
		{name: "huge", body: member(`"expires_in":99999999999999999999`), expiresIn: &decade},
		{name: "beyond floats", body: member(`"expires_in":1e999`), expiresIn: &decade},
		{name: "minus beyond floats", body: member(`"expires_in":-1e999`)},
		{name: "missing", body: member(`"x":1`)},
		{name: "201", status: 201, body: member(`"x":1`)},
		{name: "no token type", body: `{"access_token":"at"}`},
		{name: "null token type", body: `{"access_token":"at","token_type":null}`},
		{name: "lower case type", body: `{"access_token":"at","token_type":"bearer"}`},
		{name: "apigee's type", body: `{"access_token":"at","token_type":"BearerToken"}`},
		{name: "scope", body: member(`"scope":"write read  write"`), scopes: []string{"read", "write"}},
		{name: "scope array", body: member(`"scope":["write","read"]`), scopes: []string{"read", "write"}},
		{name: "empty scope", body: member(`"scope":""`), scopes: []string{}},
		{name: "null scope", body: member(`"scope":null`)},
		{name: "empty error", body: member(`"error":"","error_description":"x"`)},
		{name: "null error", body: member(`"error":null`)},
		{name: "false error", body: member(`"error":false`)},
		{name: "unknown member twice", body: member(`"x":1,"x":2`)},
		{name: "other case", body: member(`"Access_Token":"other"`)},
		{name: "byte order mark", body: "\ufeff" + member(`"x":1`)},
		{name: "json under text/html", contentType: "text/html", body: member(`"x":1`)},
		{name: "json under form type", contentType: "application/x-www-form-urlencoded", body: member(`"x":1`)},
		{name: "form", contentType: "application/x-www-form-urlencoded", body: "access_token=a%2Bt&expires_in=60&scope=b+a&token_type=bearer", token: "a+t", expiresIn: second(60), scopes: []string{"a", "b"}},
		{name: "form under json type", body: "access_token=at&token_type=bearer"},
		{name: "form under no type", contentType: " ", body: "scope=&access_token=at", scopes: []string{}},
		{name: "longest", body: `{"access_token":"` + strings.Repeat("a", broker.MaxTokenBytes) + `"}`, token: strings.Repeat("a", broker.MaxTokenBytes)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.status == 0 {
				tt.status = 200
			}
			if tt.token == "" {
				tt.token = "at"
			}
			got, err := oauth.ReadAnswer(canary, tt.status, http.Header{
				"Content-Type": {tt.contentType}, "Date": {"Wed, 21 Oct 2015 07:28:00 GMT"},
			}, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			if got.AccessToken.RevealString() != tt.token || got.TokenType != "Bearer" {
				t.Errorf("token = %q of type %q, want %q", got.AccessToken.RevealString(), got.TokenType, tt.token)
			}
			if show(got.ExpiresIn) != show(tt.expiresIn) {
				t.Errorf("ExpiresIn = %s, want %s", show(got.ExpiresIn), show(tt.expiresIn))
			}
			if show(got.RefreshIn) != show(tt.refreshIn) {
				t.Errorf("RefreshIn = %s, want %s", show(got.RefreshIn), show(tt.refreshIn))
			}
			if !slices.Equal(got.Scopes, tt.scopes) || (got.Scopes == nil) != (tt.scopes == nil) {
				t.Errorf("Scopes = %#v, want %#v", got.Scopes, tt.scopes)
			}
			if want := time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC); !got.ServerTime.Equal(want) {
				t.Errorf("ServerTime = %v, want %v", got.ServerTime, want)
			}
		})
	}
}

func show(d *time.Duration) string {
	if d == nil {
		return "nil"
	}
	return d.String()
}

func TestMalformedAnswers(t *testing.T) {
	tests := []struct {
		name, contentType, body, text string
		reason                        broker.Reason // UPSTREAM_MALFORMED if empty
	}{
		{name: "empty", text: "an empty body"},
		{name: "white space", body: " \r\n", text: "an empty body"},
		{name: "html", contentType: "text/html", body: "<html>canary", text: "an HTML or XML page"},
		{name: "words", body: "canary canary", text: "neither a JSON object nor a form"},
		{name: "array", body: `[{"access_token":"at"}]`, text: "neither"},
		{name: "string", body: `"at"`, text: "neither"},
		{name: "cut off", body: `{"access_token":"canary`, text: "not one whole object"},
		{name: "more after it", body: `{"access_token":"canary"}{"access_token":"b"}`, text: "not one whole object"},
		{name: "no token", body: `{"id_token":"canary"}`, text: "no access_token"},
		{name: "null token", body: `{"access_token":null}`, text: "no access_token"},
		{name: "token that is a number", body: `{"access_token":1}`, text: "no access_token"},
		{name: "nested", body: `{"data":{"access_token":"canary"}}`, text: "no access_token"},
		{name: "two tokens", body: `{"access_token":"canary","access_token":"b"}`, text: "twice"},
		{name: "two tokens, escaped", body: `{"access_token":"canary","access\u005ftoken":"b"}`, text: "twice"},
		{name: "two tokens in a form", body: `access_token=canary&access_token=b`, text: "twice"},
		{name: "space in token", body: `{"access_token":"canary b"}`, text: "a character that none may have"},
		{name: "line break in token", body: `{"access_token":"canary\r\nX: y"}`, text: "a character that none may have"},
		{name: "letter beyond ASCII in token", body: `{"access_token":"canaryü"}`, text: "a character that none may have"},
		{name: "too long", body: `{"access_token":"` + strings.Repeat("a", broker.MaxTokenBytes+1) + `"}`, text: "over the limit"},
		{name: "scope object", body: `{"access_token":"at","scope":{}}`, text: "neither a string nor an array"},
		{name: "scope numbers", body: `{"access_token":"at","scope":[1]}`, text: "something else than strings"},
		{name: "scope control character", body: `{"access_token":"at","scope":"a\u0000b"}`, text: "control character"},
		{name: "scope huge", body: `{"access_token":"at","scope":"` + strings.Repeat("a", 17<<10) + `"}`, text: "over the limit"},
		{name: "over 1 MiB", body: `{"access_token":"at","x":"` + strings.Repeat("a", 1<<20) + `"}`, text: "1 MiB"},
		{name: "dpop", body: `{"access_token":"canary","token_type":"DPoP"}`, text: "of type DPoP", reason: broker.ReasonTokenTypeUnsupported},
		{name: "type that echoes", body: `{"access_token":"canary-7f3a9c","token_type":"canary-7f3a9c"}`, text: "withheld", reason: broker.ReasonTokenTypeUnsupported},
		{name: "type that is a number", body: `{"access_token":"canary","token_type":1}`, text: "not a string", reason: broker.ReasonTokenTypeUnsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.reason == "" {
				tt.reason = broker.ReasonUpstreamMalformed
			}
			_, err := oauth.ReadAnswer(canary, 200, http.Header{"Content-Type": {tt.contentType}}, tt.body)
			wantReason(t, err, tt.reason, tt.text)
		})
	}
}

func TestRejectingAnswers(t *testing.T) {
	rejected := func(code, description string) string {
		return fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, description)
	}
	tests := []struct {
		name   string
		status int
		header []string
		body   string
		reason broker.Reason
		text   string
		wait   time.Duration
	}{
		{name: "invalid_client 401", status: 401, body: rejected("invalid_client", "no such client"), reason: broker.ReasonClientRejected, text: "401 with invalid_client: no such client"},
		{name: "invalid_client 400", status: 400, body: rejected("invalid_client", ""), reason: broker.ReasonClientRejected},
		{name: "invalid_client 200", status: 200, body: rejected("invalid_client", ""), reason: broker.ReasonClientRejected},
		{name: "invalid_client 500", status: 500, body: rejected("invalid_client", ""), reason: broker.ReasonClientRejected},
		{name: "capital letters", status: 400, body: rejected("INVALID_CLIENT", ""), reason: broker.ReasonClientRejected},
		{name: "invalid_client in a form", status: 401, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, body: "error=invalid_client&error_description=no+such", reason: broker.ReasonClientRejected, text: "no such"},
		{name: "invalid_grant", status: 400, body: rejected("invalid_grant", ""), reason: broker.ReasonGrantRejected},
		{name: "unauthorized_client", status: 400, body: rejected("unauthorized_client", "Client not enabled to retrieve service account"), reason: broker.ReasonGrantTypeRejected},
		{name: "unauthorized_client of keycloak", status: 401, body: rejected("unauthorized_client", "Invalid client or Invalid client credentials"), reason: broker.ReasonClientRejected},
		{name: "unauthorized_client of entra", status: 400, body: rejected("unauthorized_client", "AADSTS700016: Application with identifier 'x' was not found"), reason: broker.ReasonClientRejected},
		{name: "unsupported_grant_type", status: 400, body: rejected("unsupported_grant_type", ""), reason: broker.ReasonGrantTypeRejected},
		{name: "invalid_scope", status: 400, body: rejected("invalid_scope", ""), reason: broker.ReasonScopeRejected},
		{name: "scope_invalid", status: 400, body: rejected("scope_invalid", ""), reason: broker.ReasonScopeRejected},
		{name: "invalid_target", status: 400, body: rejected("invalid_target", ""), reason: broker.ReasonTargetRejected},
		{name: "invalid_request", status: 400, body: rejected("invalid_request", ""), reason: broker.ReasonRequestRejected},
		{name: "server_error", status: 400, body: rejected("server_error", ""), reason: broker.ReasonUpstreamUnavailable},
		{name: "temporarily_unavailable", status: 400, header: []string{"Retry-After", "7"}, body: rejected("temporarily_unavailable", ""), reason: broker.ReasonUpstreamUnavailable, wait: 7 * time.Second},
		{name: "slow_down", status: 400, body: rejected("slow_down", ""), reason: broker.ReasonUpstreamRateLimited},
		{name: "github", status: 200, body: rejected("incorrect_client_credentials", ""), reason: broker.ReasonClientRejected},
		{name: "access_denied", status: 401, body: rejected("access_denied", "Unauthorized"), reason: broker.ReasonUpstreamRefused, text: "access_denied: Unauthorized"},
		{name: "token and error", status: 200, body: `{"access_token":"canary","error":"invalid_scope"}`, reason: broker.ReasonScopeRejected},
		{name: "error that is an object", status: 400, body: `{"error":{"message":"canary","code":1}}`, reason: broker.ReasonUpstreamRefused, text: "not an OAuth one"},
		{name: "error that is an object, 200", status: 200, body: `{"access_token":"canary","error":{"code":1}}`, reason: broker.ReasonUpstreamRefused},
		{name: "error twice", status: 400, body: `{"error":"invalid_client","error":"invalid_scope"}`, reason: broker.ReasonUpstreamRefused, text: "twice"},
		{name: "429", status: 429, header: []string{"Retry-After", "60"}, body: "slow", reason: broker.ReasonUpstreamRateLimited, wait: time.Minute},
		{name: "429 with a code", status: 429, body: rejected("invalid_client", "too many tries"), reason: broker.ReasonUpstreamRateLimited, text: "invalid_client: too many tries"},
		{name: "429 for a year", status: 429, header: []string{"Retry-After", "31536000"}, reason: broker.ReasonUpstreamRateLimited, wait: time.Hour},
		{name: "429 for ever", status: 429, header: []string{"Retry-After", "99999999999999999999"}, reason: broker.ReasonUpstreamRateLimited, wait: time.Hour},
		{name: "429 until", status: 429, header: []string{"Retry-After", "Wed, 21 Oct 2015 07:28:30 GMT", "Date", "Wed, 21 Oct 2015 07:28:00 GMT"}, reason: broker.ReasonUpstreamRateLimited, wait: 30 * time.Second},
		{name: "429 until long ago", status: 429, header: []string{"Retry-After", "Wed, 21 Oct 2015 07:28:30 GMT"}, reason: broker.ReasonUpstreamRateLimited},
		{name: "429 negative", status: 429, header: []string{"Retry-After", "-5"}, reason: broker.ReasonUpstreamRateLimited},
		{name: "429 nonsense", status: 429, header: []string{"Retry-After", "soon"}, reason: broker.ReasonUpstreamRateLimited},
		{name: "429 endless", status: 429, body: strings.Repeat("a", 1<<20+1), reason: broker.ReasonUpstreamRateLimited},
		{name: "503", status: 503, header: []string{"Retry-After", "5"}, body: "<html>", reason: broker.ReasonUpstreamUnavailable, wait: 5 * time.Second},
		{name: "500 empty", status: 500, reason: broker.ReasonUpstreamUnavailable, text: "500 with an empty body"},
		{name: "501", status: 501, reason: broker.ReasonUpstreamUnavailable},
		{name: "401 empty", status: 401, reason: broker.ReasonUpstreamRefused},
		{name: "403 empty", status: 403, reason: broker.ReasonUpstreamRefused},
		{name: "403 html", status: 403, body: "<html>blocked", reason: broker.ReasonUpstreamRefused, text: "an HTML or XML page"},
		{name: "404", status: 404, body: "canary not found", reason: broker.ReasonUpstreamRefused},
		{name: "400 without a code", status: 400, body: `{"message":"canary"}`, reason: broker.ReasonUpstreamRefused},
		{name: "401 basic challenge", status: 401, header: []string{"WWW-Authenticate", `Basic realm="x"`}, reason: broker.ReasonClientRejected},
		{name: "401 basic challenge after another", status: 401, header: []string{"WWW-Authenticate", `Negotiate abc==, Basic realm="a, b"`}, reason: broker.ReasonClientRejected},
		{name: "401 basic challenge and html", status: 401, header: []string{"WWW-Authenticate", `Basic realm="x"`}, body: "<html>", reason: broker.ReasonUpstreamRefused},
		{name: "401 basic challenge and another code", status: 401, header: []string{"WWW-Authenticate", `Basic realm="x"`}, body: rejected("access_denied", ""), reason: broker.ReasonUpstreamRefused},
		{name: "403 basic challenge", status: 403, header: []string{"WWW-Authenticate", `Basic realm="x"`}, reason: broker.ReasonUpstreamRefused},
		{name: "401 bearer challenge", status: 401, header: []string{"WWW-Authenticate", `Bearer realm="x"`}, reason: broker.ReasonUpstreamRefused},
		{name: "code in a challenge", status: 401, header: []string{"WWW-Authenticate", `Bearer realm="a \" b", error="invalid_client", error_description="nope"`}, reason: broker.ReasonClientRejected, text: "invalid_client: nope"},
		{name: "body before challenge", status: 401, header: []string{"WWW-Authenticate", `Bearer error="invalid_client"`}, body: rejected("invalid_scope", ""), reason: broker.ReasonScopeRejected},
		{name: "digest challenge with a code", status: 401, header: []string{"WWW-Authenticate", `Digest error="invalid_client"`}, reason: broker.ReasonUpstreamRefused},
		{name: "304", status: 304, reason: broker.ReasonUpstreamRefused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{}
			for i := 0; i+1 < len(tt.header); i += 2 {
				header.Set(tt.header[i], tt.header[i+1])
			}
			_, err := oauth.ReadAnswer(canary, tt.status, header, tt.body)
			e := wantReason(t, err, tt.reason, tt.text)
			if e.RetryAfter != tt.wait {
				t.Errorf("RetryAfter = %v, want %v", e.RetryAfter, tt.wait)
			}
		})
	}
}
