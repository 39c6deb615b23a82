package broker_test

import (
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// tenants is a directory of one profile, whose endpoints are those of a tenant.
type tenants struct{}

func (tenants) Provider(name string) (broker.Provider, bool) {
	return broker.Provider{Name: "tenants", GrantTypes: []broker.GrantType{broker.ClientCredentials, broker.Password}}, name == "tenants"
}

func (tenants) Names() []string { return []string{"tenants"} }

func (tenants) Complete(u *broker.Upstream, p *broker.TokenPolicy, r *broker.RotationSettings) []broker.FieldViolation {
	switch {
	case u.Provider != "tenants":
		return []broker.FieldViolation{{Field: "client.provider", Problem: "is not there"}}
	case u.ProviderVariables["tenant"] == "":
		return []broker.FieldViolation{{Field: `client.provider_variables["tenant"]`, Problem: "is required"}}
	}
	fill := func(field *string, path string) {
		if *field == "" {
			*field = "https://" + u.ProviderVariables["tenant"] + ".example" + path
		}
	}
	fill(&u.TokenEndpoint, "/token")
	fill(&u.RevocationEndpoint, "/revoke")
	if u.Authentication.Method == "" {
		u.Authentication.Method = broker.ClientSecretPost
	}
	if p.AssumedLifetime == 0 {
		p.AssumedLifetime = 1e9
	}
	if r.Rotator == "" {
		r.Rotator = "of-the-profile" // which is not configured
	}
	return nil
}

// issuers answers discovery; the rest of the interface is never asked.
type issuers struct {
	broker.AuthorizationServer
	metadata broker.Metadata
	err      error
	asked    []string
}

func (i *issuers) Discover(_ context.Context, issuer string, _ ...string) (broker.Metadata, error) {
	i.asked = append(i.asked, issuer)
	return i.metadata, i.err
}

func newCompleting(t *testing.T, i *issuers) *fixture {
	t.Helper()
	memory := brokertest.NewMemory()
	return open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.Providers, cfg.AuthorizationServer = tenants{}, i
		cfg.CheckEndpoint = func(string) error { return nil }
	})
}

func ofTenant(id, tenant string) broker.NewClient {
	return broker.NewClient{ID: id, Secret: input(password), Upstream: broker.Upstream{
		ClientID: "id", Provider: "tenants", ProviderVariables: map[string]string{"tenant": tenant},
	}}
}

func TestAProfileCompletesAClient(t *testing.T) {
	f := newCompleting(t, &issuers{})
	c, err := f.CreateClient(t.Context(), ofTenant("acme", "one"))
	wantReason(t, "CreateClient", err, "")
	want := broker.Upstream{
		TokenEndpoint: "https://one.example/token", RevocationEndpoint: "https://one.example/revoke", ClientID: "id",
		Authentication: broker.Authentication{Method: broker.ClientSecretPost}, Provider: "tenants", ProviderVariables: map[string]string{"tenant": "one"},
	}
	if got := f.get(t, "acme").Upstream; !reflect.DeepEqual(got, want) {
		t.Errorf("stored:\n%+v, want\n%+v", got, want)
	}
	if c.TokenPolicy.AssumedLifetime != 1e9 || c.Rotation.Rotator != "" {
		t.Errorf("policy %+v and rotation %+v, want the profile's lifetime, and no rotator that is not configured", c.TokenPolicy, c.Rotation)
	}
	if current, _ := c.Staged(broker.Current); !slices.Equal(current.Destinations, []string{"https://one.example"}) {
		t.Errorf("the secret is bound to %v", current.Destinations)
	}

	update := func(edit func(*broker.Client), s broker.SecretInput) (*broker.Client, error) {
		return f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: edit, Secret: s})
	}
	c, err = update(func(c *broker.Client) { c.Upstream.RevocationEndpoint = "" }, broker.SecretInput{})
	wantReason(t, "UpdateClient that empties an endpoint", err, "")
	if got := c.Upstream.RevocationEndpoint; got != want.RevocationEndpoint {
		t.Errorf("it is completed to %q", got)
	}
	_, err = update(func(c *broker.Client) { c.Upstream.RevocationEndpoint = "https://one.example/mine" }, broker.SecretInput{})
	wantReason(t, "UpdateClient with an endpoint of its own", err, "")
	_, err = update(func(c *broker.Client) { c.Upstream.ProviderVariables = map[string]string{"tenant": "two"} }, broker.SecretInput{})
	wantField(t, "UpdateClient to a tenant that an endpoint is not of", err, "client.revocation_endpoint")
	toTwo := func(c *broker.Client) {
		c.Upstream.ProviderVariables, c.Upstream.RevocationEndpoint = map[string]string{"tenant": "two"}, ""
	}
	_, err = update(toTwo, broker.SecretInput{})
	wantReason(t, "UpdateClient to another tenant without a secret", err, broker.ReasonDestinationNotBound)
	c, err = update(toTwo, input("the-secret-of-two"))
	wantReason(t, "UpdateClient to another tenant", err, "")
	if got := c.Upstream.TokenEndpoint; got != "https://two.example/token" {
		t.Errorf("the token endpoint is %s", got)
	}

	other := ofTenant("other", "")
	_, err = f.CreateClient(t.Context(), other)
	wantField(t, "CreateClient without its tenant", err, `client.provider_variables["tenant"]`)
	other.Upstream.Provider = "nobody"
	_, err = f.CreateClient(t.Context(), other)
	wantReason(t, "CreateClient with an unknown profile", err, broker.ReasonInvalidRequest)
	other = ofTenant("other", "one")
	other.Upstream.Grant = broker.Password
	_, err = f.CreateClient(t.Context(), other)
	wantReason(t, "CreateClient with a grant that the profile lists", err, "")
}

// TestAnotherProfileNeedsANewSecret: a profile says how a secret is sent.
func TestAnotherProfileNeedsANewSecret(t *testing.T) {
	f := newCompleting(t, &issuers{})
	n := ofTenant("acme", "one")
	n.Upstream.Provider, n.Upstream.ProviderVariables, n.Upstream.TokenEndpoint = "", nil, "https://one.example/token"
	n.Upstream.Authentication.Method = broker.ClientSecretBasic
	_, err := f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient", err, "")
	update := broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
		c.Upstream.Provider, c.Upstream.ProviderVariables = "tenants", map[string]string{"tenant": "one"}
	}}
	_, err = f.UpdateClient(t.Context(), update)
	wantReason(t, "UpdateClient", err, broker.ReasonDestinationNotBound)
	update.MayRetarget = func(*broker.Client) bool { return true }
	_, err = f.UpdateClient(t.Context(), update)
	wantReason(t, "UpdateClient of one who may retarget", err, "")
}

// TestLabelsOfAClientWhoseProfileIsGone can be changed.
func TestLabelsOfAClientWhoseProfileIsGone(t *testing.T) {
	f := newCompleting(t, &issuers{})
	_, err := f.CreateClient(t.Context(), ofTenant("acme", "one"))
	wantReason(t, "CreateClient", err, "")
	bare := f.replica(t)
	_, err = bare.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Labels = map[string]string{"team": "crm"} }})
	wantReason(t, "UpdateClient of labels", err, "")
	_, err = bare.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.Audience = "x" }})
	wantField(t, "UpdateClient of more", err, "client.provider")
}

func TestDiscovery(t *testing.T) {
	const issuer = "https://as.example/tenant"
	all := broker.Metadata{
		Issuer: issuer, TokenEndpoint: endpoint, AuthorizationEndpoint: "https://login.example/authorize", RevocationEndpoint: "https://as.example/revoke",
		IntrospectionEndpoint: "https://elsewhere.example/introspect", DeviceAuthorizationEndpoint: "https://as.example/device",
		MTLSTokenEndpoint: "https://mtls.as.example/token", MTLSRevocationEndpoint: "https://mtls.as.example/revoke", IssuerInAnswer: true,
	}
	tests := []struct {
		name     string
		metadata broker.Metadata
		err      error
		edit     func(*broker.Upstream)
		want     broker.Reason
		check    func(*testing.T, broker.Upstream)
		asked    bool
	}{
		{"what is unset is found", all, nil, func(*broker.Upstream) {}, "", func(t *testing.T, u broker.Upstream) {
			if !u.IssuerInAnswer {
				t.Error("that answers name the issuer is lost")
			}
			if u.TokenEndpoint != endpoint || u.AuthorizationEndpoint != all.AuthorizationEndpoint || u.RevocationEndpoint != all.RevocationEndpoint || u.IntrospectionEndpoint != "" {
				t.Errorf("got %+v, want all but what is of another origin", u)
			}
		}, true},
		{"what is set stays", all, nil, func(u *broker.Upstream) { u.AuthorizationEndpoint = "https://my.example/" }, "", func(t *testing.T, u broker.Upstream) {
			if u.TokenEndpoint != endpoint || u.AuthorizationEndpoint != "https://my.example/" {
				t.Errorf("got %+v", u)
			}
		}, true},
		{"nobody is asked for what is not needed", all, nil, func(u *broker.Upstream) {
			u.TokenEndpoint, u.AuthorizationEndpoint = "https://my.example/token", "https://my.example/"
		}, "", func(t *testing.T, u broker.Upstream) {
			if u.RevocationEndpoint != "" {
				t.Errorf("got %+v", u)
			}
		}, false},
		{"certificates have an endpoint of their own", all, nil, func(u *broker.Upstream) { u.Authentication.Method = broker.TLSClientAuth }, "", func(t *testing.T, u broker.Upstream) {
			if u.TokenEndpoint != all.MTLSTokenEndpoint || u.RevocationEndpoint != all.MTLSRevocationEndpoint || u.DeviceAuthorizationEndpoint != "" {
				t.Errorf("got %+v, want those for certificates, and none of another origin", u)
			}
		}, true},
		{"a needed one is missing", broker.Metadata{Issuer: issuer, TokenEndpoint: endpoint, Ignored: []string{"authorization_endpoint"}}, nil, func(*broker.Upstream) {}, broker.ReasonDiscoveryFailed, nil, true},
		{"it fails", broker.Metadata{}, &broker.Error{Reason: broker.ReasonUpstreamDNS}, func(*broker.Upstream) {}, broker.ReasonUpstreamDNS, nil, true},
		{"what is found is not sound", broker.Metadata{Issuer: issuer, TokenEndpoint: "https://as.example/token?a=b", AuthorizationEndpoint: "https://as.example/"}, nil, func(*broker.Upstream) {}, broker.ReasonInvalidRequest, nil, true},
		{"an issuer that is not sound is not asked", all, nil, func(u *broker.Upstream) { u.Issuer = "https://user@as.example" }, broker.ReasonInvalidRequest, nil, false},
		{"nor for settings that are not", all, nil, func(u *broker.Upstream) { u.ClientID = "" }, broker.ReasonInvalidRequest, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i := &issuers{metadata: test.metadata, err: test.err}
			f := newCompleting(t, i)
			u := broker.Upstream{ClientID: "id", Issuer: issuer, Grant: broker.AuthorizationCode, Authentication: broker.Authentication{Method: broker.ClientSecretPost}}
			test.edit(&u)
			c, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u})
			wantReason(t, "CreateClient", err, test.want)
			if test.check != nil && err == nil {
				test.check(t, c.Upstream)
			}
			if got := len(i.asked) > 0; got != test.asked {
				t.Errorf("asked %v, want %t", i.asked, test.asked)
			}
		})
	}
}

// TestValidateOnly: everything is checked, nothing is written, and no wrapping token is
// used up.
func TestValidateOnly(t *testing.T) {
	i := &issuers{metadata: broker.Metadata{Issuer: "https://as.example", TokenEndpoint: endpoint}}
	unwrapped := 0
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.AuthorizationServer = i
		cfg.Unwrap = func(context.Context, secret.Value) (secret.Value, error) {
			unwrapped++
			return secret.NewString(password), nil
		}
	})
	n := newClient("acme")
	n.Upstream.TokenEndpoint, n.Upstream.Issuer, n.ValidateOnly = "", "https://as.example", true
	c, err := f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient", err, "")
	current, ok := c.Staged(broker.Current)
	if c.Upstream.TokenEndpoint != endpoint || c.UID != "" || c.Etag() != "" || !ok || current.Number != 1 || current.Fingerprint != "" {
		t.Errorf("got %+v, want the client as it would be", c)
	}
	n.Secret = broker.SecretInput{Wrapping: secret.NewString("hvs.abc")}
	_, err = f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient with a wrapping token", err, "")
	n.Secret = input(keyText)
	_, err = f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient with a secret that does not fit", err, broker.ReasonSecretUnusable)
	if got := f.memory.Keys(); len(got) != 0 || unwrapped != 0 {
		t.Errorf("written %q and unwrapped %d times, want nothing", got, unwrapped)
	}

	present := f.create(t, "acme")
	_, err = f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient of one that is there", err, broker.ReasonClientAlreadyExists)
	before := content(t, f.memory)
	c, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", ValidateOnly: true, Secret: input("a-new-one"), Edit: func(c *broker.Client) { moved("https://other.example/token")(&c.Upstream) }})
	wantReason(t, "UpdateClient", err, "")
	current, _ = c.Staged(broker.Current)
	if c.Etag() != present.Etag() || current.Number != 2 || !slices.Equal(current.Destinations, []string{"https://other.example"}) {
		t.Errorf("got %+v, want the client as it would be, with the etag that it has", c)
	}
	_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", ValidateOnly: true, Edit: func(c *broker.Client) { moved("https://other.example/token")(&c.Upstream) }})
	wantReason(t, "UpdateClient without a secret", err, broker.ReasonDestinationNotBound)
	if got := content(t, f.memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
}
