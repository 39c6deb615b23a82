package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func revocable(n *broker.NewClient) { n.Upstream.RevocationEndpoint = "https://as.example/revoke" }

// revokedTokens returns what the authorization server was told, sorted.
func (f *fixture) revokedTokens() []string {
	var tokens []string
	for _, r := range f.upstream.Revoked() {
		tokens = append(tokens, r.Token.RevealString())
	}
	slices.Sort(tokens)
	return tokens
}

// TestRevokeTokens: none of the old ones is served anywhere afterwards, each is
// revoked once wherever it lay, and new ones are not touched.
func TestRevokeTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := runningFleet(t, 3)
		f := replicas[0]
		f.create(t, "acme", revocable)
		f.create(t, "other", revocable)
		f.token(t, "other") // token-1
		for i, scope := range []string{"read", "write", "admin"} {
			wantReason(t, "GetToken", replicas[i].ask(t, scope), "")
			wantReason(t, "GetToken", replicas[(i+1)%3].ask(t, scope), "")
		}
		did, err := f.RevokeTokens(t.Context(), "acme")
		if want := (broker.Revocation{Dropped: 3, Revoked: 3}); err != nil || did != want {
			t.Errorf("RevokeTokens = %+v, %v, want %+v", did, err, want)
		}
		if got, want := f.revokedTokens(), []string{"token-2", "token-3", "token-4"}; !slices.Equal(got, want) {
			t.Errorf("revoked %q, want %q", got, want)
		}
		r := f.upstream.Revoked()[0]
		if r.Endpoint != "https://as.example/revoke" || r.TokenEndpoint != endpoint || r.ClientID != "client-id-of-acme" || r.Secret.RevealString() != password ||
			!slices.Equal(r.Destinations, []string{origin}) {
			t.Errorf("request %+v", r)
		}
		time.Sleep(2 * time.Second)
		for i, b := range replicas {
			for _, scope := range []string{"read", "write", "admin"} {
				token, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{scope}})
				if err != nil || slices.Contains(f.revokedTokens(), token.Access.RevealString()) {
					t.Errorf("replica %d serves a revoked token, or none: %v", i, err)
				}
			}
		}
		if got, want := f.upstream.Count(), 7; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		if got := f.token(t, "other").Access.RevealString(); got != "token-1" {
			t.Errorf("another client's token was dropped too: %s", got)
		}
	})
}

// TestRevokingFails: the tokens are dropped, and a repetition revokes them.
func TestRevokingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", revocable)
		before := f.token(t, "acme")
		f.upstream.RefuseRevocations(rejected(broker.ReasonUpstreamUnavailable))
		did, err := f.RevokeTokens(t.Context(), "acme")
		wantReason(t, "RevokeTokens", err, broker.ReasonUpstreamUnavailable)
		if want := (broker.Revocation{Dropped: 1}); did != want {
			t.Errorf("RevokeTokens = %+v, want %+v", did, want)
		}
		if f.token(t, "acme").ID == before.ID {
			t.Error("the token is still served")
		}
		f.upstream.RefuseRevocations(nil)
		did, err = f.replica(t).RevokeTokens(t.Context(), "acme")
		if want := (broker.Revocation{Dropped: 2, Revoked: 2}); err != nil || did != want {
			t.Errorf("RevokeTokens again = %+v, %v, want %+v", did, err, want)
		}
		did, err = f.replica(t).RevokeTokens(t.Context(), "acme")
		if err != nil || did.Revoked != 0 {
			t.Errorf("RevokeTokens a third time = %+v, %v, want nothing left", did, err)
		}
	})
}

// TestRevokingWithoutAnEndpoint, and during a request.
func TestRevokingWithoutAnEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{Delay: 3 * time.Second})
		got := make(chan *broker.Token)
		go func() { got <- f.token(t, "acme") }()
		time.Sleep(time.Second)
		did, err := f.RevokeTokens(t.Context(), "acme")
		if err != nil || did != (broker.Revocation{}) || len(f.revokedTokens()) != 0 {
			t.Errorf("RevokeTokens = %+v, %v, want nothing found", did, err)
		}
		if token := <-got; token.Access.RevealString() != "token-2" {
			t.Errorf("who waited got %s, which was asked for before", token.Access.RevealString())
		}
		_, err = f.RevokeTokens(t.Context(), "nobody")
		wantReason(t, "RevokeTokens of nobody", err, broker.ReasonClientNotFound)
	})
}
