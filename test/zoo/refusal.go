package zoo

import (
	"net/http"
)

// The lines of the notes about refusals.
const (
	lineSoft    = "200 + error"
	lineCodes   = "non-RFC error codes"
	lineClient  = "invalid_client 400 vs 401"
	lineSub     = "sub-codes in description"
	lineInvalid = "invalid_grant means anything"
)

// refusing refuses all grants so.
func refusing(status int, code, description string) play {
	return instead(refusal(status, code, description))
}

// body refuses with these members.
func body(status int, text string) play { return instead(object(status, text)) }

func refusalQuirks() []Quirk {
	const slack = "response:\n  success: {path: ok, equals: \"true\"}\n"
	return []Quirk{
		{Name: "error-in-200", Line: lineSoft, Sends: `200 {"error": "incorrect_client_credentials"}`, play: refusing(http.StatusOK, "incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.")},
		{Name: "error-in-200-code", Line: lineSoft, Sends: `200 {"error": "bad_verification_code"}`, Profile: "errors:\n  aliases: {bad_verification_code: GRANT_REJECTED}\n", play: refusing(http.StatusOK, "bad_verification_code", "The code passed is incorrect or expired.")},
		{Name: "ok-false", Line: lineSoft, Sends: `200 {"ok": false, "error": "bad_client_secret"}`, Profile: slack, play: body(http.StatusOK, `{"ok":false,"error":"bad_client_secret"}`)},
		{Name: "ok-false-token", Line: lineSoft, Sends: `200 {"ok": false} with a token beside it`, Profile: slack, play: body(http.StatusOK, `{"ok":false,"access_token":"zoo-access-of-nobody","token_type":"Bearer","expires_in":3600}`)},
		{Name: "success-and-error", Line: lineSoft, Sends: "200 with a token and an error at once", play: body(http.StatusOK, `{"access_token":"zoo-access-of-nobody","token_type":"Bearer","expires_in":3600,"error":"invalid_scope","error_description":"write is not for you"}`)},
		{Name: "error-nested", Line: lineSoft, Sends: `200 {"status": "failed", "error": {"code": "AUTH_17"}}`, Profile: "response:\n  success: {path: status, equals: ok}\nerrors:\n  code: [error.code]\n  description: [error.message]\n  aliases: {auth_17: CLIENT_REJECTED}\n", play: body(http.StatusOK, `{"status":"failed","error":{"code":"AUTH_17","message":"unknown key"}}`)},

		{Name: "bad-client-secret", Line: lineCodes, Sends: `400 {"error": "bad_client_secret"}`, play: refusing(http.StatusBadRequest, "bad_client_secret", "")},
		{Name: "invalid-client-id", Line: lineCodes, Sends: `400 {"error": "invalid_client_id"}`, play: refusing(http.StatusBadRequest, "invalid_client_id", "")},
		{Name: "invalid-code", Line: lineCodes, Sends: `400 {"error": "invalid_code"} for a refresh token that is no more`, Profile: "errors:\n  aliases: {invalid_code: GRANT_REJECTED}\n", play: refusing(http.StatusBadRequest, "invalid_code", "")},
		{Name: "access-denied", Line: lineCodes, Sends: `400 {"error": "Access Denied", …} for too many requests`, Profile: "errors:\n  aliases: {access denied: UPSTREAM_RATE_LIMITED}\n", play: refusing(http.StatusBadRequest, "Access Denied", "You have made too many requests continuously. Please try again after some time.")},
		{Name: "unknown-code", Line: lineCodes, Sends: `400 {"error": "E-4711"}, which no profile explains`, play: refusing(http.StatusBadRequest, "E-4711", "")},

		{Name: "invalid-client-400", Line: lineClient, Sends: `400 {"error": "invalid_client"}`, play: refusing(http.StatusBadRequest, "invalid_client", "")},
		{Name: "invalid-client-401", Line: lineClient, Sends: `401 {"error": "invalid_client"} with WWW-Authenticate: Basic`, play: refusing(http.StatusUnauthorized, "invalid_client", "")},
		{Name: "invalid-client-bare-401", Line: lineClient, Sends: "401 with WWW-Authenticate: Basic and an empty body", play: instead(answer{status: http.StatusUnauthorized, header: map[string]string{"WWW-Authenticate": `Basic realm="zoo"`}})},
		{Name: "forbidden-empty", Line: lineClient, Sends: "403 with an empty body", play: instead(answer{status: http.StatusForbidden})},
		{Name: "forbidden-invalid-client", Line: lineClient, Sends: `403 {"error": "invalid_client"}`, play: refusing(http.StatusForbidden, "invalid_client", "")},
		{Name: "server-error-invalid-client", Line: lineClient, Sends: `500 {"error": "invalid_client"}`, play: refusing(http.StatusInternalServerError, "invalid_client", "")},

		{Name: "aadsts7000215", Line: lineSub, Sends: "401 invalid_client: AADSTS7000215, a wrong secret or one that is not known everywhere yet", play: refusing(http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.")},
		{Name: "aadsts7000222", Line: lineSub, Sends: "401 invalid_client: AADSTS7000222, the secret has expired", Profile: "hints:\n  CLIENT_REJECTED: AADSTS7000222 says that the secret has expired.\n", play: refusing(http.StatusUnauthorized, "invalid_client", "AADSTS7000222: The provided client secret keys for app '0f0e' are expired.")},
		{Name: "aadsts700016", Line: lineSub, Sends: "400 unauthorized_client: AADSTS700016, no such application", play: refusing(http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application with identifier '0f0e' was not found in the directory 'Contoso'.")},
		{
			Name: "retry-after-in-text", Line: lineSub, Sends: `429 text/plain "Retry-After: 60", and no such header`, Profile: "errors:\n  descriptions:\n    - {match: \"Retry-After: (?P<seconds>[0-9]+)\", reason: UPSTREAM_RATE_LIMITED}\n",
			play: instead(answer{status: http.StatusTooManyRequests, header: map[string]string{"Content-Type": "text/plain"}, body: "Retry-After: 60"}),
		},

		{Name: "grant-revoked", Line: lineInvalid, Sends: "invalid_grant: revoked by the user", Grant: "refresh_token", play: refusing(http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")},
		{
			Name: "grant-testing", Line: lineInvalid, Sends: "invalid_grant after seven days, because the consent screen is in testing", Grant: "refresh_token",
			Profile: "hints:\n  REFRESH_TOKEN_REJECTED: An application whose consent screen is in testing has refresh tokens of seven days.\n", play: refusing(http.StatusBadRequest, "invalid_grant", "Bad Request"),
		},
		{Name: "grant-limit", Line: lineInvalid, Sends: "invalid_grant because newer refresh tokens pushed this one out", Grant: "refresh_token", play: refusing(http.StatusBadRequest, "invalid_grant", "")},
		{Name: "grant-of-another", Line: lineInvalid, Sends: "invalid_grant because the token is another client's", Grant: "refresh_token", play: refusing(http.StatusBadRequest, "invalid_grant", "The refresh token was issued to another client.")},
		{Name: "grant-rotation-off", Line: lineInvalid, Sends: "invalid_grant for client credentials", play: refusing(http.StatusBadRequest, "invalid_grant", "")},
		{Name: "grant-expired-words", Line: lineInvalid, Sends: "invalid_grant: the refresh token has expired", Grant: "refresh_token", Profile: "errors:\n  descriptions:\n    - {match: \"refresh token (is|has) expired\", reason: REFRESH_TOKEN_EXPIRED}\n", play: refusing(http.StatusBadRequest, "invalid_grant", "The refresh token has expired due to inactivity.")},
	}
}
