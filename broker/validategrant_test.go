package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// theftsByGrant are the rows of thefts for how, and in whose way, tokens are had.
var theftsByGrant = map[string][]theft{
	"Provider": {
		{"one that there is not", func(u *broker.Upstream) { u.Provider = "evil" }, broker.ReasonInvalidRequest},
		{"no id", func(u *broker.Upstream) { u.Provider = "../evil" }, broker.ReasonInvalidRequest},
	},
	"ProviderVariables": {
		{"without provider", func(u *broker.Upstream) { u.ProviderVariables = map[string]string{"tenant": "evil.example/"} }, broker.ReasonInvalidRequest},
	},
	"Grant": {
		{"a user's", func(u *broker.Upstream) {
			u.Grant, u.AuthorizationEndpoint = broker.AuthorizationCode, "https://evil.example/authorize"
		}, ""},
		{"a password", func(u *broker.Upstream) { u.Grant = broker.Password }, broker.ReasonInvalidRequest},
		{"an assertion", func(u *broker.Upstream) { u.Grant = broker.JWTBearer }, broker.ReasonInvalidRequest},
		{"an unknown one", func(u *broker.Upstream) { u.Grant = "evil" }, broker.ReasonInvalidRequest},
	},
	"Issuer": {
		{"another host", func(u *broker.Upstream) { u.Issuer = "https://evil.example" }, ""},
		{"and endpoints to be discovered", func(u *broker.Upstream) { u.Issuer, u.TokenEndpoint = "https://evil.example", "" }, broker.ReasonInvalidRequest},
	},
	"AuthorizationEndpoint": {
		{"another host", func(u *broker.Upstream) { u.AuthorizationEndpoint = "https://evil.example/authorize" }, ""}, // no secret goes there
		{"a script", func(u *broker.Upstream) { u.AuthorizationEndpoint = "javascript:alert(1)" }, broker.ReasonInvalidRequest},
	},
	"DeviceAuthorizationEndpoint": sentTo(func(u *broker.Upstream, at string) { u.DeviceAuthorizationEndpoint = at }),
	"IntrospectionEndpoint":       sentTo(func(u *broker.Upstream, at string) { u.IntrospectionEndpoint = at }),
	"RefreshEndpoint":             sentTo(func(u *broker.Upstream, at string) { u.RefreshEndpoint = at }),
	"APIEndpoint": {
		{"another host", func(u *broker.Upstream) { u.APIEndpoint = "https://evil.example/me" }, broker.ReasonInvalidRequest},
		{"plain", func(u *broker.Upstream) { u.APIEndpoint = "http://as.example/me" }, broker.ReasonInvalidRequest},
		{"with a destination", func(u *broker.Upstream) {
			u.APIEndpoint, u.TokenDestinations = "https://evil.example/me", []string{"https://evil.example"}
		}, broker.ReasonDestinationNotBound},
	},
	"TokenBinding": {
		{"to a certificate", func(u *broker.Upstream) { u.TokenBinding = broker.BoundByCertificate }, broker.ReasonInvalidRequest},
	},
	"AssertionSubject": {
		{"somebody else", func(u *broker.Upstream) { u.AssertionSubject = "admin@example.com" }, broker.ReasonInvalidRequest},
	},
	"RedirectURIs": {
		{"another host", func(u *broker.Upstream) { u.RedirectURIs = []string{"https://evil.example/"} }, broker.ReasonInvalidRequest},
	},
}

// sentTo are the thefts by an endpoint that the secret is sent to.
func sentTo(set func(*broker.Upstream, string)) []theft {
	return []theft{
		{"another host", func(u *broker.Upstream) { set(u, "https://evil.example/") }, broker.ReasonInvalidRequest},
		{"another port", func(u *broker.Upstream) { set(u, "https://as.example:8443/") }, broker.ReasonInvalidRequest},
		{"plain", func(u *broker.Upstream) { set(u, "http://as.example/") }, broker.ReasonInvalidRequest},
		{"together with the token endpoint", func(u *broker.Upstream) {
			u.TokenEndpoint = "https://evil.example/token"
			set(u, "https://evil.example/")
		}, broker.ReasonDestinationNotBound},
		{"the same origin", func(u *broker.Upstream) { set(u, "https://as.example/evil.example") }, ""},
	}
}

// keyText stands in for a private key; checkSecret knows it by its beginning.
const keyText = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"

func with(method broker.AuthenticationMethod, grant broker.GrantType) broker.Upstream {
	return broker.Upstream{
		TokenEndpoint: endpoint, ClientID: "id", Authentication: broker.Authentication{Method: method}, Grant: grant,
		AuthorizationEndpoint: "https://as.example/authorize?prompt=consent", DeviceAuthorizationEndpoint: "https://as.example/device",
	}
}

// TestMethodsAndGrants tries each client authentication method with each grant.
func TestMethodsAndGrants(t *testing.T) {
	f := newFixture(t)
	for _, method := range broker.AuthenticationMethods() {
		for _, grant := range broker.GrantTypes() {
			t.Run(string(method)+"/"+string(grant), func(t *testing.T) {
				want := grant != broker.Password // which no profile offers here
				switch method {
				case broker.NoAuthentication:
					want = want && grant != broker.ClientCredentials && grant != broker.TokenExchange
				case broker.PrivateKeyJWT, broker.ClientSecretJWT:
				default:
					want = want && grant != broker.JWTBearer
				}
				c, err := f.CreateClient(t.Context(), broker.NewClient{
					ID: strings.ReplaceAll(string(method)+"-"+string(grant), "_", "-"), Upstream: with(method, grant),
				})
				if got := err == nil; got != want {
					t.Fatalf("CreateClient: %v, want it taken: %t", err, want)
				}
				if err == nil && grant == broker.ClientCredentials && c.Upstream.Grant != "" {
					t.Errorf("the grant is stored as %q, want it as earlier releases have it", c.Upstream.Grant)
				}
			})
		}
	}
}

func TestGrantSettings(t *testing.T) {
	code := func(edit func(*broker.Upstream)) broker.Upstream {
		u := with(broker.ClientSecretPost, broker.AuthorizationCode)
		edit(&u)
		return u
	}
	redirect := func(uris ...string) broker.Upstream {
		return code(func(u *broker.Upstream) { u.RedirectURIs = uris })
	}
	tests := []struct {
		name     string
		upstream broker.Upstream
		field    string // "" is sound
	}{
		{"code", code(func(*broker.Upstream) {}), ""},
		{"code without authorization endpoint", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "" }), "client.authorization_endpoint"},
		{"authorization endpoint elsewhere", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "https://login.example/x?y=z" }), ""},
		{"authorization endpoint on this machine", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "http://127.0.0.1:8080/x" }), ""},
		{"plain authorization endpoint", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "http://login.example/x" }), "client.authorization_endpoint"},
		{"authorization endpoint with fragment", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "https://login.example/#" }), "client.authorization_endpoint"},
		{"authorization endpoint with user", code(func(u *broker.Upstream) { u.AuthorizationEndpoint = "https://a@login.example/" }), "client.authorization_endpoint"},
		{"device without its endpoint", func() broker.Upstream {
			u := with(broker.NoAuthentication, broker.DeviceCode)
			u.DeviceAuthorizationEndpoint = ""
			return u
		}(), "client.device_authorization_endpoint"},
		{"API", code(func(u *broker.Upstream) {
			u.APIEndpoint, u.TokenDestinations = "https://api.example/me?a=b", []string{"https://api.example"}
		}), ""},
		{"API that tokens may not go to", code(func(u *broker.Upstream) { u.APIEndpoint = "https://api.example/me" }), "client.api_endpoint"},
		{"plain API", code(func(u *broker.Upstream) {
			u.APIEndpoint, u.TokenDestinations = "http://api.example/me", []string{"http://api.example"}
		}), "client.api_endpoint"},
		{"API with fragment", code(func(u *broker.Upstream) {
			u.APIEndpoint, u.TokenDestinations = "https://api.example/me?a#b", []string{"https://api.example"}
		}), "client.api_endpoint"},
		{"refresh endpoint elsewhere", code(func(u *broker.Upstream) { u.RefreshEndpoint = "https://other.example/refresh" }), "client.refresh_endpoint"},
		{"issuer", code(func(u *broker.Upstream) { u.Issuer = "https://issuer.example/tenant" }), ""},
		{"issuer with query", code(func(u *broker.Upstream) { u.Issuer = "https://issuer.example/?a=b" }), "client.issuer"},
		{"issuer with fragment", code(func(u *broker.Upstream) { u.Issuer = "https://issuer.example/#a" }), "client.issuer"},
		{"issuer that is no URL", code(func(u *broker.Upstream) { u.Issuer = "issuer.example" }), "client.issuer"},

		{"redirect URI", redirect("https://app.example/callback?a=b", "http://localhost:8080/cb", "http://127.0.0.1/cb", "http://[::1]/cb"), ""},
		{"redirect URI with wildcard", redirect("https://*.app.example/callback"), "client.redirect_uris[0]"},
		{"redirect URI with wildcard path", redirect("https://app.example/*"), "client.redirect_uris[0]"},
		{"plain redirect URI", redirect("https://app.example/", "http://app.example/"), "client.redirect_uris[1]"},
		{"plain redirect URI that looks local", redirect("http://localhost.app.example/"), "client.redirect_uris[0]"},
		{"redirect URI with fragment", redirect("https://app.example/#x"), "client.redirect_uris[0]"},
		{"redirect URI with a scheme of its own", redirect("com.example.app:/callback"), "client.redirect_uris[0]"},
		{"relative redirect URI", redirect("/callback"), "client.redirect_uris[0]"},
		{"empty redirect URI", redirect(""), "client.redirect_uris[0]"},
		{"redirect URI with markup", redirect(`https://app.example/"><script>`), "client.redirect_uris[0]"},
		{"redirect URI twice", redirect("https://app.example/", "https://app.example/"), "client.redirect_uris[1]"},
		{"21 redirect URIs", redirect(numbered(21, "https://app.example/%d")...), "client.redirect_uris"},
		{"redirect URI with another grant", func() broker.Upstream {
			u := with(broker.ClientSecretPost, "")
			u.RedirectURIs = []string{"https://app.example/"}
			return u
		}(), "client.redirect_uris"},

		{"DPoP", code(func(u *broker.Upstream) { u.TokenBinding = broker.BoundByDPoP }), ""},
		{"unknown binding", code(func(u *broker.Upstream) { u.TokenBinding = "glue" }), "client.token_binding"},
		{"bound to a certificate without one", code(func(u *broker.Upstream) { u.TokenBinding = broker.BoundByCertificate }), "client.token_binding"},
		{"bound to the certificate", func() broker.Upstream {
			u := with(broker.SelfSignedTLSClientAuth, "")
			u.TokenBinding = broker.BoundByCertificate
			return u
		}(), ""},
		{"one token for all, bound to the key of one", code(func(u *broker.Upstream) { u.TokenBinding, u.SingleActiveToken = broker.BoundByDPoP, true }), "client.single_active_token"},
		{"few exchanged tokens", func() broker.Upstream {
			u := with(broker.ClientSecretPost, broker.TokenExchange)
			u.MaxLiveTokens = 2
			return u
		}(), "client.max_live_tokens"},

		{"HMAC by client_secret_jwt", func() broker.Upstream {
			u := with(broker.ClientSecretJWT, "")
			u.Authentication.SigningAlgorithm, u.Authentication.AssertionAudience = "HS512", "https://as.example"
			return u
		}(), ""},
		{"RSA by client_secret_jwt", func() broker.Upstream {
			u := with(broker.ClientSecretJWT, "")
			u.Authentication.SigningAlgorithm = "RS256"
			return u
		}(), "client.assertion.signing_algorithm"},
		{"HMAC by private_key_bearer", func() broker.Upstream {
			u := with(broker.PrivateKeyBearer, "")
			u.Authentication.SigningAlgorithm = "HS256"
			return u
		}(), "client.assertion.signing_algorithm"},
		{"assertion of jwt_bearer", func() broker.Upstream {
			u := with(broker.NoAuthentication, broker.JWTBearer)
			u.Authentication.KeyID, u.AssertionSubject = "key-1", "user@example.com"
			return u
		}(), ""},
		{"subject without jwt_bearer", code(func(u *broker.Upstream) { u.AssertionSubject = "user@example.com" }), "client.assertion_subject"},
		{"subject with a line break", func() broker.Upstream {
			u := with(broker.NoAuthentication, broker.JWTBearer)
			u.AssertionSubject = "a\nb"
			return u
		}(), "client.assertion_subject"},
		{"variables without provider", code(func(u *broker.Upstream) { u.ProviderVariables = map[string]string{"a": "b"} }), "client.provider_variables"},
		{"provider that there is not", code(func(u *broker.Upstream) { u.Provider = "nobody" }), "client.provider"},
	}
	f := newFixture(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: test.upstream, ValidateOnly: true})
			if test.field == "" {
				wantReason(t, "CreateClient", err, "")
				return
			}
			wantField(t, "CreateClient", err, test.field)
		})
	}
	if got := f.memory.Keys(); len(got) != 0 {
		t.Errorf("written: %q, want nothing", got)
	}
}

func TestPublicClientsHaveNoSecret(t *testing.T) {
	f := newFixture(t)
	u := with(broker.NoAuthentication, broker.AuthorizationCode)
	_, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u, Secret: input(password)})
	wantField(t, "CreateClient with a secret", err, "secret")
	_, err = f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u, Rotation: broker.RotationSettings{Overlap: time.Hour}})
	wantField(t, "CreateClient with a rotation", err, "client.rotation")
	_, err = f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u})
	wantReason(t, "CreateClient", err, "")
}

// TestTheKeyOfAnAssertion: without client authentication the secret of jwt_bearer is a
// private key all the same.
func TestTheKeyOfAnAssertion(t *testing.T) {
	f := newFixture(t)
	u := with(broker.NoAuthentication, broker.JWTBearer)
	_, err := f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u, Secret: input(password)})
	wantReason(t, "CreateClient with a password", err, broker.ReasonSecretUnusable)
	_, err = f.CreateClient(t.Context(), broker.NewClient{ID: "acme", Upstream: u, Secret: input(keyText)})
	wantReason(t, "CreateClient with a key", err, "")
	_, err = f.StageSecret(t.Context(), "acme", input("another-one"), "")
	wantReason(t, "StageSecret of a password", err, broker.ReasonSecretUnusable)
	_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream = with(broker.PrivateKeyJWT, "") }})
	wantReason(t, "UpdateClient to another use of the key", err, "")
}
