// Package table says what a caller of GetToken gets of each quirk of the zoo that is about client credentials. It is tried in one
// process by package zoo's tests, and through the whole server by package e2e's.
package table

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// Row says what a caller of GetToken gets where a provider does what its quirk does.
type Row struct {
	// Quirk is its name.
	Quirk string
	// First are token requests that are granted before; each has other scopes.
	First int
	// Scopes, Audience and Resource are asked for; none takes the client's.
	Scopes             []string
	Audience, Resource string
	// Change alters the client's settings.
	Change func(*broker.NewClient)
	// Dead says that the quirk's API does not take the token that the provider gave.
	Dead bool
	// Want is what the caller gets.
	Want Outcome
}

// Outcome is a token, or a reason why there is none.
type Outcome struct {
	// Reason is why there is no token; "" if there is one.
	Reason broker.Reason
	// Retry is the least time after which to ask again.
	Retry time.Duration
	// Lifetime and Source are those of the token; an hour by the response if there is neither.
	Lifetime time.Duration
	Source   broker.ExpirySource
	Scopes   []string // ["read"] if nil
	Warnings []broker.Reason
	// Requests is how many token requests come, besides the first ones; 1 if 0.
	Requests int
	// Detail is in what operators read.
	Detail string
}

// Refused is no token, for that reason.
func Refused(reason broker.Reason) Outcome { return Outcome{Reason: reason} }

// lives is a token with this lifetime by this source.
func lives(lifetime time.Duration, source broker.ExpirySource, warnings ...broker.Reason) Outcome {
	return Outcome{Lifetime: lifetime, Source: source, Warnings: warnings}
}

// Rows has a row for each quirk of client credentials.
func Rows() []Row {
	assumed := lives(5*time.Minute, broker.ExpiryAssumed, broker.ReasonExpiryAssumed)
	const year = 365 * 24 * time.Hour
	twoScopes := Outcome{Scopes: []string{"read", "write"}}
	target := func(set func(*broker.Upstream)) func(*broker.NewClient) {
		return func(c *broker.NewClient) { set(&c.Upstream) }
	}
	return []Row{
		{Quirk: "expires-in-string", Want: lives(3599*time.Second, broker.ExpiryFromResponse)},
		{Quirk: "expires-in-float", Want: lives(3599500*time.Millisecond, broker.ExpiryFromResponse)},
		{Quirk: "expires-in-exponent"},
		{Quirk: "expires-in-null", Want: assumed},
		{Quirk: "expires-in-empty", Want: assumed},
		{Quirk: "expires-in-zero", Want: assumed},
		{Quirk: "expires-in-zero-never", Want: lives(year, broker.ExpiryFromResponse)},
		{Quirk: "expires-in-zero-expired", Dead: true, Want: Refused(broker.ReasonTokenExpired)},
		{Quirk: "expires-in-negative", Want: assumed},
		{Quirk: "expires-in-huge", Want: lives(year, broker.ExpiryFromResponse)},
		{Quirk: "expires"},
		{Quirk: "expires-on"},
		{Quirk: "expire-time", Want: lives(2*time.Hour, broker.ExpiryFromResponse)},
		{Quirk: "expires-at-date"},
		{Quirk: "expires-in-clock"},
		{Quirk: "expires-in-ms"},
		{Quirk: "expires-in-minutes"},
		{Quirk: "expires-at-ms"},
		{Quirk: "expires-in-absent", Want: assumed},
		{Quirk: "expires-in-jwt", Want: lives(time.Hour, broker.ExpiryFromJWT)},
		{Quirk: "expires-in-introspected", Want: lives(time.Hour, broker.ExpiryFromIntrospection)},
		{Quirk: "expires-in-documented", Want: lives(2*time.Hour, broker.ExpiryFromProvider)},
		{Quirk: "expires-in-wrong", Want: lives(10*time.Minute, broker.ExpiryFromProvider)},
		{Quirk: "expires-in-rolling", Want: lives(24*time.Hour, broker.ExpiryFromProvider)},

		{Quirk: "form-body"},
		{Quirk: "form-body-unless-json"},
		{Quirk: "form-body-as-text"},
		{Quirk: "json-as-html"},
		{Quirk: "created"},
		{Quirk: "empty-body", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
		{Quirk: "empty-body-once", Want: Outcome{Requests: 2}},
		{Quirk: "captive-portal", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3, Detail: "an HTML or XML page"}},
		{Quirk: "captive-portal-once", Want: Outcome{Requests: 2}},
		{Quirk: "cut-short", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
		{Quirk: "no-token", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3, Detail: "access_token"}},

		{Quirk: "error-in-200", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "error-in-200-code", Want: Refused(broker.ReasonGrantRejected)},
		{Quirk: "ok-false", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "ok-false-token", Dead: true, Want: Refused(broker.ReasonUpstreamRefused)},
		{Quirk: "success-and-error", Want: Refused(broker.ReasonScopeRejected)},
		{Quirk: "error-nested", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "bad-client-secret", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "invalid-client-id", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "invalid-code", Want: Refused(broker.ReasonGrantRejected)},
		{Quirk: "access-denied", Want: Refused(broker.ReasonUpstreamRateLimited)},
		{Quirk: "unknown-code", Want: Outcome{Reason: broker.ReasonUpstreamRefused, Detail: "E-4711"}},
		{Quirk: "invalid-client-400", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "invalid-client-401", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "invalid-client-bare-401", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "forbidden-empty", Want: Refused(broker.ReasonUpstreamRefused)},
		{Quirk: "forbidden-invalid-client", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "server-error-invalid-client", Want: Refused(broker.ReasonClientRejected)},
		{Quirk: "aadsts7000215", Want: Outcome{Reason: broker.ReasonClientRejected, Detail: "AADSTS7000215"}},
		{Quirk: "aadsts7000222", Want: Outcome{Reason: broker.ReasonClientRejected, Detail: "AADSTS7000222"}},
		{Quirk: "aadsts700016", Want: Outcome{Reason: broker.ReasonClientRejected, Detail: "AADSTS700016"}},
		{Quirk: "retry-after-in-text", Want: Outcome{Reason: broker.ReasonUpstreamRateLimited, Retry: 55 * time.Second}},
		{Quirk: "grant-rotation-off", Want: Refused(broker.ReasonGrantRejected)},

		{Quirk: "audience", Want: Refused(broker.ReasonRequestRejected)},
		{Quirk: "audience", Change: target(func(u *broker.Upstream) { u.Audience = zoo.Audience })},
		{Quirk: "audience", Audience: zoo.Audience, Change: target(func(u *broker.Upstream) { u.AllowedAudiences = []string{zoo.Audience} })},
		{Quirk: "resource", Want: Refused(broker.ReasonTargetRejected)},
		{Quirk: "resource", Change: target(func(u *broker.Upstream) { u.Resources = []string{zoo.Audience} })},
		{Quirk: "resource", Resource: zoo.Audience, Change: target(func(u *broker.Upstream) { u.AllowedResources = []string{zoo.Audience} })},
		{Quirk: "resource-as-audience", Change: target(func(u *broker.Upstream) { u.Resources = []string{zoo.Audience} })},
		{Quirk: "default-scope", Want: Refused(broker.ReasonScopeRejected)},
		{Quirk: "default-scope", Change: target(func(u *broker.Upstream) { u.DefaultScopes, u.AllowedScopes = []string{zoo.Scope}, nil }), Want: Outcome{Scopes: []string{zoo.Scope}}},

		// A second caller that asks for other scopes gets the same token, with all of them: one that it were alone with would end it.
		{Quirk: "single-active", Scopes: []string{"write"}, Want: twoScopes},
		{Quirk: "capped", Want: twoScopes},
		{Quirk: "capped-zoho", Want: twoScopes},
		{Quirk: "budget-header", First: 1, Want: Outcome{Reason: broker.ReasonUpstreamRateLimited, Retry: 100 * time.Second}},
		{Quirk: "budget-header-date", First: 1, Want: Outcome{Reason: broker.ReasonUpstreamRateLimited, Retry: 100 * time.Second}},
		{Quirk: "budget-text", First: 1, Want: Outcome{Reason: broker.ReasonUpstreamRateLimited, Retry: 5 * time.Minute}}, // longer waits are cut to that
		{Quirk: "budget-declared", First: 1},

		{Quirk: "json-login", Want: lives(24*time.Hour, broker.ExpiryFromProvider)},
		{Quirk: "get-login"},
		{Quirk: "xml-body", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
		{Quirk: "second-step", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
		{Quirk: "scope-narrowed", Scopes: []string{"read", "write"}, Want: Outcome{Warnings: []broker.Reason{broker.ReasonScopesNarrowed}}},
		{Quirk: "scope-narrowed", Scopes: []string{"read", "write"}, Change: func(c *broker.NewClient) { c.TokenPolicy.RequireAllScopes = true }, Want: Refused(broker.ReasonScopeNotGranted)},
		{Quirk: "scope-none", Want: Outcome{Scopes: []string{}, Warnings: []broker.Reason{broker.ReasonScopesNarrowed}}},
		{Quirk: "scope-array", Want: twoScopes},
		{Quirk: "scope-comma", Scopes: []string{"read", "write"}, Want: twoScopes},
		{Quirk: "huge-token"},
		{Quirk: "too-huge-token", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
		{Quirk: "secret-basic-encoded"},
		{Quirk: "secret-basic-raw"},
		{Quirk: "secret-post"},

		{Quirk: "hang-up", Want: Outcome{Reason: broker.ReasonUpstreamConnect, Requests: 3}},
		{Quirk: "never-answers", Want: Outcome{Reason: broker.ReasonUpstreamTimeout, Requests: 3}},
		{Quirk: "bad-gateway", Want: Outcome{Reason: broker.ReasonUpstreamUnavailable, Requests: 3}},
		{Quirk: "proxy-login", Want: Refused(broker.ReasonUpstreamRefused)},
		{Quirk: "redirect", Want: Refused(broker.ReasonUpstreamRedirected)},
		{Quirk: "echo", Want: Refused(broker.ReasonRequestRejected)},
		{Quirk: "markup", Want: Refused(broker.ReasonUpstreamRefused)},
		{Quirk: "endless", Want: Outcome{Reason: broker.ReasonUpstreamMalformed, Requests: 3}},
	}
}
