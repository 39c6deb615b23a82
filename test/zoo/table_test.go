package zoo_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/zoo"
)

// row says what a caller of GetToken gets where a provider does what its quirk does.
type row struct {
	quirk string
	// first are token requests that are granted before; each has other scopes.
	first int
	// scopes, audience and resource are asked for; none takes the client's.
	scopes             []string
	audience, resource string
	// change alters the client's settings.
	change func(*world, *broker.NewClient)
	// dead says that the quirk's API does not take the token that the provider gave.
	dead bool
	want outcome
}

// outcome is a token, or a reason why there is none.
type outcome struct {
	reason broker.Reason
	// retry is the least time after which to ask again.
	retry time.Duration
	// lifetime and source are those of the token; an hour by the response if there is neither.
	lifetime time.Duration
	source   broker.ExpirySource
	scopes   []string // ["read"] if nil
	warnings []broker.Reason
	// requests is how many token requests come, besides the first ones; 1 if 0.
	requests int
	// detail is in what operators read.
	detail string
}

func refused(reason broker.Reason) outcome { return outcome{reason: reason} }

// lives is a token with this lifetime by this source.
func lives(lifetime time.Duration, source broker.ExpirySource, warnings ...broker.Reason) outcome {
	return outcome{lifetime: lifetime, source: source, warnings: warnings}
}

// rows has a row for each quirk of client credentials.
func rows() []row {
	assumed := lives(5*time.Minute, broker.ExpiryAssumed, broker.ReasonExpiryAssumed)
	const year = 365 * 24 * time.Hour
	twoScopes := outcome{scopes: []string{"read", "write"}}
	target := func(set func(*broker.Upstream)) func(*world, *broker.NewClient) {
		return func(_ *world, c *broker.NewClient) { set(&c.Upstream) }
	}
	return []row{
		{quirk: "expires-in-string", want: lives(3599*time.Second, broker.ExpiryFromResponse)},
		{quirk: "expires-in-float", want: lives(3599500*time.Millisecond, broker.ExpiryFromResponse)},
		{quirk: "expires-in-exponent"},
		{quirk: "expires-in-null", want: assumed},
		{quirk: "expires-in-empty", want: assumed},
		{quirk: "expires-in-zero", want: assumed},
		{quirk: "expires-in-zero-never", want: lives(year, broker.ExpiryFromResponse)},
		{quirk: "expires-in-zero-expired", dead: true, want: refused(broker.ReasonTokenExpired)},
		{quirk: "expires-in-negative", want: assumed},
		{quirk: "expires-in-huge", want: lives(year, broker.ExpiryFromResponse)},
		{quirk: "expires"},
		{quirk: "expires-on"},
		{quirk: "expire-time", want: lives(2*time.Hour, broker.ExpiryFromResponse)},
		{quirk: "expires-at-date"},
		{quirk: "expires-in-clock"},
		{quirk: "expires-in-ms"},
		{quirk: "expires-in-minutes"},
		{quirk: "expires-at-ms"},
		{quirk: "expires-in-absent", want: assumed},
		{quirk: "expires-in-jwt", want: lives(time.Hour, broker.ExpiryFromJWT)},
		{quirk: "expires-in-documented", want: lives(2*time.Hour, broker.ExpiryFromProvider)},
		{quirk: "expires-in-wrong", want: lives(10*time.Minute, broker.ExpiryFromProvider)},
		{quirk: "expires-in-rolling", want: lives(24*time.Hour, broker.ExpiryFromProvider)},

		{quirk: "form-body"},
		{quirk: "form-body-unless-json"},
		{quirk: "form-body-as-text"},
		{quirk: "json-as-html"},
		{quirk: "created"},
		{quirk: "empty-body", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
		{quirk: "empty-body-once", want: outcome{requests: 2}},
		{quirk: "captive-portal", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3, detail: "an HTML or XML page"}},
		{quirk: "captive-portal-once", want: outcome{requests: 2}},
		{quirk: "cut-short", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
		{quirk: "no-token", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3, detail: "access_token"}},

		{quirk: "error-in-200", want: refused(broker.ReasonClientRejected)},
		{quirk: "error-in-200-code", want: refused(broker.ReasonGrantRejected)},
		{quirk: "ok-false", want: refused(broker.ReasonClientRejected)},
		{quirk: "ok-false-token", dead: true, want: refused(broker.ReasonUpstreamRefused)},
		{quirk: "success-and-error", want: refused(broker.ReasonScopeRejected)},
		{quirk: "error-nested", want: refused(broker.ReasonClientRejected)},
		{quirk: "bad-client-secret", want: refused(broker.ReasonClientRejected)},
		{quirk: "invalid-client-id", want: refused(broker.ReasonClientRejected)},
		{quirk: "invalid-code", want: refused(broker.ReasonGrantRejected)},
		{quirk: "access-denied", want: refused(broker.ReasonUpstreamRateLimited)},
		{quirk: "unknown-code", want: outcome{reason: broker.ReasonUpstreamRefused, detail: "E-4711"}},
		{quirk: "invalid-client-400", want: refused(broker.ReasonClientRejected)},
		{quirk: "invalid-client-401", want: refused(broker.ReasonClientRejected)},
		{quirk: "invalid-client-bare-401", want: refused(broker.ReasonClientRejected)},
		{quirk: "forbidden-empty", want: refused(broker.ReasonUpstreamRefused)},
		{quirk: "forbidden-invalid-client", want: refused(broker.ReasonClientRejected)},
		{quirk: "server-error-invalid-client", want: refused(broker.ReasonClientRejected)},
		{quirk: "aadsts7000215", want: outcome{reason: broker.ReasonClientRejected, detail: "AADSTS7000215"}},
		{quirk: "aadsts7000222", want: outcome{reason: broker.ReasonClientRejected, detail: "AADSTS7000222"}},
		{quirk: "aadsts700016", want: outcome{reason: broker.ReasonClientRejected, detail: "AADSTS700016"}},
		{quirk: "retry-after-in-text", want: outcome{reason: broker.ReasonUpstreamRateLimited, retry: 55 * time.Second}},
		{quirk: "grant-rotation-off", want: refused(broker.ReasonGrantRejected)},

		{quirk: "audience", want: refused(broker.ReasonRequestRejected)},
		{quirk: "audience", change: target(func(u *broker.Upstream) { u.Audience = zoo.Audience })},
		{quirk: "audience", audience: zoo.Audience, change: target(func(u *broker.Upstream) { u.AllowedAudiences = []string{zoo.Audience} })},
		{quirk: "resource", want: refused(broker.ReasonTargetRejected)},
		{quirk: "resource", change: target(func(u *broker.Upstream) { u.Resources = []string{zoo.Audience} })},
		{quirk: "resource", resource: zoo.Audience, change: target(func(u *broker.Upstream) { u.AllowedResources = []string{zoo.Audience} })},
		{quirk: "resource-as-audience", change: target(func(u *broker.Upstream) { u.Resources = []string{zoo.Audience} })},
		{quirk: "default-scope", want: refused(broker.ReasonScopeRejected)},
		{quirk: "default-scope", change: target(func(u *broker.Upstream) { u.DefaultScopes, u.AllowedScopes = []string{zoo.Scope}, nil }), want: outcome{scopes: []string{zoo.Scope}}},

		// A second caller that asks for other scopes gets the same token, with all of them: one that it were alone with would end it.
		{quirk: "single-active", scopes: []string{"write"}, want: twoScopes},
		{quirk: "capped", want: twoScopes},
		{quirk: "capped-zoho", want: twoScopes},
		{quirk: "budget-header", first: 1, want: outcome{reason: broker.ReasonUpstreamRateLimited, retry: 100 * time.Second}},
		{quirk: "budget-header-date", first: 1, want: outcome{reason: broker.ReasonUpstreamRateLimited, retry: 100 * time.Second}},
		{quirk: "budget-text", first: 1, want: outcome{reason: broker.ReasonUpstreamRateLimited, retry: 5 * time.Minute}}, // longer waits are cut to that
		{quirk: "budget-declared", first: 1},

		{quirk: "json-login", want: lives(24*time.Hour, broker.ExpiryFromProvider)},
		{quirk: "get-login"},
		{quirk: "xml-body", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
		{quirk: "second-step", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
		{quirk: "scope-narrowed", scopes: []string{"read", "write"}, want: outcome{warnings: []broker.Reason{broker.ReasonScopesNarrowed}}},
		{quirk: "scope-narrowed", scopes: []string{"read", "write"}, change: func(_ *world, c *broker.NewClient) { c.TokenPolicy.RequireAllScopes = true }, want: refused(broker.ReasonScopeNotGranted)},
		{quirk: "scope-none", want: outcome{scopes: []string{}, warnings: []broker.Reason{broker.ReasonScopesNarrowed}}},
		{quirk: "scope-array", want: twoScopes},
		{quirk: "scope-comma", scopes: []string{"read", "write"}, want: twoScopes},
		{quirk: "huge-token"},
		{quirk: "too-huge-token", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
		{quirk: "secret-basic-encoded"},
		{quirk: "secret-basic-raw"},
		{quirk: "secret-post"},

		{quirk: "hang-up", want: outcome{reason: broker.ReasonUpstreamConnect, requests: 3}},
		{quirk: "never-answers", want: outcome{reason: broker.ReasonUpstreamTimeout, requests: 3}},
		{quirk: "bad-gateway", want: outcome{reason: broker.ReasonUpstreamUnavailable, requests: 3}},
		{quirk: "proxy-login", want: refused(broker.ReasonUpstreamRefused)},
		{quirk: "redirect", want: refused(broker.ReasonUpstreamRedirected)},
		{quirk: "echo", want: refused(broker.ReasonRequestRejected)},
		{quirk: "markup", want: refused(broker.ReasonUpstreamRefused)},
		{quirk: "endless", want: outcome{reason: broker.ReasonUpstreamMalformed, requests: 3}},
	}
}

// TestTable is the table of quirks: what the provider sends → what the caller gets. What needs no profile is tried without one too.
func TestTable(t *testing.T) {
	t.Parallel()
	for _, r := range rows() {
		quirk, ok := zoo.Find(r.quirk)
		if !ok {
			t.Errorf("there is no quirk %q", r.quirk)
			continue
		}
		t.Run(r.quirk, func(t *testing.T) {
			t.Parallel()
			r.try(t, newWorld(t, quirk, true, r.change))
		})
		if quirk.Profile == "" {
			t.Run(r.quirk+" without a profile", func(t *testing.T) {
				t.Parallel()
				r.try(t, newWorld(t, quirk, false, r.change))
			})
		}
	}
}

// try asks for the token.
func (r row) try(t *testing.T, w *world) {
	t.Helper()
	for range r.first {
		if _, _, err := w.broker.GetToken(t.Context(), broker.TokenQuery{ClientID: clientID, Scopes: []string{"write"}}); err != nil {
			t.Fatalf("a token before: %v", err)
		}
	}
	query := broker.TokenQuery{ClientID: clientID, Scopes: r.scopes, Audience: r.audience}
	if r.resource != "" {
		query.Resources = []string{r.resource}
	}
	before := w.zoo.Requests(w.quirk.Name, "token")
	begin := time.Now()
	token, warnings, err := w.broker.GetToken(t.Context(), query)
	if got, want := w.zoo.Requests(w.quirk.Name, "token")-before, max(r.want.requests, 1); got != want {
		t.Errorf("%d token requests, want %d", got, want)
	}
	if got := broker.ReasonOf(err); got != r.want.reason {
		t.Fatalf("GetToken = %v, want %q", err, r.want.reason)
	}
	if err != nil {
		r.want.checkRefusal(t, broker.AsError(err))
		return
	}
	r.want.checkToken(t, token, warnings, time.Since(begin))
	if got := w.opens(t, token); got == r.dead {
		t.Errorf("the API takes the token: %v", got)
	}
}

func (o outcome) checkRefusal(t *testing.T, err *broker.Error) {
	t.Helper()
	if err.RetryAfter < o.retry {
		t.Errorf("RetryAfter is %v, want at least %v", err.RetryAfter, o.retry)
	}
	text := err.Error()
	if !strings.Contains(text, o.detail) {
		t.Errorf("the error is %q, want %q in it", text, o.detail)
	}
	if strings.Contains(text, zoo.ClientSecret) || strings.ContainsAny(text, "\x1b\r\n") || strings.Contains(text, "zoo-acc") {
		t.Errorf("the error has a secret, part of a token, or a control character: %q", text)
	}
}

func (o outcome) checkToken(t *testing.T, token *broker.Token, warnings []broker.Warning, took time.Duration) {
	t.Helper()
	if o.source == "" {
		o.lifetime, o.source = time.Hour, broker.ExpiryFromResponse
	}
	const rounding = time.Second // of answers in whole seconds
	if got := token.ExpireTime.Sub(token.IssueTime); got > o.lifetime+rounding || got < o.lifetime-took-rounding || token.ExpirySource != o.source {
		t.Errorf("it lives %v by %s, want %v by %s", got, token.ExpirySource, o.lifetime, o.source)
	}
	want := o.scopes
	if want == nil {
		want = []string{"read"}
	}
	if !slices.Equal(token.Scopes, want) {
		t.Errorf("its scopes are %q, want %q", token.Scopes, want)
	}
	var got []broker.Reason
	for _, warning := range warnings {
		got = append(got, warning.Reason)
	}
	if !slices.Equal(got, o.warnings) {
		t.Errorf("its warnings are %q, want %q", got, o.warnings)
	}
}

// TestEachQuirkHasARow holds the tables to the zoo, and so to the notes: [TestEachNoteHasAQuirk].
func TestEachQuirkHasARow(t *testing.T) {
	tried := map[string]bool{}
	for _, r := range rows() {
		tried[r.quirk] = true
	}
	for _, r := range userRows() {
		tried[r.quirk] = true
	}
	for _, r := range consentRows() {
		tried[r.quirk] = true
	}
	for _, r := range deviceRows() {
		tried[r.quirk] = true
	}
	for _, quirk := range zoo.Quirks() {
		if !tried[quirk.Name] {
			t.Errorf("the quirk %q, of the line %q, has no row", quirk.Name, quirk.Line)
		}
	}
}
