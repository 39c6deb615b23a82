package vault_test

import (
	"errors"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

// TestFollowsItsOwner has a broker with the printed policy follow a secret of others
// through two changes, after a client was registered by wrapping token.
func TestFollowsItsOwner(t *testing.T) {
	o, places := newOwners(t)
	store := start(t, o.config)
	upstream := brokertest.NewUpstream()
	b, err := broker.New(broker.Config{
		Store: store, RequestToken: upstream.RequestToken, CheckSecret: func(broker.Authentication, secret.Value) error { return nil },
		Unwrap: store.Unwrapper(vault.Wrapping{CreationPaths: []string{o.theirs + "/data/oauth/*"}}), References: store.References(places),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	create := func(id string, in broker.SecretInput) {
		t.Helper()
		_, err := b.CreateClient(t.Context(), broker.NewClient{ID: id, Secret: in, Upstream: broker.Upstream{
			TokenEndpoint: "https://as.example/token", ClientID: id, Authentication: broker.Authentication{Method: broker.ClientSecretBasic},
			AllowedScopes: []string{"a", "b", "c"},
		}})
		if err != nil {
			t.Fatalf("CreateClient: %v", err)
		}
	}
	upstream.Register("wrapped", "canary wrapped")
	create("wrapped", broker.SecretInput{Wrapping: o.Wrap(map[string]any{"client_secret": "canary wrapped"})})
	if _, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "wrapped"}); err != nil {
		t.Errorf("GetToken: %v", err)
	}

	reference := broker.SecretReference{Mount: o.theirs, Path: "oauth/acme", Field: "client_secret"}
	for n, scope := range []string{"a", "b", "c"} {
		text := "canary owned by others " + scope
		upstream.Register("acme", text)
		o.Put(reference.Mount, reference.Path, map[string]any{reference.Field: text, "client_id": "acme"})
		if n == 0 {
			create("acme", broker.SecretInput{Reference: reference})
		}
		if _, _, err := b.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{scope}}); err != nil {
			t.Fatalf("GetToken: %v", err)
		}
		requests := upstream.Requests()
		if got := requests[len(requests)-1].Secret.RevealString(); got != text {
			t.Errorf("after change %d the token was got with another secret than the owner's latest", n)
		}
		c, err := b.GetClient(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		current, _ := c.Staged(broker.Current)
		if current.OwnerVersion != int64(n+1) {
			t.Errorf("after change %d current is version %d of the owner's", n, current.OwnerVersion)
		}
		_, err = store.Read(t.Context(), "secrets/acme/"+c.UID+"-1")
		if absent := new(*broker.AbsentError); !errors.As(err, absent) || (*absent).How != broker.AbsentNeverExisted {
			t.Errorf("Read of our own copy: %v, want that there never was one", err)
		}
	}
	if err := b.RetireSecret(t.Context(), "acme", 2); err != nil {
		t.Errorf("RetireSecret: %v", err)
	}
	if status, _ := o.Do("GET", reference.Mount+"/data/"+reference.Path+"?version=2", nil); status != 200 {
		t.Errorf("after it was retired here, the owner's version has status %d", status)
	}
}
