package broker_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// newSourced returns a fixture that takes secrets from wrapping and references.
func newSourced(t *testing.T) (*fixture, *brokertest.Wrapping, *brokertest.References) {
	t.Helper()
	memory, wrapping, references := brokertest.NewMemory(), brokertest.NewWrapping(), brokertest.NewReferences()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.Unwrap, cfg.References = wrapping.Unwrap, references
	})
	return f, wrapping, references
}

func wrapped(w *brokertest.Wrapping, text string) broker.SecretInput {
	return broker.SecretInput{Wrapping: w.Wrap(map[string]any{"value": text})}
}

func TestSecretsByWrappingToken(t *testing.T) {
	f, wrapping, _ := newSourced(t)
	n := newClient("acme")
	n.Secret, n.RequestID = wrapped(wrapping, "wrapped-secret"), "r"
	f.upstream.Register(n.Upstream.ClientID, "wrapped-secret")
	for range 2 { // the repetition finds what the first one did
		if _, err := f.CreateClient(t.Context(), n); err != nil {
			t.Fatalf("CreateClient: %v", err)
		}
	}
	f.wantTokenWith(t, "wrapped-secret")
	if keys := f.memory.Contains(n.Secret.Wrapping.RevealString()); len(keys) != 0 {
		t.Errorf("the wrapping token is at %q", keys)
	}
	update := broker.ClientUpdate{ID: "acme", Edit: func(*broker.Client) {}, Secret: wrapped(wrapping, "another-secret")}
	if _, err := f.UpdateClient(t.Context(), update); err != nil {
		t.Fatalf("UpdateClient: %v", err)
	}
	if n := wrapping.Calls(); n != 2 {
		t.Errorf("%d unwrappings, want one for each secret", n)
	}
	if c := f.get(t, "acme"); stages(c) != "1 previous, 2 current" {
		t.Errorf("stages = %q", stages(c))
	}
}

// TestRefusedBeforeUnwrapping: what is refused for any other reason than the secret
// leaves the token as it was.
func TestRefusedBeforeUnwrapping(t *testing.T) {
	creation := func(edit func(*broker.NewClient)) func(context.Context, *fixture, broker.SecretInput) error {
		return func(ctx context.Context, f *fixture, in broker.SecretInput) error {
			n := newClient("new")
			n.Secret = in
			edit(&n)
			_, err := f.CreateClient(ctx, n)
			return err
		}
	}
	update := func(edit func(*broker.ClientUpdate)) func(context.Context, *fixture, broker.SecretInput) error {
		return func(ctx context.Context, f *fixture, in broker.SecretInput) error {
			u := broker.ClientUpdate{ID: "acme", Edit: func(*broker.Client) {}, Secret: in}
			edit(&u)
			_, err := f.UpdateClient(ctx, u)
			return err
		}
	}
	tests := []struct {
		name string
		do   func(context.Context, *fixture, broker.SecretInput) error
		want broker.Reason
	}{
		{"name", creation(func(n *broker.NewClient) { n.ID = "A" }), broker.ReasonInvalidRequest},
		{"settings", creation(func(n *broker.NewClient) { n.Upstream.ClientID = "" }), broker.ReasonInvalidRequest},
		{"address", creation(func(n *broker.NewClient) { n.Upstream.TokenEndpoint = "http://as.example" }), broker.ReasonUpstreamAddressRefused},
		{"taken", creation(func(n *broker.NewClient) { n.ID = "acme" }), broker.ReasonClientAlreadyExists},
		{"two secrets", creation(func(n *broker.NewClient) { n.Secret.Value = secret.NewString("x") }), broker.ReasonInvalidRequest},
		{"nobody", update(func(u *broker.ClientUpdate) { u.ID = "nobody" }), broker.ReasonClientNotFound},
		{"etag", update(func(u *broker.ClientUpdate) { u.Etag = "old" }), broker.ReasonEtagMismatch},
		{"changed settings", update(func(u *broker.ClientUpdate) {
			u.Edit = func(c *broker.Client) { c.Upstream.ClientID = "" }
		}), broker.ReasonInvalidRequest},
		{"changed address", update(func(u *broker.ClientUpdate) {
			u.Edit = func(c *broker.Client) { c.Upstream.TokenEndpoint = "http://as.example" }
		}), broker.ReasonUpstreamAddressRefused},
		{"check", update(func(u *broker.ClientUpdate) {
			u.Check = func(*broker.Client, *broker.Client) error {
				return &broker.Error{Reason: broker.ReasonCallerNotAllowed}
			}
		}), broker.ReasonCallerNotAllowed},
		{"no room", update(func(u *broker.ClientUpdate) { u.ID = "full" }), broker.ReasonTooManySecretVersions},
		{"caller has left", creation(func(*broker.NewClient) {}), broker.ReasonDeadlineExceeded},
	}
	f, wrapping, _ := newSourced(t)
	f.create(t, "acme")
	f.create(t, "full")
	for range 6 {
		f.stage(t, "full", "s"+strings.Repeat("x", len(f.get(t, "full").Secrets)))
	}
	f.promote(t, "full")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			if test.want == broker.ReasonDeadlineExceeded {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				cancel()
			}
			wantReason(t, test.name, test.do(ctx, f, wrapped(wrapping, "wrapped-secret")), test.want)
			if n := wrapping.Calls(); n != 0 {
				t.Errorf("%d unwrappings, want none", n)
			}
		})
	}
}

// TestUnwrappedSecretsAreLookedAt: what a token wraps is what would be taken in the
// request. The same holds for what a reference leads to.
func TestUnwrappedSecretsAreLookedAt(t *testing.T) {
	tests := []struct {
		name, text string
		keep       bool
		want       bool
	}{
		{"sound", "a secret", false, true},
		{"blank", " \n", false, false},
		{"newline", "a secret\n", false, false},
		{"newline that is meant", "a secret\n", true, true},
		{"begins with a space", " a secret", true, false},
		{"control character", "a\x01secret", true, false},
		{"too large", strings.Repeat("x", broker.MaxSecretBytes+1), false, false},
		{"not UTF-8", "a\xffsecret", true, false},
	}
	f, wrapping, references := newSourced(t)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := "oauth/" + string(rune('a'+i))
			references.Put("team", path, map[string]any{"value": test.text})
			inputs := map[broker.Reason]broker.SecretInput{
				broker.ReasonInvalidRequest:         input(test.text),
				broker.ReasonWrappingContentInvalid: wrapped(wrapping, test.text),
				broker.ReasonReferenceUnreadable:    {Reference: broker.SecretReference{Mount: "team", Path: path, Field: "value"}},
			}
			for refusal, in := range inputs {
				n := newClient("client-" + string(rune('a'+i)) + strings.ToLower(string(refusal[:4])))
				in.KeepTrailingSpace = test.keep
				n.Secret = in
				_, err := f.CreateClient(t.Context(), n)
				want := refusal
				if test.want {
					want = ""
				}
				wantReason(t, "CreateClient", err, want)
				if err != nil && !slices.Equal(fieldsOf(err), []string{"secret"}) {
					t.Errorf("%s names the fields %q, want the secret", refusal, fieldsOf(err))
				}
				if err != nil && strings.Contains(err.Error(), "a secret") {
					t.Errorf("the error shows the secret: %v", err)
				}
				if hint := strings.Contains(broker.AsError(err).Error(), "keep_trailing_space"); err != nil && hint != (test.name == "newline") {
					t.Errorf("%v: hints at keep_trailing_space: %t", err, hint)
				}
			}
		})
	}
}

func TestSourcesThatAreNotConfigured(t *testing.T) {
	f := newFixture(t)
	for want, in := range map[broker.Reason]broker.SecretInput{
		broker.ReasonWrappingPathRefused: {Wrapping: secret.NewString("hvs.token")},
		broker.ReasonReferenceNotAllowed: {Reference: referred},
	} {
		n := newClient("acme")
		n.Secret = in
		_, err := f.CreateClient(t.Context(), n)
		wantReason(t, "CreateClient", err, want)
		if detail := broker.AsError(err).Detail; !strings.Contains(detail, "secrets.") {
			t.Errorf("the detail %q names no key of the configuration", detail)
		}
	}
	if keys := keysUnder(f.memory, "clients/"); len(keys) != 0 {
		t.Errorf("clients were made: %q", keys)
	}
}
