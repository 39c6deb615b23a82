package oauth_test

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// FuzzAnswer feeds answers of any kind: they must give a token that can stand in a
// header, or an error with a known reason, and no more of the body than that.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "application/json", "", "", "", `{"access_token":"at","token_type":"Bearer","expires_in":"3599","scope":["a","b"]}`)
	f.Add(200, "application/x-www-form-urlencoded", "Wed, 21 Oct 2015 07:28:00 GMT", "", "", "access_token=at&scope=a+b&expires_in=-1")
	f.Add(401, "", "", `Basic realm="x", Bearer error="invalid_client", error_description="a \" b"`, "", "")
	f.Add(429, "text/html", "x", "Negotiate a/b==,,x", "99999999999999999999", "<html>")
	f.Add(400, "application/json", "", "", "Wed, 21 Oct 2015 07:28:00 GMT", "\ufeff"+`{"error":"invalid_client","error_description":"secret fuzz-secret-value is wrong"}`)
	f.Add(307, "", "", "", "", "")
	f.Add(200, "", "", "", "", `{"access_token":"a","access_token":"b","expires_in":1e999}`)
	f.Fuzz(func(t *testing.T, status int, contentType, date, challenge, wait, body string) {
		header := http.Header{
			"Content-Type": {contentType}, "Date": {date}, "Www-Authenticate": {challenge}, "Retry-After": {wait}, "Location": {wait},
		}
		const credential = "fuzz-secret-value"
		got, err := oauth.ReadAnswer(credential, status, header, body)
		if err == nil {
			token := got.AccessToken.RevealString()
			if token == "" || len(token) > broker.MaxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("token = %q", token)
			}
			if got.ExpiresIn != nil && (*got.ExpiresIn <= 0 || *got.ExpiresIn > 10*365*24*time.Hour) {
				t.Errorf("ExpiresIn = %v", *got.ExpiresIn)
			}
			if got.TokenType != "Bearer" {
				t.Errorf("TokenType = %q", got.TokenType)
			}
			return
		}
		e := broker.AsError(err)
		if e.Reason == broker.ReasonInternal || e.Reason.Info().Reason != e.Reason {
			t.Errorf("reason = %s", e.Reason)
		}
		if e.RetryAfter < 0 || e.RetryAfter > time.Hour {
			t.Errorf("RetryAfter = %v", e.RetryAfter)
		}
		if len(e.Detail) > 600 || strings.ContainsFunc(e.Detail, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("detail = %q", e.Detail)
		}
		if strings.Contains(strings.ToLower(err.Error()), "fuzz-sec") {
			t.Errorf("the error has the secret: %v", err)
		}
	})
}

// FuzzAnswerToProfile is FuzzAnswer with a profile that has all that a profile can say,
// for each grant.
func FuzzAnswerToProfile(f *testing.F) {
	p := profiles(f, map[string]string{"all": `
response:
  success: {path: ok, equals: "true"}
  access_token: ['user.tokens[0].value', access_token]
  token_type: [kind]
  refresh_token: [user.refresh]
  scope: [user.scopes]
  scope_separator: ","
  expires_in: {paths: [user.ends, ends], unit: unix, zero: never}
  refresh_expires_in: {paths: [clock], unit: clock}
  token_types: [user]
errors:
  code: [error.code, errcode]
  description: [error.text]
  aliases: {'40013': CLIENT_REJECTED, gone: REFRESH_TOKEN_EXPIRED, wait: AUTHORIZATION_PENDING}
  descriptions: [{match: 'in (?P<minutes>\d+) min(?P<seconds>\d+)?', reason: UPSTREAM_RATE_LIMITED}]
  retryable: [internal]
expiry: {policy: rolling, lifetime: 24h}
`}).Profile("all")
	grants := append(broker.GrantTypes(), "")
	f.Add(200, 0, "application/json", `{"ok":true,"kind":"user","user":{"tokens":[{"value":"at"}],"scopes":"a,b","ends":"1e11"},"clock":"1:02:03"}`)
	f.Add(200, 1, "application/x-www-form-urlencoded", "ok=true&access_token=at&ends=0&scope=a+b")
	f.Add(200, 2, "", `{"ok":false,"errcode":40013,"user":{"refresh":"rt-rt-rt-rt"},"error":{"text":"rt-rt-rt-rt in 5 min7"}}`)
	f.Add(400, 3, "", `{"error":{"code":"gone"},"error":"x"}`)
	f.Add(429, 4, "text/plain", "Retry-After: 60, and fuzz-secret-value in 99999999999 min")
	f.Add(400, 2, "", `{"error":"slow_down","interval":"1e99"}`)
	f.Add(200, 5, "", `{"ok":true,"access_token":"eyJ.eyJjbmYiOnsiamt0IjoieCJ9fQ.x","issued_token_type":"t","id_token":"i"}`)
	f.Fuzz(func(t *testing.T, status, grant int, contentType, body string) {
		const credential = "fuzz-secret-value"
		presented := broker.GrantParameters{Type: grants[uint(grant)%uint(len(grants))]}
		got, err := oauth.ReadAnswerTo(p, presented, credential, status, http.Header{"Content-Type": {contentType}}, body)
		if err == nil {
			token := got.AccessToken.RevealString()
			if token == "" || len(token) > broker.MaxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("token = %q", token)
			}
			for _, lifetime := range []*time.Duration{got.ExpiresIn, got.RefreshExpiresIn} {
				if lifetime != nil && (*lifetime < 0 || *lifetime > 10*365*24*time.Hour) {
					t.Errorf("lifetime = %v", *lifetime)
				}
			}
			for _, thumbprint := range []string{got.CertificateThumbprint, got.KeyThumbprint} {
				if len(thumbprint) != 0 && len(thumbprint) != 43 {
					t.Errorf("thumbprint = %q", thumbprint)
				}
			}
			if len(got.RefreshToken.RevealString()) > broker.MaxTokenBytes || len(got.IDToken.RevealString()) > broker.MaxTokenBytes {
				t.Error("a token is too long")
			}
			if !got.DeclaredOnly || got.Declared == nil || *got.Declared != 24*time.Hour {
				t.Errorf("declared %v, only: %t", got.Declared, got.DeclaredOnly)
			}
			return
		}
		e := broker.AsError(err)
		if e.Reason == broker.ReasonInternal || e.Reason.Info().Reason != e.Reason {
			t.Errorf("reason = %s", e.Reason)
		}
		if e.RetryAfter < 0 || e.RetryAfter > time.Hour {
			t.Errorf("RetryAfter = %v", e.RetryAfter)
		}
		if len(e.Detail) > 600 || strings.ContainsFunc(e.Detail, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("detail = %q", e.Detail)
		}
		if strings.Contains(strings.ToLower(err.Error()), "fuzz-sec") {
			t.Errorf("the error has the secret: %v", err)
		}
	})
}

// FuzzClean puts a secret somewhere into a text in some spelling.
func FuzzClean(f *testing.F) {
	f.Add("secret ", "p4ss w0rd+/=~", " is wrong", 0)
	f.Add("", canary, "", 3)
	f.Add("eyJ", "aaaaaaaa", "\xff\x00", 4)
	f.Add("%2", "12345678", "&#", 1)
	f.Fuzz(func(t *testing.T, before, value, after string, spelling int) {
		if len(value) < 8 || len(before)+4*len(value) > 4<<10 {
			return
		}
		spelled := value
		switch spelling {
		case 1:
			spelled = url.QueryEscape(value)
		case 2:
			spelled = hex.EncodeToString([]byte(value))
		case 3:
			spelled = base64.StdEncoding.EncodeToString([]byte(value))
		case 4:
			spelled = base64.RawURLEncoding.EncodeToString([]byte("id:" + value))
		}
		got := oauth.Clean(before+spelled+after, value)
		if want := "(withheld: it may echo a credential)"; got != want {
			t.Errorf("Clean = %q, want %q", got, want)
		}
		got = oauth.Clean(before+after, "a secret that is not in there")
		if len(got) > oauth.MaxDescription || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("Clean = %q", got)
		}
	})
}

// FuzzCheckSecret feeds keys and secrets of any kind: errors have the one reason
// and no piece of what was fed.
func FuzzCheckSecret(f *testing.F) {
	f.Add(pkcs8(f, keys().p256), "ES256", 3)
	f.Add(keyPEM(f, "RSA PRIVATE KEY"), "", 3)
	f.Add(sec1(f, keys().p384), "", 3)
	f.Add(keyJWK(f), "", 3)
	f.Add(`{"kty":"OKP","crv":"Ed25519","d":"AAAA","x":"AAAA","alg":"EdDSA"}`, "EdDSA", 3)
	f.Add(`{"kty":"RSA","n":"AAAA","e":"AQAB","d":"AAAA","p":"AA","q":"AA"}`, "RS256", 3)
	f.Add("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----", "", 3)
	f.Add("a client secret", "", 0)
	f.Fuzz(func(t *testing.T, value, algorithm string, method int) {
		methods := broker.AuthenticationMethods()
		auth := broker.Authentication{Method: methods[uint(method)%uint(len(methods))]}
		for _, known := range broker.SigningAlgorithms() {
			if known == algorithm {
				auth.SigningAlgorithm = algorithm
			}
		}
		err := oauth.CheckSecret(auth, secret.NewString(value))
		if err == nil {
			return
		}
		if got := broker.ReasonOf(err); got != broker.ReasonSecretUnusable {
			t.Errorf("reason = %s, want SECRET_UNUSABLE", got)
		}
		for _, line := range strings.Fields(value) {
			if len(line) > 20 && strings.Contains(err.Error(), line) {
				t.Errorf("error %v quotes %q", err, line)
			}
		}
	})
}
