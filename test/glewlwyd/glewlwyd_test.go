package glewlwyd_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/glewlwyd"
	"github.com/tokenbroker/tokenbroker/test/registration"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRFC7592 rotates secrets at a server whose every update brings a new secret and keeps the registration access token.
func TestRFC7592(t *testing.T) {
	server := glewlwyd.Start(t)
	bench := registration.NewBench(t, server.HTTPClient())
	now := server.Register("Reports")
	if !bench.Works(now) {
		t.Fatal("no token for the registered secret")
	}
	for range 3 { // each goes on with what the one before brought
		before := now
		var err error
		if now, err = bench.Create(before); err != nil {
			t.Fatalf("Create = %v", err)
		}
		if bench.Works(before) {
			t.Error("the replaced secret still works")
		}
		if !bench.Works(now) {
			t.Error("no token for the new secret")
		}
		if now.Token != before.Token || now.Endpoint != before.Endpoint {
			t.Error("the registration access token or its endpoint changed")
		}
	}
	found, outcome := bench.Recover(now)
	if outcome != broker.CreateNotDone || found != now {
		t.Errorf("Recover without a Create = %s, want %s", outcome, broker.CreateNotDone)
	}

	if _, err := bench.Create(bench.Losing(now)); broker.ReasonOf(err) != broker.ReasonUpstreamConnect {
		t.Fatalf("Create with a lost answer = %v, want UPSTREAM_CONNECT", err)
	}
	found, outcome = bench.Recover(now)
	if outcome != broker.CreateDone || bench.Works(now) || !bench.Works(found) {
		t.Errorf("after a lost answer Recover = %s, want %s and a secret that works", outcome, broker.CreateDone)
	}

	stranger := now
	stranger.Token = "wrong"
	if _, err := bench.Create(stranger); broker.ReasonOf(err) != broker.ReasonRotatorUnauthorized {
		t.Errorf("Create with a wrong registration token = %v, want ROTATOR_UNAUTHORIZED", err)
	}
}

// TestScopes asks for scopes at a server that says scope_invalid where RFC 6749 says invalid_scope.
func TestScopes(t *testing.T) {
	server := glewlwyd.Start(t)
	registered := server.Register("Reports")
	transport, ok := server.HTTPClient().Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the transport is %T", server.HTTPClient().Transport)
	}
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: transport.TLSClientConfig.RootCAs, Timeout: time.Minute}) // the machine may be loaded
	t.Cleanup(client.Close)
	origin, err := broker.Origin(server.TokenEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, secret string
		scopes       []string
		want         broker.Reason
	}{
		{name: "the scope", secret: registered.Secret, scopes: []string{glewlwyd.Scope}},
		// It answers 403 and nothing, which proves nothing.
		{name: "a wrong secret", secret: "wrong", scopes: []string{glewlwyd.Scope}, want: broker.ReasonUpstreamRefused},
		{name: "a scope that there is not", secret: registered.Secret, scopes: []string{"admin"}, want: broker.ReasonScopeRejected},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := client.RequestToken(t.Context(), broker.TokenRequest{
				Endpoint: server.TokenEndpoint(), Destinations: []string{origin}, Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
				ClientID: registered.ID, Secret: secret.NewString(test.secret), Scopes: test.scopes,
			})
			if broker.ReasonOf(err) != test.want {
				t.Fatalf("RequestToken = %v, want %q", err, test.want)
			}
			if err == nil && !slices.Equal(got.Scopes, test.scopes) {
				t.Errorf("the token has the scopes %v, want %v", got.Scopes, test.scopes)
			}
		})
	}
}
