package broker_test

import (
	"net/url"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

const (
	issuer   = "https://as.example"
	callback = "https://broker.example/authorization/callback"
	ownPage  = "https://app.example/oauth/done"
	subject  = "users/4711"
)

// consents is a Broker whose authorization server speaks to users.
type consents struct {
	*fixture
	users *brokertest.Users
}

func newConsents(t *testing.T) *consents {
	t.Helper()
	memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
	return openConsents(t, memory, upstream, brokertest.NewUsers(upstream, issuer))
}

// replica returns a second Broker on the same store with the same authorization server.
func (w *consents) replica(t *testing.T) *consents {
	t.Helper()
	return openConsents(t, w.memory, w.upstream, w.users)
}

func openConsents(t *testing.T, memory *brokertest.Memory, upstream *brokertest.Upstream, users *brokertest.Users) *consents {
	t.Helper()
	w := openConsentsOn(t, brokertest.NewFaulty(memory), upstream, users)
	w.memory = memory
	return w
}

func openConsentsOn(t *testing.T, store *brokertest.Faulty, upstream *brokertest.Upstream, users *brokertest.Users) *consents {
	t.Helper()
	return &consents{users: users, fixture: open(t, nil, store, upstream, func(cfg *broker.Config) {
		cfg.RequestToken, cfg.AuthorizationServer, cfg.CallbackURL = users.RequestToken, users, callback
		cfg.Providers = brokertest.Profiles{"old": {Name: "old", GrantTypes: []broker.GrantType{broker.Password}}}
	})}
}

// register makes a client of a grant of users.
func (w *consents) register(t *testing.T, id string, grant broker.GrantType, edits ...func(*broker.NewClient)) *broker.Client {
	t.Helper()
	return w.create(t, id, append([]func(*broker.NewClient){func(n *broker.NewClient) {
		u := &n.Upstream
		u.Grant, u.Issuer = grant, issuer
		if grant == broker.AuthorizationCode {
			u.RedirectURIs = []string{ownPage}
		}
		u.AuthorizationEndpoint, u.DeviceAuthorizationEndpoint = issuer+"/authorize", issuer+"/device_authorization"
		u.RevocationEndpoint = issuer + "/revoke"
		u.AllowedScopes = append(u.AllowedScopes, "openid")
		u.Audience, u.AllowedAudiences, u.Resources, u.AllowedResources = "", nil, nil, nil
	}}, edits...)...)
}

// start asks for a consent.
func (w *consents) start(t *testing.T, id string, edits ...func(*broker.AuthorizationStart)) *broker.Authorization {
	t.Helper()
	s := broker.AuthorizationStart{ClientID: id, Subject: subject}
	for _, edit := range edits {
		edit(&s)
	}
	a, err := w.StartAuthorization(t.Context(), s)
	if err != nil {
		t.Fatalf("StartAuthorization(%q): %v", id, err)
	}
	return a
}

// consent is the user's: it returns what comes to the redirect URI.
func (w *consents) consent(t *testing.T, a *broker.Authorization) broker.AuthorizationAnswer {
	t.Helper()
	query, err := w.users.Consent(a.Consent.AuthorizationURL)
	if err != nil {
		t.Fatalf("Consent: %v", err)
	}
	return answerOf(query)
}

func answerOf(query url.Values) broker.AuthorizationAnswer {
	return broker.AuthorizationAnswer{
		State: query.Get("state"), Code: query.Get("code"), Issuer: query.Get("iss"),
		Error: query.Get("error"), ErrorDescription: query.Get("error_description"),
	}
}

// authorization reads the subject's authorization.
func (w *consents) authorization(t *testing.T, id string) *broker.Authorization {
	t.Helper()
	a, err := w.GetAuthorization(t.Context(), broker.AuthorizationRef{ClientID: id, Subject: subject})
	if err != nil {
		t.Fatalf("GetAuthorization(%q): %v", id, err)
	}
	return a
}

// granted has a grant made by consent.
func (w *consents) granted(t *testing.T, id string) *broker.Authorization {
	t.Helper()
	a, err := w.CompleteAuthorization(t.Context(), w.consent(t, w.start(t, id)))
	if err != nil {
		t.Fatalf("CompleteAuthorization(%q): %v", id, err)
	}
	return a
}
