package broker_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestKeysNeverMix asks for many different tokens, twice, in different orders of
// the lists: each has its own request, and the second round gets the same tokens.
func TestKeysNeverMix(t *testing.T) {
	f := newFixture(t)
	for _, tenant := range []string{"tenant-a", "tenant-b"} {
		f.create(t, tenant, func(n *broker.NewClient) {
			n.Upstream.ClientID = "shared" // both stand for one client at the authorization server
			n.Upstream.AllowedScopes = []string{"a", "b", "a-b", "ab"}
			n.Upstream.AllowedAudiences = []string{"a", "b", "a b", "read"}
			n.Upstream.AllowedResources = []string{"https://api.example/b", "https://api.example/a/b", "x:a", "x:b"}
		})
	}
	queries := map[string]broker.TokenQuery{
		"defaults":                    {},
		"scope a":                     {Scopes: []string{"a"}},
		"scope b":                     {Scopes: []string{"b"}},
		"scopes a and b":              {Scopes: []string{"a", "b"}},
		"scope ab":                    {Scopes: []string{"ab"}},
		"scope a-b":                   {Scopes: []string{"a-b"}},
		"audience a":                  {Audience: "a"},
		"audience with a space":       {Audience: "a b"},
		"audience like a scope":       {Audience: "read"},
		"resource b":                  {Resources: []string{"https://api.example/b"}},
		"resource a/b":                {Resources: []string{"https://api.example/a/b"}},
		"two resources":               {Resources: []string{"x:a", "x:b"}},
		"resource, audience":          {Resources: []string{"x:a"}, Audience: "b"},
		"resource, audience, scope":   {Resources: []string{"x:a"}, Audience: "b", Scopes: []string{"a"}},
		"other resource and audience": {Resources: []string{"x:b"}, Audience: "a"},
	}
	owner := map[string]string{} // token → whose it is
	for round, order := range []func([]string){func([]string) {}, func(list []string) { slices.Reverse(list) }} {
		for _, tenant := range []string{"tenant-a", "tenant-b"} {
			for name, q := range queries {
				q.ClientID, q.Scopes, q.Resources = tenant, slices.Clone(q.Scopes), slices.Clone(q.Resources)
				order(q.Scopes)
				order(q.Resources)
				token, _, err := f.GetToken(t.Context(), q)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				whose := tenant + ", " + name
				if of, known := owner[token.Access.RevealString()]; known != (round == 1) || known && of != whose {
					t.Errorf("round %d: %s got the token of %q", round, whose, of)
				}
				owner[token.Access.RevealString()] = whose
			}
		}
	}
	if got, want := f.upstream.Count(), 2*len(queries); got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
	for _, r := range f.upstream.Requests() {
		if !slices.IsSorted(r.Scopes) || !slices.IsSorted(r.Resources) {
			t.Errorf("scopes %q and resources %q are not sorted", r.Scopes, r.Resources)
		}
	}
}

// TestChangedSettingsGetANewToken: what the authorization server sees is part of
// the key; what it does not see is not.
func TestChangedSettingsGetANewToken(t *testing.T) {
	tests := []struct {
		name string
		edit func(*broker.Client)
		want bool
	}{
		{"path of the endpoint", func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://as.example/tenant-b/token" }, true},
		{"client_id", func(c *broker.Client) { c.Upstream.ClientID = "another" }, true},
		{"method", func(c *broker.Client) { c.Upstream.Authentication.Method = broker.ClientSecretPost }, true},
		{"parameters", func(c *broker.Client) { c.Upstream.Parameters = map[string]string{"tenant": "b"} }, true},
		{"default scopes", func(c *broker.Client) { c.Upstream.DefaultScopes = []string{"read", "more"} }, true},
		{"audience", func(c *broker.Client) { c.Upstream.Audience = "another" }, true},
		{"resources", func(c *broker.Client) { c.Upstream.Resources = []string{"https://other.example/"} }, true},
		{"order of the default scopes", func(c *broker.Client) { slices.Reverse(c.Upstream.DefaultScopes) }, false},
		{"labels", func(c *broker.Client) { c.Labels = map[string]string{"a": "b"} }, false},
		{"allowed scopes", func(c *broker.Client) { c.Upstream.AllowedScopes = nil }, false},
		{"allowed audiences", func(c *broker.Client) { c.Upstream.AllowedAudiences = nil }, false},
		{"allowed resources", func(c *broker.Client) { c.Upstream.AllowedResources = nil }, false},
		{"min_validity", func(c *broker.Client) { c.TokenPolicy.MinValidity = 1 }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme", func(n *broker.NewClient) { n.Upstream.DefaultScopes = []string{"read", "delete"} })
			f.upstream.Register("another", password)
			before := f.token(t, "acme")
			if _, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: test.edit}); err != nil {
				t.Fatalf("UpdateClient: %v", err)
			}
			if got := f.token(t, "acme") != before; got != test.want {
				t.Errorf("a new token = %t, want %t", got, test.want)
			}
		})
	}
}

// TestAScopeThatIsNoLongerAllowed is refused although its token is still in memory.
func TestAScopeThatIsNoLongerAllowed(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	query := broker.TokenQuery{ClientID: "acme", Scopes: []string{"admin"}}
	if _, _, err := f.GetToken(t.Context(), query); err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	if _, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.AllowedScopes = nil }}); err != nil {
		t.Fatalf("UpdateClient: %v", err)
	}
	_, _, err := f.GetToken(t.Context(), query)
	wantReason(t, "GetToken", err, broker.ReasonScopeNotAllowed)
}

// TestAClientMadeAnew: a client under an old name gets neither the tokens nor the
// secrets of its predecessor, also not on a replica that knew that.
func TestAClientMadeAnew(t *testing.T) {
	f := newFixture(t)
	first := f.create(t, "acme")
	replica := f.replica(t)
	old := []*broker.Token{f.token(t, "acme"), replica.token(t, "acme")}
	for _, key := range keysUnder(f.memory, "clients/") { // purged
		f.memory.Remove(key, broker.AbsentNeverExisted)
	}
	second := f.create(t, "acme", func(n *broker.NewClient) { n.Secret = input("of-the-new-one") })
	if first.UID == second.UID {
		t.Fatalf("both have the uid %q", first.UID)
	}
	for i, b := range []*fixture{f, replica} {
		b.get(t, "acme") // as a revalidation would
		token := b.token(t, "acme")
		if slices.Contains(old, token) {
			t.Errorf("replica %d serves the token of the predecessor", i)
		}
		requests := f.upstream.Requests()
		if got := requests[len(requests)-1].Secret.RevealString(); got != "of-the-new-one" {
			t.Errorf("replica %d sent %q, want the new client's secret", i, got)
		}
	}
	_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Etag: first.Etag(), Edit: func(*broker.Client) {}})
	wantReason(t, "UpdateClient with the predecessor's etag", err, broker.ReasonEtagMismatch)
	if got := fmt.Sprint(first.Etag() == second.Etag()); got != "false" {
		t.Errorf("equal etags %s", first.Etag())
	}
}
