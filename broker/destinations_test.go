package broker_test

import (
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// The secrets of the client in [keptSecrets], none of which may leave for another
// host than as.example.
const (
	previousSecret = "secret-that-was"
	currentSecret  = password
	pendingSecret  = "secret-to-be"
)

// theft is an edit by somebody who may edit a client, gives no secret, and wants
// to have the client's secret sent elsewhere.
type theft struct {
	name string
	edit func(*broker.Upstream)
	// want is why the edit is refused; "" if it is harmless and accepted.
	want broker.Reason
}

func moved(to string) func(*broker.Upstream) {
	return func(u *broker.Upstream) { u.TokenEndpoint = to }
}

// thefts :: path of a field within Upstream → what can be tried with it. A new
// field of Upstream needs a row here.
var thefts = map[string][]theft{
	"TokenEndpoint": {
		{"another host", moved("https://evil.example/token"), broker.ReasonDestinationNotBound},
		{"plain http", moved("http://as.example/token"), broker.ReasonDestinationNotBound},
		{"plain http on the port of https", moved("http://as.example:443/token"), broker.ReasonDestinationNotBound},
		{"another port", moved("https://as.example:8443/token"), broker.ReasonDestinationNotBound},
		{"the same port with a zero", moved("https://as.example:0443/token"), broker.ReasonDestinationNotBound},
		{"trailing dot", moved("https://as.example./token"), broker.ReasonDestinationNotBound},
		{"user that looks like the host", moved("https://as.example@evil.example/token"), broker.ReasonInvalidRequest},
		{"user and password", moved("https://as.example:443@evil.example/token"), broker.ReasonInvalidRequest},
		{"user with an encoded slash", moved("https://as.example%2f@evil.example/token"), broker.ReasonInvalidRequest},
		{"backslash before at", moved(`https://as.example\@evil.example/token`), broker.ReasonInvalidRequest},
		{"backslash after host", moved(`https://evil.example\.as.example/token`), broker.ReasonInvalidRequest},
		{"host as prefix", moved("https://as.example.evil.example/token"), broker.ReasonDestinationNotBound},
		{"host as suffix", moved("https://evil-as.example/token"), broker.ReasonDestinationNotBound},
		{"subdomain", moved("https://sub.as.example/token"), broker.ReasonDestinationNotBound},
		{"parent domain", moved("https://example/token"), broker.ReasonDestinationNotBound},
		{"host in the path", moved("https://evil.example/as.example/token"), broker.ReasonDestinationNotBound},
		{"host in the query", moved("https://evil.example/?https://as.example/token"), broker.ReasonInvalidRequest},
		{"host in the fragment", moved("https://evil.example/#@as.example/token"), broker.ReasonInvalidRequest},
		{"look-alike", moved("https://\u0430s.example/token"), broker.ReasonInvalidRequest},
		{"fullwidth dot", moved("https://as\uff0eexample/token"), broker.ReasonInvalidRequest},
		{"percent-encoded host", moved("https://as%2eexample/token"), broker.ReasonInvalidRequest},
		{"tab in host", moved("https://as.example\t.evil.example/token"), broker.ReasonInvalidRequest},
		{"newline", moved("https://as.example/token\r\nHost: evil.example"), broker.ReasonInvalidRequest},
		{"opaque", moved("https:evil.example"), broker.ReasonInvalidRequest},
		{"loopback", moved("https://127.0.0.1/token"), broker.ReasonDestinationNotBound},
		// The same origin: the secret may go there.
		{"upper-case host", moved("https://AS.EXAMPLE/token"), ""},
		{"upper-case scheme", moved("HTTPS://as.example/token"), ""},
		{"default port", moved("https://as.example:443/token"), ""},
		{"another path", moved("https://as.example/evil.example/token"), ""},
		{"path that climbs", moved("https://as.example/../../evil.example/token"), ""},
	},
	"ClientID": {
		{"somebody else's", func(u *broker.Upstream) { u.ClientID = "evil" }, ""},
		{"a URL", func(u *broker.Upstream) { u.ClientID = "https://evil.example" }, ""},
	},
	"Authentication.Method": {
		{"post", func(u *broker.Upstream) { u.Authentication.Method = broker.ClientSecretPost }, ""},
		{"raw", func(u *broker.Upstream) { u.Authentication.Method = broker.ClientSecretBasicRaw }, ""},
		{"key", func(u *broker.Upstream) { u.Authentication.Method = broker.PrivateKeyJWT }, broker.ReasonSecretUnusable},
		{"none", func(u *broker.Upstream) { u.Authentication.Method = broker.NoAuthentication }, broker.ReasonInvalidRequest},
	},
	"Authentication.SigningAlgorithm": {
		{"symmetric", func(u *broker.Upstream) { u.Authentication.SigningAlgorithm = "HS256" }, broker.ReasonInvalidRequest},
	},
	"Authentication.KeyID": {
		{"a URL", func(u *broker.Upstream) { u.Authentication.KeyID = "https://evil.example/jwks" }, broker.ReasonInvalidRequest},
	},
	"Authentication.AssertionAudience": {
		{"another server", func(u *broker.Upstream) { u.Authentication.AssertionAudience = "https://evil.example" }, broker.ReasonInvalidRequest},
	},
	"DefaultScopes": {
		{"a URL", func(u *broker.Upstream) { u.DefaultScopes = []string{"https://evil.example/token"} }, ""},
	},
	"AllowedScopes": {
		{"a URL", func(u *broker.Upstream) { u.AllowedScopes = []string{"https://evil.example/token"} }, ""},
	},
	"Audience": {
		{"a URL", func(u *broker.Upstream) { u.Audience = "https://evil.example/token" }, ""},
	},
	"AllowedAudiences": {
		{"a URL", func(u *broker.Upstream) { u.AllowedAudiences = []string{"https://evil.example/token"} }, ""},
	},
	"Resources": {
		{"a URL", func(u *broker.Upstream) { u.Resources = []string{"https://evil.example/token"} }, ""},
	},
	"AllowedResources": {
		{"a URL", func(u *broker.Upstream) { u.AllowedResources = []string{"https://evil.example/token"} }, ""},
	},
	"Parameters": {
		{"a redirect", func(u *broker.Upstream) { u.Parameters = map[string]string{"redirect_uri": "https://evil.example"} }, broker.ReasonInvalidRequest},
		{"an assertion", func(u *broker.Upstream) { u.Parameters = map[string]string{"Client_Assertion": "x"} }, broker.ReasonInvalidRequest},
	},
	"IssuerInAnswer": {
		{"promised", func(u *broker.Upstream) { u.IssuerInAnswer = true }, ""},
	},
	"APIEndpoint": {
		{"another host", func(u *broker.Upstream) { u.APIEndpoint = "https://evil.example/me" }, broker.ReasonInvalidRequest},
		{"another host that tokens are bound to", func(u *broker.Upstream) {
			u.APIEndpoint, u.TokenDestinations = "https://evil.example/me", []string{"https://evil.example"}
		}, broker.ReasonDestinationNotBound},
	},
	"IssueBudget.Tokens": {
		{"one", func(u *broker.Upstream) { u.IssueBudget = broker.IssueBudget{Tokens: 1, Period: time.Hour} }, ""},
		{"none", func(u *broker.Upstream) { u.IssueBudget.Tokens = 1 }, broker.ReasonInvalidRequest},
	},
	"IssueBudget.Period": {
		{"without tokens", func(u *broker.Upstream) { u.IssueBudget.Period = time.Hour }, broker.ReasonInvalidRequest},
	},
	"RevocationEndpoint": {
		{"another host", func(u *broker.Upstream) { u.RevocationEndpoint = "https://evil.example/revoke" }, broker.ReasonInvalidRequest},
		{"another port", func(u *broker.Upstream) { u.RevocationEndpoint = "https://as.example:8443/revoke" }, broker.ReasonInvalidRequest},
		{"plain", func(u *broker.Upstream) { u.RevocationEndpoint = "http://as.example/revoke" }, broker.ReasonInvalidRequest},
		{"together with the token endpoint", func(u *broker.Upstream) {
			u.TokenEndpoint, u.RevocationEndpoint = "https://evil.example/token", "https://evil.example/revoke"
		}, broker.ReasonDestinationNotBound},
		{"the same origin", func(u *broker.Upstream) { u.RevocationEndpoint = "https://as.example/evil.example" }, ""},
	},
	"MaxLiveTokens": {
		{"one", func(u *broker.Upstream) { u.MaxLiveTokens = 1 }, ""},
		{"negative", func(u *broker.Upstream) { u.MaxLiveTokens = -1 }, broker.ReasonInvalidRequest},
	},
	"TokenDestinations": {
		{"another host", func(u *broker.Upstream) { u.TokenDestinations = []string{"https://evil.example"} }, broker.ReasonDestinationNotBound},
		{"no origin", func(u *broker.Upstream) { u.TokenDestinations = []string{"https://evil.example/path"} }, broker.ReasonInvalidRequest},
	},
	"SingleActiveToken": {
		{"with two audiences", func(u *broker.Upstream) { u.SingleActiveToken = true }, broker.ReasonInvalidRequest},
		{"with one", func(u *broker.Upstream) { u.SingleActiveToken, u.AllowedAudiences = true, nil }, ""},
	},
}

// fieldPaths lists the leaves of a struct type: "Authentication.Method".
func fieldPaths(structType reflect.Type) []string {
	var paths []string
	for i := range structType.NumField() {
		field := structType.Field(i)
		if field.Type.Kind() != reflect.Struct {
			paths = append(paths, field.Name)
			continue
		}
		for _, below := range fieldPaths(field.Type) {
			paths = append(paths, field.Name+"."+below)
		}
	}
	return paths
}

// TestASecretIsNotSentElsewhere: whoever may edit a client but gives no new secret
// cannot make its secret leave to another host, whichever field he edits and
// whatever he calls afterwards.
func TestASecretIsNotSentElsewhere(t *testing.T) {
	fields := fieldPaths(reflect.TypeFor[broker.Upstream]())
	thefts := maps.Clone(thefts)
	maps.Copy(thefts, theftsByGrant)
	for path := range thefts {
		if !slices.Contains(fields, path) {
			t.Errorf("the table has a row for %s, which is no field of Upstream", path)
		}
	}
	for _, path := range fields {
		if len(thefts[path]) == 0 {
			t.Errorf("Upstream.%s has no row in the table: what could somebody who edits it do?", path)
		}
		for _, attempt := range thefts[path] {
			t.Run(path+"/"+attempt.name, func(t *testing.T) {
				f := keptSecrets(t)
				before := content(t, f.memory)
				_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { attempt.edit(&c.Upstream) }})
				wantReason(t, "UpdateClient", err, attempt.want)
				if got := content(t, f.memory); err != nil && got != before {
					t.Errorf("the store changed to\n%s", got)
				}
				useAll(t, f)
				wantSecretsAtHome(t, f)
			})
		}
	}
}

// TestOneWhoGivesASecretMovesOnlyThat: a new secret in the same request moves the
// client, and leaves the old secrets where they were.
func TestOneWhoGivesASecretMovesOnlyThat(t *testing.T) {
	f := keptSecrets(t)
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{
		ID: "acme", Secret: input("a-secret-of-the-thief"), Edit: func(c *broker.Client) { moved("https://evil.example/token")(&c.Upstream) },
	})
	wantReason(t, "UpdateClient with a secret", err, "")
	pending, _ := f.get(t, "acme").Staged(broker.Pending)

	_, _, err = f.VerifySecret(t.Context(), "acme", 0)
	wantReason(t, "VerifySecret of a secret bound elsewhere", err, broker.ReasonDestinationNotBound)
	for _, number := range []int64{0, pending.Number} {
		_, err = f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: number, AllowUnverified: true, DropTokens: true})
		wantReason(t, "PromoteSecret of a secret bound elsewhere", err, broker.ReasonDestinationNotBound)
	}
	useAll(t, f)
	wantSecretsAtHome(t, f)
	if last := f.sent.all()[len(f.sent.all())-1]; last.Secret.RevealString() != "a-secret-of-the-thief" {
		t.Errorf("the client moved without its own new secret: %+v", last)
	}
}

// TestMovingWithAStagedSecret: staging a secret does not open the way for the one
// that is current.
func TestMovingWithAStagedSecret(t *testing.T) {
	f := keptSecrets(t)
	_, err := f.StageSecret(t.Context(), "acme", input("a-secret-of-the-thief"), "")
	wantReason(t, "StageSecret", err, "")
	for _, label := range []string{"staged", "promoted"} {
		_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
			moved("https://evil.example/token")(&c.Upstream)
		}})
		wantReason(t, "UpdateClient with a secret "+label, err, broker.ReasonDestinationNotBound)
		_, err = f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true})
		if label == "staged" {
			wantReason(t, "PromoteSecret", err, "")
		}
	}
	useAll(t, f)
	wantSecretsAtHome(t, f)
}

// keptSecrets returns a Broker with the client acme, which has a previous, a
// current and a pending secret, all of them bound to as.example. Its adapter would
// connect to any endpoint, so that nothing but the binding holds the secrets.
func keptSecrets(t *testing.T) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.CheckEndpoint = func(string) error { return nil }
	})
	f.create(t, "acme", func(n *broker.NewClient) { n.Secret = input(previousSecret) })
	f.stage(t, "acme", currentSecret)
	f.promote(t, "acme")
	f.stage(t, "acme", pendingSecret)
	return f
}

// useAll does everything that may send a secret, on two replicas, and whatever
// comes of it.
func useAll(t *testing.T, f *fixture) {
	t.Helper()
	ctx := t.Context()
	replica := f.replica(t)
	replica.sent = f.sent
	get := func() {
		for _, b := range []*fixture{f, replica} {
			for _, q := range []broker.TokenQuery{
				{},
				{Scopes: []string{"read"}},
				{Scopes: []string{"https://evil.example/token"}},
				{Audience: "https://evil.example/token"},
				{Resources: []string{"https://evil.example/token"}},
			} {
				q.ClientID = "acme"
				_, _, _ = b.GetToken(ctx, q)
			}
		}
	}
	get()
	_, _ = f.SetDisabled(ctx, "acme", true)
	_, _ = f.SetDisabled(ctx, "acme", false)
	get()
	_, _ = f.DeleteClient(ctx, "acme", "")
	_, _ = f.UndeleteClient(ctx, "acme")
	get()
	_, _ = f.CheckLookup(ctx, broker.LookupCheck{ClientID: "acme", Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
	_, _, _ = f.VerifySecret(ctx, "acme", 0)
	_, _ = f.PromoteSecret(ctx, broker.Promotion{ClientID: "acme", AllowUnverified: true, DropTokens: true})
	get()
}

// wantSecretsAtHome checks where the three secrets of [keptSecrets] went.
func wantSecretsAtHome(t *testing.T, f *fixture) {
	t.Helper()
	requests := f.sent.all()
	if len(requests) < 2 {
		t.Errorf("%d requests left; the test shows nothing", len(requests))
	}
	for _, r := range requests {
		if !slices.Contains([]string{previousSecret, currentSecret, pendingSecret}, r.Secret.RevealString()) {
			continue
		}
		u, err := url.Parse(r.Endpoint)
		if err != nil || u.User != nil || !strings.EqualFold(u.Scheme, "https") || !strings.EqualFold(u.Hostname(), "as.example") || u.Port() != "" && u.Port() != "443" {
			t.Errorf("%s was sent to %s", r.Secret.RevealString(), r.Endpoint)
		}
		if !slices.Equal(r.Destinations, []string{origin}) {
			t.Errorf("%s left with the destinations %v, want %s", r.Secret.RevealString(), r.Destinations, origin)
		}
	}
}
