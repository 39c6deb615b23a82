package oauth_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// TestRejectionsOfGrants: what the standards' codes mean of each grant.
func TestRejectionsOfGrants(t *testing.T) {
	rejected := func(code, description string) string {
		return fmt.Sprintf(`{"error":%q,"error_description":%q}`, code, description)
	}
	tests := []struct {
		name   string
		grant  broker.GrantParameters
		status int // 400 if 0
		header []string
		body   string
		reason broker.Reason
		wait   time.Duration
	}{
		{name: "own authority", grant: broker.GrantParameters{Type: broker.ClientCredentials}, body: rejected("invalid_grant", ""), reason: broker.ReasonGrantRejected},
		{name: "assertion", grant: broker.GrantParameters{Type: broker.JWTBearer}, body: rejected("invalid_grant", "Invalid JWT Signature."), reason: broker.ReasonGrantRejected},
		{name: "password", grant: broker.GrantParameters{Type: broker.Password}, body: rejected("invalid_grant", ""), reason: broker.ReasonGrantRejected},
		{name: "code", grant: broker.GrantParameters{Type: broker.AuthorizationCode}, body: rejected("invalid_grant", "Code not valid"), reason: broker.ReasonAuthorizationNotTaken},
		{name: "code and wrong secret", grant: broker.GrantParameters{Type: broker.AuthorizationCode}, body: rejected("invalid_client", ""), reason: broker.ReasonClientRejected},

		{name: "refresh", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_grant", "The refresh token is invalid or expired."), reason: broker.ReasonRefreshTokenRejected},
		{name: "refresh, auth0", grant: broker.GrantParameters{Type: broker.RefreshToken}, status: 403, body: rejected("invalid_grant", "Unknown or invalid refresh token."), reason: broker.ReasonRefreshTokenRejected},
		{name: "refresh, scope", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_scope", ""), reason: broker.ReasonScopeRejected},
		{name: "refresh, bare 401", grant: broker.GrantParameters{Type: broker.RefreshToken}, status: 401, reason: broker.ReasonUpstreamRefused},
		{name: "reuse, keycloak", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_grant", "Maximum allowed refresh token reuse exceeded"), reason: broker.ReasonRefreshTokenReused},
		{name: "reuse, hydra", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_grant", "The provided grant is invalid. The refresh token was already used."), reason: broker.ReasonRefreshTokenReused},
		{name: "reuse, supabase", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_grant", "Invalid Refresh Token: Already Used"), reason: broker.ReasonRefreshTokenReused},
		{name: "reuse, openai", grant: broker.GrantParameters{Type: broker.RefreshToken}, status: 401, body: rejected("refresh_token_reused", ""), reason: broker.ReasonRefreshTokenReused},
		{name: "words of reuse about a code", grant: broker.GrantParameters{Type: broker.AuthorizationCode}, body: rejected("invalid_grant", "refresh token was already used"), reason: broker.ReasonAuthorizationNotTaken},
		{name: "words of reuse beside another code", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("invalid_client", "refresh token was already used"), reason: broker.ReasonClientRejected},

		{name: "pending", grant: broker.GrantParameters{Type: broker.DeviceCode}, body: rejected("authorization_pending", ""), reason: broker.ReasonAuthorizationPending, wait: 5 * time.Second},
		{name: "pending, google", grant: broker.GrantParameters{Type: broker.DeviceCode, PollInterval: 7 * time.Second}, status: 428, body: rejected("authorization_pending", ""), reason: broker.ReasonAuthorizationPending, wait: 7 * time.Second},
		{name: "slow down", grant: broker.GrantParameters{Type: broker.DeviceCode, PollInterval: 10 * time.Second}, body: rejected("slow_down", ""), reason: broker.ReasonAuthorizationPending, wait: 15 * time.Second},
		{name: "slow down, 429", grant: broker.GrantParameters{Type: broker.DeviceCode}, status: 429, header: []string{"Retry-After", "60"}, body: rejected("slow_down", ""), reason: broker.ReasonAuthorizationPending, wait: time.Minute},
		{name: "slow down, github", grant: broker.GrantParameters{Type: broker.DeviceCode, PollInterval: 5 * time.Second}, status: 200, body: `{"error":"slow_down","interval":20}`, reason: broker.ReasonAuthorizationPending, wait: 20 * time.Second},
		{name: "slow down for ever", grant: broker.GrantParameters{Type: broker.DeviceCode}, body: `{"error":"slow_down","interval":1e99}`, reason: broker.ReasonAuthorizationPending, wait: 5 * time.Minute},
		{name: "device code expired", grant: broker.GrantParameters{Type: broker.DeviceCode}, body: rejected("expired_token", ""), reason: broker.ReasonAuthorizationExpired},
		{name: "device denied", grant: broker.GrantParameters{Type: broker.DeviceCode}, status: 403, body: rejected("access_denied", ""), reason: broker.ReasonAuthorizationDenied},
		{name: "device code unknown", grant: broker.GrantParameters{Type: broker.DeviceCode}, body: rejected("invalid_grant", ""), reason: broker.ReasonAuthorizationNotTaken},
		{name: "polls too often, 429", grant: broker.GrantParameters{Type: broker.DeviceCode}, status: 429, body: rejected("rate_limited", ""), reason: broker.ReasonUpstreamRateLimited},
		{name: "slow down, no device", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("slow_down", ""), reason: broker.ReasonUpstreamRateLimited},
		{name: "denied, no device", grant: broker.GrantParameters{Type: broker.RefreshToken}, body: rejected("access_denied", ""), reason: broker.ReasonUpstreamRefused},

		{name: "exchange", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_request", "Invalid subject_token"), reason: broker.ReasonSubjectTokenRejected},
		{name: "exchange, grant", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_grant", "The subject token has expired"), reason: broker.ReasonSubjectTokenRejected},
		{name: "exchange, keycloak", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_token", "Invalid token"), reason: broker.ReasonSubjectTokenRejected},
		{name: "exchange, unproven request", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_request", "bad"), reason: broker.ReasonRequestRejected},
		{name: "exchange, unproven grant", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_grant", ""), reason: broker.ReasonGrantRejected},
		{name: "exchange, target", grant: broker.GrantParameters{Type: broker.TokenExchange}, body: rejected("invalid_target", "subject_token is fine"), reason: broker.ReasonTargetRejected},

		{name: "429 of text", status: 429, body: "Retry-After: 60", reason: broker.ReasonUpstreamRateLimited, wait: time.Minute},
		{name: "429 of text and more", status: 429, body: "Too many requests.\nRetry-After: 99999999\n", reason: broker.ReasonUpstreamRateLimited, wait: time.Hour},
		{name: "429 of text and header", status: 429, header: []string{"Retry-After", "90"}, body: "Retry-After: 60", reason: broker.ReasonUpstreamRateLimited, wait: 90 * time.Second},
	}
	generic := profiles(t, nil).Profile("generic")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.status == 0 {
				tt.status = 400
			}
			_, err := oauth.ReadAnswerTo(nil, tt.grant, canary, tt.status, headerOf(tt.header), tt.body)
			if e := wantReason(t, err, tt.reason, ""); e.RetryAfter != tt.wait {
				t.Errorf("RetryAfter = %v, want %v", e.RetryAfter, tt.wait)
			}
			_, same := oauth.ReadAnswerTo(generic, tt.grant, canary, tt.status, headerOf(tt.header), tt.body)
			if same == nil || same.Error() != err.Error() {
				t.Errorf("with a profile that says nothing: %v, want %v", same, err)
			}
		})
	}
}

// TestRejectionsByProfiles: what servers say instead of the standards' codes.
func TestRejectionsByProfiles(t *testing.T) {
	tests := []struct {
		name, profile string
		grant         broker.GrantType
		status        int // 400 if 0
		header        []string
		body          string
		reason        broker.Reason
		text          string
		wait          time.Duration
	}{
		{name: "nested code", profile: "errors: {code: [fault.code], description: [fault.text]}", body: `{"fault":{"code":"invalid_client","text":"no such"}}`, reason: broker.ReasonClientRejected, text: "invalid_client: no such"},
		{name: "standard code all the same", profile: "errors: {code: [fault.code]}", body: `{"error":"invalid_client","error_description":"no such"}`, reason: broker.ReasonClientRejected, text: "no such"},
		{name: "standard error that is an object", profile: "errors: {code: [error.code]}", body: `{"error":{"code":"invalid_scope"}}`, reason: broker.ReasonScopeRejected},
		{name: "number", profile: "errors: {code: [errcode], aliases: {'40013': CLIENT_REJECTED}}", status: 200, body: `{"errcode":40013,"access_token":"canary"}`, reason: broker.ReasonClientRejected, text: "40013"},
		{name: "alias", profile: "errors: {aliases: {bad_client_secret: CLIENT_REJECTED}}", status: 200, body: `{"ok":false,"error":"Bad_Client_Secret"}`, reason: broker.ReasonClientRejected},
		{name: "alias of words", profile: "errors: {aliases: {access denied: UPSTREAM_RATE_LIMITED}}", body: `{"error":"Access Denied"}`, reason: broker.ReasonUpstreamRateLimited},
		{name: "alias goes before the standard", profile: "errors: {aliases: {invalid_request: SCOPE_REJECTED}}", body: `{"error":"invalid_request"}`, reason: broker.ReasonScopeRejected},
		{name: "alias in a challenge", profile: "errors: {aliases: {nope: CLIENT_REJECTED}}", status: 401, header: []string{"WWW-Authenticate", `Bearer error="nope"`}, reason: broker.ReasonClientRejected},
		{name: "alias of a grant, code", profile: "errors: {aliases: {invalid_code: GRANT_REJECTED}}", grant: broker.AuthorizationCode, body: `{"error":"invalid_code"}`, reason: broker.ReasonAuthorizationNotTaken},
		{name: "alias of a grant, refresh", profile: "errors: {aliases: {invalid_code: GRANT_REJECTED}}", grant: broker.RefreshToken, body: `{"error":"invalid_code"}`, reason: broker.ReasonRefreshTokenRejected},
		{name: "alias of another grant", profile: "errors: {aliases: {gone: REFRESH_TOKEN_EXPIRED}}", grant: broker.AuthorizationCode, body: `{"error":"gone"}`, reason: broker.ReasonAuthorizationNotTaken},
		{name: "alias of this grant", profile: "errors: {aliases: {gone: REFRESH_TOKEN_EXPIRED}}", grant: broker.RefreshToken, body: `{"error":"gone"}`, reason: broker.ReasonRefreshTokenExpired},
		{name: "alias of a device's poll", profile: "errors: {aliases: {wait: AUTHORIZATION_PENDING}}", grant: broker.DeviceCode, body: `{"error":"wait"}`, reason: broker.ReasonAuthorizationPending, wait: 5 * time.Second},
		{name: "retryable", profile: "errors: {retryable: [internal_error]}", status: 200, body: `{"error":"internal_error"}`, reason: broker.ReasonUpstreamUnavailable},
		{name: "description before the code", profile: `errors: {descriptions: [{match: '\bAADSTS7000222\b', reason: CLIENT_REJECTED}]}`, body: `{"error":"invalid_request","error_description":"AADSTS7000222: expired"}`, reason: broker.ReasonClientRejected},
		{name: "description that does not match", profile: `errors: {descriptions: [{match: '\bAADSTS7000222\b', reason: CLIENT_REJECTED}]}`, body: `{"error":"invalid_request","error_description":"AADSTS70002220"}`, reason: broker.ReasonRequestRejected},
		{name: "wait in seconds", profile: `errors: {descriptions: [{match: 'again in (?P<seconds>\d+) s', reason: UPSTREAM_RATE_LIMITED}]}`, body: `{"error":"x","error_description":"Limit. Try again in 90 s."}`, reason: broker.ReasonUpstreamRateLimited, wait: 90 * time.Second},
		{name: "wait in minutes and seconds", profile: `errors: {descriptions: [{match: '(?P<minutes>\d+) min (?P<seconds>\d+) s', reason: ISSUANCE_BUDGET_SPENT}]}`, body: `{"error":"x","error_description":"wait 2 min 5 s"}`, reason: broker.ReasonIssuanceBudgetSpent, wait: 125 * time.Second},
		{name: "wait for ever", profile: `errors: {descriptions: [{match: '(?P<minutes>\d+) min', reason: UPSTREAM_RATE_LIMITED}]}`, body: `{"error":"x","error_description":"wait 99999999999999999999 min"}`, reason: broker.ReasonUpstreamRateLimited, wait: time.Hour},
		{name: "wait in a 429's description", profile: `errors: {descriptions: [{match: '(?P<minutes>\d+) min', reason: CLIENT_REJECTED}]}`, status: 429, body: `{"error":"x","error_description":"wait 3 min"}`, reason: broker.ReasonUpstreamRateLimited, wait: 3 * time.Minute},
		{name: "words without an answer", profile: `errors: {descriptions: [{match: 'wrong password', reason: CLIENT_REJECTED}]}`, status: 401, body: `You sent a wrong password.`, reason: broker.ReasonClientRejected, text: "neither a JSON object nor a form"},
		{name: "words far behind", profile: `errors: {descriptions: [{match: 'wrong', reason: CLIENT_REJECTED}]}`, body: `{"error":"x","error_description":"` + strings.Repeat("a", 5000) + `wrong"}`, reason: broker.ReasonUpstreamRefused},
		{name: "no success", profile: `response: {success: {path: ok, equals: "true"}}`, status: 200, body: `{"ok":false,"error":"invalid_grant"}`, grant: broker.RefreshToken, reason: broker.ReasonRefreshTokenRejected},
		{name: "form", profile: "errors: {code: [failure], aliases: {nope: CLIENT_REJECTED}}", body: "failure=nope", reason: broker.ReasonClientRejected},
		{name: "page", profile: "errors: {code: [failure]}", status: 403, body: "<html>canary", reason: broker.ReasonUpstreamRefused, text: "an HTML or XML page"},
		{name: "503", profile: "errors: {code: [failure]}", status: 503, header: []string{"Retry-After", "7"}, reason: broker.ReasonUpstreamUnavailable, wait: 7 * time.Second},
		{name: "token in another place is not shown", profile: "response: {access_token: [user.token]}", body: `{"access_token":"another-token-of-it","error":"x","error_description":"not for another-token-of-it"}`, reason: broker.ReasonUpstreamRefused, text: "withheld"},
	}
	yaml := make(map[string]string)
	for i, tt := range tests {
		yaml[fmt.Sprintf("p%d", i)] = tt.profile + "\n"
	}
	set := profiles(t, yaml)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tt.status == 0 {
					tt.status = 400
				}
				_, err := oauth.ReadAnswerTo(set.Profile(fmt.Sprintf("p%d", i)), broker.GrantParameters{Type: tt.grant}, canary, tt.status, headerOf(tt.header), tt.body)
				if e := wantReason(t, err, tt.reason, tt.text); e.RetryAfter != tt.wait {
					t.Errorf("RetryAfter = %v, want %v", e.RetryAfter, tt.wait)
				}
			})
		})
	}
}
