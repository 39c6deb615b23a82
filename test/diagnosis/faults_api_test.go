package diagnosis_test

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/authserver"
)

// trusting gives a token to whoever names a client_id, if takes allows it.
func trusting(takes func(*http.Request) bool) func(*scene) {
	return answering(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		id, _, basic := r.BasicAuth()
		if !basic {
			id = r.PostForm.Get("client_id")
		}
		if id == "" || !takes(r) {
			fixed(401, "application/json", `{"error":"invalid_client"}`)(w, r)
			return
		}
		fixed(200, "application/json", bearer+"}")(w, r)
	})
}

// calling has the API answer calls by whether they bring a token.
func calling(with, without http.HandlerFunc) func(*scene) {
	return func(s *scene) {
		s.as.answerAPI(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
				with(w, r)
				return
			}
			without(w, r)
		})
	}
}

// api answers all calls alike.
func api(status int, contentType, body string) func(*scene) {
	return calling(fixed(status, contentType, body), fixed(401, contentType, body))
}

var enforcementFaults = []fault{
	{
		"a server that takes no secret", enforce, trusting(func(*http.Request) bool { return true }),
		proven(broker.StageNoSecret, broker.ReasonAuthenticationNotEnforced, "it gave a token"),
	},
	{
		"a server that takes any secret", enforce,
		trusting(func(r *http.Request) bool { _, _, basic := r.BasicAuth(); return basic }),
		proven(broker.StageWrongSecret, broker.ReasonAuthenticationNotEnforced, "it gave a token"),
	},
	{
		"an API that does not take the token", toAPI, api(401, "application/json", `{"message":"unknown issuer"}`),
		proven(broker.StageAPIToken, broker.ReasonAPITokenRefused, "401"),
	},
	{
		"a token for another API", toAPI,
		func(s *scene) { s.message.Audience = "https://other.api.test" },
		proven(broker.StageAPIToken, broker.ReasonAPITokenRefused, "invalid_token"),
	},
	{
		"a permission that is missing", toAPI, api(403, "application/json", `{"message":"forbidden"}`),
		proven(broker.StageAPIToken, broker.ReasonAPIPermissionMissing, "403"),
	},
	{
		"a scope that the API needs", toAPI,
		func(s *scene) { s.message.DefaultScopes = []string{"write"} },
		proven(broker.StageAPIToken, broker.ReasonAPIPermissionMissing, "insufficient_scope"),
	},
	{
		"an API path that does not exist", toAPI,
		func(s *scene) { s.message.ApiEndpoint = s.as.origin + "/v0/me" },
		warned(broker.StageAPIToken, broker.ReasonEndpointWrong, "404"),
	},
	{
		"an API that fails", toAPI, api(502, "text/html", "<html>"+canary),
		proven(broker.StageAPIToken, broker.ReasonUpstreamUnavailable, "502"),
	},
	{
		"an API that asks for a login", toAPI,
		calling(redirecting(http.StatusFound, "https://login.test/?"+canary), redirecting(http.StatusFound, "https://login.test/?"+canary)),
		proven(broker.StageAPIToken, broker.ReasonUpstreamRedirected, "https://login.test"),
	},
	{
		"an API that is not there", toAPI,
		func(s *scene) {
			origin := unused(s.t)
			s.message.ApiEndpoint, s.message.TokenDestinations = origin+authserver.ResourcePath, []string{origin}
		},
		proven(broker.StageAPIToken, broker.ReasonUpstreamConnect, "connection refused"),
	},
	{
		"an API that the token is not bound to", toAPI,
		func(s *scene) {
			s.editRecord(func(own map[string]any) { at(own, "upstream")["api_endpoint"] = "https://thief.test/me" })
		},
		proven(broker.StageAPIToken, broker.ReasonDestinationNotBound),
	},
	{
		"an open API", toAPI, calling(fixed(200, "application/json", "{}"), fixed(200, "application/json", "{}")),
		proven(broker.StageAPINoToken, broker.ReasonAPINotEnforcing, "200"),
	},
	{
		"an API that takes any token", toAPI, calling(fixed(200, "application/json", "{}"), fixed(401, "application/json", "{}")),
		proven(broker.StageAPIWrongToken, broker.ReasonAPINotEnforcing, "200"),
	},
}
