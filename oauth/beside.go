package oauth

import (
	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// beside reads what came beside the access token, and says what is wrong with it. The
// refresh token that a client gets by its own authority is of use to nobody unless the
// profile knows better (RFC 6749 §4.4.3), so that it spoils no answer.
func (a *attempt) beside(doc document, response *broker.TokenResponse) string {
	refresh, problem := doc.secret("refresh_token", ' ')
	if problem != "" && !a.ownAuthority() {
		return problem
	}
	response.RefreshToken = refresh
	identity, problem := doc.secret("id_token", '!')
	if problem != "" && !a.ownAuthority() {
		return problem
	}
	response.IDToken = identity
	response.IssuedTokenType = doc.text("issued_token_type")
	response.CertificateThumbprint, response.KeyThumbprint = thumbprints(response.AccessToken)
	if a.dialect.grant != broker.TokenExchange {
		return ""
	}
	switch {
	case len(response.IssuedTokenType) > maxDescription:
		return "its issued_token_type is no URI of usual length"
	case response.IssuedTokenType == "" && a.dialect.values()["grant_type"] == "": // else it is not RFC 8693's exchange
		return "it has no issued_token_type, which RFC 8693 requires"
	}
	return ""
}

func (a *attempt) ownAuthority() bool {
	return a.dialect.grant == "" || a.dialect.grant == broker.ClientCredentials
}

// ends reads when the tokens end.
func (a *attempt) ends(doc document, response *broker.TokenResponse) {
	if a.dialect.profile == nil {
		response.ExpiresIn, response.RefreshExpiresIn = doc.seconds("expires_in"), doc.seconds("refresh_expires_in")
		if response.RefreshExpiresIn == nil {
			response.RefreshExpiresIn = doc.seconds("refresh_token_expires_in")
		}
		return
	}
	declared := a.dialect.profile
	now := response.ServerTime // by the clock that points in time are of
	if now.IsZero() {
		now = response.SentTime
	}
	response.ExpiresIn = doc.lifetime("expires_in", declared.Response.ExpiresIn, now)
	response.RefreshExpiresIn = doc.lifetime("refresh_expires_in", declared.Response.RefreshExpiresIn, now)
	if declared.Expiry.Lifetime > 0 {
		lifetime := declared.Expiry.Lifetime
		response.Declared = &lifetime
		response.DeclaredOnly = declared.Expiry.Policy == profile.PolicyDeclared || declared.Expiry.Policy == profile.PolicyRolling
	}
}
