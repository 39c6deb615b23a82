package oauth

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// codes are the error codes that say what is wrong :: code → reason. First those of
// RFC 6749 §5.2 and its extensions, then what servers say instead where it can
// mean only one thing. A code that is not here is not guessed at: access_denied,
// for one, is a wrong secret at some providers and a missing permission at others.
var codes = map[string]broker.Reason{
	"invalid_client":         broker.ReasonClientRejected,
	"invalid_grant":          broker.ReasonGrantRejected,
	"unauthorized_client":    broker.ReasonGrantTypeRejected,
	"unsupported_grant_type": broker.ReasonGrantTypeRejected,
	"invalid_scope":          broker.ReasonScopeRejected,
	"invalid_target":         broker.ReasonTargetRejected, // RFC 8707 §2
	"invalid_request":        broker.ReasonRequestRejected,
	// From the authorization endpoint (§4.1.2.1), but token endpoints say them too.
	"server_error":            broker.ReasonUpstreamUnavailable,
	"temporarily_unavailable": broker.ReasonUpstreamUnavailable,
	"slow_down":               broker.ReasonUpstreamRateLimited, // RFC 8628 §3.5

	"use_dpop_nonce":     broker.ReasonDPoPNonceRequired, // RFC 9449 §8
	"invalid_dpop_proof": broker.ReasonDPoPProofInvalid,  // RFC 9449 §5

	"scope_invalid":                broker.ReasonScopeRejected,  // glewlwyd
	"invalid_resource":             broker.ReasonTargetRejected, // Microsoft Entra
	"incorrect_client_credentials": broker.ReasonClientRejected, // GitHub
	"bad_client_secret":            broker.ReasonClientRejected, // Slack
	"invalid_client_id":            broker.ReasonClientRejected, // Slack
}

// clientUnknown are pieces of descriptions that turn unauthorized_client into what
// RFC 6749 calls invalid_client, in lower case.
var clientUnknown = []string{
	"invalid client or invalid client credentials", // Keycloak, for a wrong secret
	"invalid client secret",                        // Keycloak, older
	"aadsts700016",                                 // Microsoft Entra: no such application
}

// rejected says why there is no token, from the best proof there is: the body's
// error code, then the challenge in the header, then the status. What none of them
// proves is UPSTREAM_REFUSED: a bare 401 or 403 comes from firewalls and wrong
// paths as well as from a wrong secret.
//
// One status comes before the body, 429: it has but one meaning, and servers that
// lock a client out after wrong tries put any code beside it.
func (a *attempt) rejected(ans answer) error {
	scrub := a.scrub(ans.doc)
	challenges := parseChallenges(ans.header.Values("WWW-Authenticate"))
	code := ans.doc.text("error")
	description := ans.doc.text("error_description")
	said := ans.kind
	switch {
	case code != "":
		said = scrub.clean(code, maxCode)
	case ans.doc.has("error"):
		said = "an error that is not an OAuth one"
	case ans.doc.unsuccessful:
		said = ans.kind + " that is no success by the provider's profile"
	case challenges.errorCode() != "":
		code, description = challenges.errorCode(), challenges.errorDescription()
		said = scrub.clean(code, maxCode)
	}
	if shown := scrub.clean(description, maxDescription); shown != "" {
		said += ": " + shown
	}
	judged := a.judge(ans, strings.ToLower(strings.TrimSpace(code)), description, challenges)
	judged.reason, said = a.judgeProof(ans, judged.reason, said)
	err := a.fail(judged.reason, nil, "answered %d with %s", ans.status, said)
	err.Told = a.told(judged.reason, ans.header)
	err.RetryAfter = max(judged.wait, retryAfter(ans.header, a.sent))
	return err
}

// judge says what an answer means; the code is in lower case.
func (a *attempt) judge(ans answer, code, description string, challenges challenges) verdict {
	if judged, ok := a.polled(ans, code); ok {
		return judged
	}
	if judged, ok := a.tooMany(ans, code, description); ok {
		return judged
	}
	judged, ok := a.byProfile(ans, code, description)
	if !ok {
		judged.reason = a.byCode(ans, code, description, challenges)
	}
	judged.reason = a.dialect.ofGrant(judged.reason, code, description)
	if judged.reason == broker.ReasonAuthorizationPending && judged.wait == 0 { // by the profile's own code for it
		judged.wait = a.pollWait(ans, 0)
	}
	return judged
}

// byCode judges an answer as the standards do.
func (a *attempt) byCode(ans answer, code, description string, challenges challenges) broker.Reason {
	if reason, known := codes[code]; known {
		if code == "unauthorized_client" && containsAny(strings.ToLower(description), clientUnknown) {
			return broker.ReasonClientRejected
		}
		return reason
	}
	switch {
	case ans.status >= 500:
		return broker.ReasonUpstreamUnavailable
	case code == "" && !ans.doc.failed() && a.basicRefused(ans, challenges):
		return broker.ReasonClientRejected
	}
	return broker.ReasonUpstreamRefused
}

// basicRefused reports whether HTTP itself says that the credentials were refused:
// a 401 with a Basic challenge in answer to Basic credentials (RFC 9110 §15.5.2),
// as servers send that know HTTP better than RFC 6749. Not with a page beside it:
// then something in front of the token endpoint may have asked for its own password.
func (a *attempt) basicRefused(ans answer, challenges challenges) bool {
	return a.basic && ans.status == http.StatusUnauthorized && challenges.has("basic") &&
		(ans.kind == emptyBody || ans.doc.readable())
}

func containsAny(text string, pieces []string) bool {
	for _, piece := range pieces {
		if strings.Contains(text, piece) {
			return true
		}
	}
	return false
}
