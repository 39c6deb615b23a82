package broker_test

import (
	"context"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestImportClient: importing again what is there writes nothing.
func TestImportClient(t *testing.T) {
	f := newFixture(t)
	described := func(edit func(*broker.ImportedClient)) broker.ImportedClient {
		in := broker.ImportedClient{NewClient: newClient("acme"), Update: true}
		edit(&in)
		return in
	}
	same := func(*broker.ImportedClient) {}
	denied := func() error { return &broker.Error{Reason: broker.ReasonCallerNotAllowed} }
	steps := []struct {
		name string
		edit func(*broker.ImportedClient)
		want broker.ImportOutcome
		err  broker.Reason
		keep bool // whether the store stays as it is
	}{
		{"one who may not create", func(in *broker.ImportedClient) { in.MayCreate = denied }, 0, broker.ReasonCallerNotAllowed, true},
		{"only validated", func(in *broker.ImportedClient) { in.ValidateOnly = true }, broker.ImportCreated, "", true},
		{"new", func(in *broker.ImportedClient) { in.MayUpdate = denied }, broker.ImportCreated, "", false},
		{"again", func(in *broker.ImportedClient) { in.MayCreate = denied }, broker.ImportUnchanged, "", true},
		{"again, without secret", func(in *broker.ImportedClient) { in.Secret = broker.SecretInput{} }, broker.ImportUnchanged, "", true},
		{"again, spelled otherwise", func(in *broker.ImportedClient) {
			in.Upstream.Grant, in.Labels = broker.ClientCredentials, map[string]string{}
		}, broker.ImportUnchanged, "", true},
		{"there, and not to be updated", func(in *broker.ImportedClient) { in.Update = false }, 0, broker.ReasonClientAlreadyExists, true},
		{"one who may not update", func(in *broker.ImportedClient) { in.MayUpdate = denied }, 0, broker.ReasonCallerNotAllowed, true},
		{"other settings, only validated", func(in *broker.ImportedClient) { in.Upstream.Audience, in.ValidateOnly = "aud-9", true }, broker.ImportUpdated, "", true},
		{"other settings", func(in *broker.ImportedClient) { in.Upstream.Audience = "aud-9" }, broker.ImportUpdated, "", false},
		{"back", same, broker.ImportUpdated, "", false},
		{"another secret, only validated", func(in *broker.ImportedClient) { in.Secret, in.ValidateOnly = input("a-new-one"), true }, broker.ImportUpdated, "", true},
		{"another secret", func(in *broker.ImportedClient) { in.Secret = input("a-new-one") }, broker.ImportUpdated, "", false},
		{"the same secret", func(in *broker.ImportedClient) { in.Secret = input("a-new-one") }, broker.ImportUnchanged, "", true},
		{"another origin without a secret", func(in *broker.ImportedClient) {
			in.Upstream.TokenEndpoint, in.Secret = "https://other.example/token", broker.SecretInput{}
		}, 0, broker.ReasonDestinationNotBound, true},
		{"another origin with the same secret", func(in *broker.ImportedClient) {
			in.Upstream.TokenEndpoint, in.Secret = "https://other.example/token", input("a-new-one")
		}, broker.ImportUpdated, "", false},
		{"a bad name", func(in *broker.ImportedClient) { in.ID = "../acme" }, 0, broker.ReasonInvalidRequest, true},
		{"bad settings", func(in *broker.ImportedClient) { in.Upstream.ClientID = "" }, 0, broker.ReasonInvalidRequest, true},
	}
	for _, step := range steps {
		before := content(t, f.memory)
		got, err := f.ImportClient(t.Context(), described(step.edit))
		wantReason(t, step.name, err, step.err)
		if err == nil && got != step.want {
			t.Errorf("%s: outcome %d, want %d", step.name, got, step.want)
		}
		if stays := content(t, f.memory) == before; stays != step.keep {
			t.Errorf("%s: the store stayed as it was: %t, want %t", step.name, stays, step.keep)
		}
	}
	_, err := f.DeleteClient(t.Context(), "acme", "")
	wantReason(t, "DeleteClient", err, "")
	_, err = f.ImportClient(t.Context(), described(same))
	wantReason(t, "a deleted one", err, broker.ReasonClientDeleted)
}

// TestImportedKeysAndReferences are the same secret however they are laid out, and as
// long as they name the same place.
func TestImportedKeysAndReferences(t *testing.T) {
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.References = places{}
	})
	key := broker.ImportedClient{NewClient: newClient("key"), Update: true}
	key.Upstream.Authentication.Method, key.Secret = broker.PrivateKeyJWT, input(`{"kty":"EC","d":"abc"}`)
	reference := broker.ImportedClient{NewClient: newClient("reference"), Update: true}
	reference.Secret = broker.SecretInput{Reference: broker.SecretReference{Mount: "secret", Path: "acme", Field: "value"}}
	for _, in := range []broker.ImportedClient{key, reference} {
		for i, want := range []broker.ImportOutcome{broker.ImportCreated, broker.ImportUnchanged} {
			if i == 1 && in.ID == "key" {
				in.Secret = input(`{"d": "abc", "kty": "EC"}`)
			}
			got, err := f.ImportClient(t.Context(), in)
			if err != nil || got != want {
				t.Errorf("%s: outcome %d (%v), want %d", in.ID, got, err, want)
			}
		}
	}
	reference.Secret.Reference.Path = "other"
	got, err := f.ImportClient(t.Context(), reference)
	if err != nil || got != broker.ImportUpdated {
		t.Errorf("another place: outcome %d (%v), want it updated", got, err)
	}
}

// places has a secret of its own at each place.
type places struct{}

func (places) Version(context.Context, broker.SecretReference) (int64, error) { return 1, nil }

func (places) Read(_ context.Context, r broker.SecretReference, _ int64) (broker.ReferencedSecret, error) {
	return broker.ReferencedSecret{Value: secret.NewString("value-at-" + r.Path), Version: 1}, nil
}
