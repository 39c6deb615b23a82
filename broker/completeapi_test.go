package broker_test

import (
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// calling is tenants whose profile may name an API.
type calling struct {
	tenants
	api bool
}

// Complete implements broker.Providers.
func (c *calling) Complete(u *broker.Upstream, p *broker.TokenPolicy, r *broker.RotationSettings) []broker.FieldViolation {
	problems := c.tenants.Complete(u, p, r)
	if c.api && len(problems) == 0 && u.APIEndpoint == "" && len(u.TokenDestinations) == 0 {
		origin := "https://api." + u.ProviderVariables["tenant"] + ".example"
		u.APIEndpoint, u.TokenDestinations = origin+"/me", []string{origin}
	}
	return problems
}

// TestAnAPIOfTheProfile comes with a secret that is bound to it, and never with one that
// is not: an update of something else would be refused for it.
func TestAnAPIOfTheProfile(t *testing.T) {
	memory, profiles := brokertest.NewMemory(), &calling{}
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.Providers = profiles
		cfg.CheckEndpoint = func(string) error { return nil }
	})
	want := func(what string, c *broker.Client, err error, api string, destinations ...string) {
		t.Helper()
		wantReason(t, what, err, "")
		if c.Upstream.APIEndpoint != api || !slices.Equal(c.Upstream.TokenDestinations, destinations) {
			t.Errorf("%s: got %q at %q, want %q at %q", what, c.Upstream.APIEndpoint, c.Upstream.TokenDestinations, api, destinations)
		}
	}
	c, err := f.CreateClient(t.Context(), ofTenant("old", "one"))
	want("before the profile had one", c, err, "")
	profiles.api = true
	c, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "old", Edit: func(c *broker.Client) { c.Upstream.Audience = "x" }})
	want("with the old secret", c, err, "")
	c, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "old", Edit: func(*broker.Client) {}, Secret: input("another secret")})
	want("with a new secret, but unchanged", c, err, "")
	c, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "old", Edit: func(c *broker.Client) { c.Upstream.Audience = "y" }, Secret: input("a third secret")})
	want("with a new secret", c, err, "https://api.one.example/me", "https://api.one.example")

	c, err = f.CreateClient(t.Context(), ofTenant("new", "one"))
	want("created", c, err, "https://api.one.example/me", "https://api.one.example")
	c, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "new", Secret: input("another secret"), Edit: func(c *broker.Client) {
		c.Upstream.ProviderVariables = map[string]string{"tenant": "two"}
	}})
	want("moved", c, err, "https://api.two.example/me", "https://api.two.example")
}

// TestThePromiseOfAnIssuer holds as long as it is the issuer, and no longer.
func TestThePromiseOfAnIssuer(t *testing.T) {
	const issuer = "https://as.example/tenant"
	f := newCompleting(t, &issuers{metadata: broker.Metadata{Issuer: issuer, TokenEndpoint: endpoint, IssuerInAnswer: true}})
	_, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: broker.Upstream{
		ClientID: "id", Issuer: issuer, Authentication: broker.Authentication{Method: broker.ClientSecretPost},
	}})
	wantReason(t, "CreateClient", err, "")
	for _, test := range []struct {
		issuer string
		want   bool
	}{{issuer, true}, {"https://another.example", false}, {issuer, false}} {
		c, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
			c.Upstream = broker.Upstream{ClientID: "id", Issuer: test.issuer, TokenEndpoint: endpoint, Authentication: c.Upstream.Authentication} // as whoever sends all fields
		}})
		wantReason(t, "UpdateClient", err, "")
		if got := c.Upstream.IssuerInAnswer; got != test.want {
			t.Errorf("of %s: got the promise %t, want %t", test.issuer, got, test.want)
		}
	}
}
