package oauth_test

import (
	"net/http"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestProvidersRefusals: what providers answer when they refuse, as their documents and
// users show it, is understood.
func TestProvidersRefusals(t *testing.T) {
	tests := []struct {
		name, provider string
		grant          broker.GrantType
		status         int
		body           string
		want           broker.Reason
	}{
		{"wrong secret", "entra", broker.ClientCredentials, 401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.","error_codes":[7000215]}`, broker.ReasonClientRejected},
		{"expired secret", "entra", broker.ClientCredentials, 401, `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired.","error_codes":[7000222]}`, broker.ReasonClientRejected},
		{"no such application", "entra", broker.ClientCredentials, 400, `{"error":"unauthorized_client","error_description":"AADSTS700016: Application with identifier 'x' was not found in the directory 'y'."}`, broker.ReasonClientRejected},
		{"bad scope", "entra", broker.ClientCredentials, 400, `{"error":"invalid_scope","error_description":"AADSTS70011: The provided value for the input parameter 'scope' isn't valid."}`, broker.ReasonScopeRejected},
		{"no such resource", "entra", broker.ClientCredentials, 400, `{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named x was not found in the tenant named y."}`, broker.ReasonTargetRejected},
		{"resource not taken", "entra", broker.ClientCredentials, 400, `{"error":"invalid_request","error_description":"AADSTS901002: The 'resource' request parameter is not supported."}`, broker.ReasonTargetRejected},
		{"unused for long", "entra", broker.RefreshToken, 400, `{"error":"invalid_grant","error_description":"AADSTS700082: The refresh token has expired due to inactivity."}`, broker.ReasonRefreshTokenExpired},
		{"code used", "entra", broker.AuthorizationCode, 400, `{"error":"invalid_grant","error_description":"AADSTS54005: OAuth2 Authorization code was already redeemed."}`, broker.ReasonAuthorizationNotTaken},
		{"directory away", "entra", broker.ClientCredentials, 400, `{"error":"invalid_request","error_description":"AADSTS90033: A transient error has occurred."}`, broker.ReasonUpstreamUnavailable},
		{"busy", "entra", broker.ClientCredentials, 400, `{"error":"temporarily_unavailable","error_description":"busy"}`, broker.ReasonUpstreamUnavailable},
		{"another number within", "entra", broker.ClientCredentials, 400, `{"error":"invalid_request","error_description":"AADSTS9002313: Invalid request."}`, broker.ReasonRequestRejected},
		{"token of another", "entra-on-behalf-of", broker.TokenExchange, 400, `{"error":"invalid_grant","error_description":"AADSTS500133: Assertion is not within its valid time range."}`, broker.ReasonSubjectTokenRejected},
		{"more from the user", "entra-on-behalf-of", broker.TokenExchange, 400, `{"error":"interaction_required","error_description":"AADSTS50079: Due to a configuration change the user must enroll."}`, broker.ReasonSubjectTokenRejected},

		{"wrong secret", "auth0", broker.ClientCredentials, 401, `{"error":"access_denied","error_description":"Unauthorized"}`, broker.ReasonClientRejected},
		{"no client grant", "auth0", broker.ClientCredentials, 403, `{"error":"access_denied","error_description":"Client is not authorized to access \"https://acme/api/v2/\"."}`, broker.ReasonTargetRejected},
		{"tenant's limit", "auth0", broker.RefreshToken, 500, `{"error":"access_denied","error_description":"Global limit has been reached"}`, broker.ReasonUpstreamRateLimited},
		{"dead refresh token", "auth0", broker.RefreshToken, 403, `{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}`, broker.ReasonRefreshTokenRejected},

		{"wrong secret", "keycloak", broker.ClientCredentials, 401, `{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}`, broker.ReasonClientRejected},
		{"no service account", "keycloak", broker.ClientCredentials, 401, `{"error":"unauthorized_client","error_description":"Client not enabled to retrieve service account"}`, broker.ReasonGrantTypeRejected},

		{"wrong secret", "slack", broker.AuthorizationCode, 200, `{"ok":false,"error":"bad_client_secret"}`, broker.ReasonClientRejected},
		{"old code", "slack", broker.AuthorizationCode, 200, `{"ok":false,"error":"invalid_code"}`, broker.ReasonAuthorizationNotTaken},
		{"refreshed by another", "slack", broker.RefreshToken, 200, `{"ok":false,"error":"invalid_refresh_token"}`, broker.ReasonRefreshTokenRejected},
		{"failed", "slack", broker.RefreshToken, 200, `{"ok":false,"error":"internal_error"}`, broker.ReasonUpstreamUnavailable},
		{"refused beside a token", "slack", broker.RefreshToken, 200, `{"ok":false,"error":"invalid_refresh_token","access_token":"xoxb-old","token_type":"bot"}`, broker.ReasonRefreshTokenRejected},

		{"wrong secret", "github", broker.AuthorizationCode, 200, `{"error":"incorrect_client_credentials","error_description":"The client_id and/or client_secret passed are incorrect."}`, broker.ReasonClientRejected},
		{"old code", "github", broker.AuthorizationCode, 200, `{"error":"bad_verification_code","error_description":"The code passed is incorrect or expired."}`, broker.ReasonAuthorizationNotTaken},
		{"wrong key", "github-app", broker.ClientCredentials, 401, `{"message":"A JSON web token could not be decoded","documentation_url":"https://docs.github.com/rest"}`, broker.ReasonClientRejected},
		{"clock", "github-app", broker.ClientCredentials, 401, `{"message":"'Expiration time' claim ('exp') is too far in the future","documentation_url":"https://docs.github.com/rest"}`, broker.ReasonClientRejected},
		{"no such installation", "github-app", broker.ClientCredentials, 404, `{"message":"Not Found","documentation_url":"https://docs.github.com/rest"}`, broker.ReasonTargetRejected},

		{"withdrawn", "google", broker.RefreshToken, 400, `{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`, broker.ReasonRefreshTokenRejected},
		{"client deleted", "google", broker.RefreshToken, 401, `{"error":"deleted_client","error_description":"The OAuth client was deleted."}`, broker.ReasonClientRejected},
		{"wrong key", "google-service-account", broker.JWTBearer, 400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`, broker.ReasonClientRejected},
		{"no delegation", "google-service-account", broker.JWTBearer, 401, `{"error":"unauthorized_client","error_description":"Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested."}`, broker.ReasonGrantRejected},

		{"wrong key", "salesforce", broker.ClientCredentials, 400, `{"error":"invalid_client_id","error_description":"client identifier invalid"}`, broker.ReasonClientRejected},
		{"expired", "salesforce", broker.RefreshToken, 400, `{"error":"invalid_grant","error_description":"expired access/refresh token"}`, broker.ReasonRefreshTokenExpired},
		{"audience", "salesforce-jwt", broker.JWTBearer, 400, `{"error":"invalid_grant","error_description":"Audience validation failed"}`, broker.ReasonClientRejected},

		{"dead refresh token", "atlassian", broker.RefreshToken, 403, `{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}`, broker.ReasonRefreshTokenRejected},

		{"too many", "zoho", broker.RefreshToken, 400, `{"error_description":"You have made too many requests continuously. Please try again after some time.","error":"Access Denied","status":"failure"}`, broker.ReasonUpstreamRateLimited},
		{"dead refresh token", "zoho", broker.RefreshToken, 200, `{"error":"invalid_code"}`, broker.ReasonRefreshTokenRejected},
		{"old code", "zoho", broker.AuthorizationCode, 200, `{"error":"invalid_code"}`, broker.ReasonAuthorizationNotTaken},

		{"old form", "hubspot", broker.RefreshToken, 400, `{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}`, broker.ReasonRefreshTokenRejected},
		{"new form", "hubspot", broker.RefreshToken, 400, `{"error":"invalid_grant","error_description":"refresh token is invalid, expired or revoked","status":"BAD_REFRESH_TOKEN","message":"refresh token is invalid, expired or revoked"}`, broker.ReasonRefreshTokenRejected},
		{"validation", "hubspot", broker.RefreshToken, 400, `{"message":"Invalid input","correlationId":"aeb5","category":"VALIDATION_ERROR"}`, broker.ReasonRequestRejected},

		{"wrong secret", "zoom", broker.ClientCredentials, 400, `{"reason":"Invalid client_id or client_secret","error":"invalid_client"}`, broker.ReasonClientRejected},
		{"old refresh token", "zoom-user", broker.RefreshToken, 401, `{"reason":"Invalid Token!","error":"invalid_request"}`, broker.ReasonRefreshTokenRejected},

		{"wrong secret", "paypal", broker.ClientCredentials, 401, `{"error":"invalid_client","error_description":"Client Authentication failed"}`, broker.ReasonClientRejected},
		{"too many", "paypal", broker.ClientCredentials, 429, `{"name":"RATE_LIMIT_REACHED","message":"Too many requests. Blocked due to rate limiting.","debug_id":"8231"}`, broker.ReasonUpstreamRateLimited},

		{"mode", "stripe-connect", broker.AuthorizationCode, 400, `{"error":"invalid_grant","error_description":"Authorization code does not exist: ac_1"}`, broker.ReasonAuthorizationNotTaken},
		{"dead refresh token", "xero", broker.RefreshToken, 400, `{"error":"invalid_grant"}`, broker.ReasonRefreshTokenRejected},
		{"wrong secret", "salesforce-marketing-cloud", broker.ClientCredentials, 401, `{"error":"invalid_client","error_description":"Invalid client ID. Use the client ID in Marketing Cloud Installed Packages."}`, broker.ReasonClientRejected},
	}
	set := builtIn(t)
	for _, tt := range tests {
		t.Run(tt.provider+" "+tt.name, func(t *testing.T) {
			client, server := serve(t, func(w http.ResponseWriter, r *http.Request) { answer(tt.status, tt.body)(w, r) }, withProfiles(set))
			_, err := client.RequestToken(t.Context(), providerRequest(t, set, tt.provider, tt.grant, server))
			wantReason(t, err, tt.want, "")
		})
	}
}
