package vault_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/vault"
)

func TestUnwrap(t *testing.T) {
	o, _ := newOwners(t)
	unwrap := start(t, o.config).Unwrapper(vault.Wrapping{CreationPaths: []string{o.theirs + "/data/oauth/*"}})
	brokertest.TestUnwrap(t, unwrap, o)
}

// TestUnwrapReal has what a real Vault alone can show.
func TestUnwrapReal(t *testing.T) {
	o, _ := newOwners(t)
	store := start(t, o.config)
	path := o.theirs + "/data/oauth/wrapped"
	secretID := "auth/approle/role/" + o.role + "/secret-id"
	unwrap := store.Unwrapper(vault.Wrapping{CreationPaths: []string{path, secretID, "auth/token/*", "sys/*"}})
	fields := map[string]any{"value": "canary"}

	t.Run("expired", func(t *testing.T) {
		token := o.wrapped(http.MethodPost, "sys/wrapping/wrap", fields, "1s")
		within(t, 10*time.Second, "the token to expire", func() error {
			if _, err := unwrap(t.Context(), token); broker.ReasonOf(err) != broker.ReasonWrappingTokenInvalid {
				return fmt.Errorf("Unwrap: %w", err)
			}
			return nil
		})
	})
	t.Run("intercepted and wrapped again", func(t *testing.T) {
		token := o.Wrap(fields)
		status, taken := o.DoAs(token.RevealString(), http.MethodPut, "sys/wrapping/unwrap", map[string]any{})
		if status != http.StatusOK {
			t.Fatalf("the interceptor got status %d", status)
		}
		again := o.WrapElsewhere(taken["data"].(map[string]any)["data"].(map[string]any))
		_, err := unwrap(t.Context(), again) // "sys/*" does not stand for this one
		wantReason(t, "Unwrap of what was wrapped again", err, broker.ReasonWrappingPathRefused, "sys/wrapping/wrap", "intercepts")
		_, err = unwrap(t.Context(), token)
		wantReason(t, "Unwrap of the first token", err, broker.ReasonWrappingTokenInvalid)
		_, err = store.Unwrapper(vault.Wrapping{CreationPaths: []string{vault.RewrapPath}})(t.Context(), again)
		if err != nil {
			t.Errorf("Unwrap where the configuration lists the path: %v", err)
		}
	})
	t.Run("a secret id", func(t *testing.T) {
		token := o.wrapped(http.MethodPost, secretID, map[string]any{}, "60s")
		_, err := unwrap(t.Context(), token)
		wantReason(t, "Unwrap", err, broker.ReasonWrappingContentInvalid, "none of the fields", "used up")
	})
	t.Run("a token", func(t *testing.T) {
		token := o.wrapped(http.MethodPost, "auth/token/create", map[string]any{}, "60s")
		_, err := unwrap(t.Context(), token)
		wantReason(t, "Unwrap", err, broker.ReasonWrappingContentInvalid, "no data")
	})
	t.Run("a token that wraps nothing", func(t *testing.T) {
		_, err := unwrap(t.Context(), secret.NewString(o.newToken(nil)))
		wantReason(t, "Unwrap", err, broker.ReasonWrappingTokenInvalid)
	})
	t.Run("nothing configured", func(t *testing.T) {
		_, err := store.Unwrapper(vault.Wrapping{})(t.Context(), o.Wrap(fields))
		wantReason(t, "Unwrap", err, broker.ReasonWrappingPathRefused, path)
	})
	t.Run("the printed policy without the lookup", func(t *testing.T) {
		o.PutPolicy(o.role, strings.Replace(vault.Policy(o.mount, o.prefix), "sys/wrapping/lookup", "nothing", 1))
		defer o.PutPolicy(o.role, vault.Policy(o.mount, o.prefix))
		if _, err := unwrap(t.Context(), o.Wrap(fields)); err != nil && broker.ReasonOf(err) != broker.ReasonStorePermissionDenied {
			t.Errorf("Unwrap: %v", err)
		}
	})
}

// TestUnwrapLostAnswer: what may have used the token up is sent once, and the error
// says so; what has not leaves it as it was.
func TestUnwrapLostAnswer(t *testing.T) {
	const lookup, unwrapping = "PUT /v1/sys/wrapping/lookup", "PUT /v1/sys/wrapping/unwrap"
	tests := []struct {
		name   string
		answer http.HandlerFunc // of sys/wrapping/unwrap
		want   broker.Reason
	}{
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, broker.ReasonWrappingAnswerLost},
		{"gateway", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>canary", http.StatusBadGateway) }, broker.ReasonWrappingAnswerLost},
		{"internal error", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["canary"]}`, http.StatusInternalServerError)
		}, broker.ReasonWrappingAnswerLost},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>canary") }, broker.ReasonWrappingAnswerLost},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"value":"canary"`) }, broker.ReasonWrappingContentInvalid},
		{"sealed", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
		}, broker.ReasonStoreSealed},
		{"quota", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["canary"]}`, http.StatusTooManyRequests)
		}, broker.ReasonStoreRateLimited},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		}, broker.ReasonWrappingTokenInvalid},
		{"used since it was looked up", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["wrapping token is not valid or does not exist"]}`, http.StatusBadRequest)
		}, broker.ReasonWrappingTokenInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tokens := make(chan string, 9)
			fake := newFakeVault(t, func(w http.ResponseWriter, r *http.Request) {
				tokens <- r.Header.Get("X-Vault-Token")
				if r.URL.Path == "/v1/sys/wrapping/lookup" {
					fmt.Fprint(w, `{"data":{"creation_path":"kv/data/a"}}`)
					return
				}
				test.answer(w, r)
			})
			unwrap := start(t, fake.config(t)).Unwrapper(vault.Wrapping{CreationPaths: []string{"kv/data/a"}})
			_, err := unwrap(t.Context(), secret.NewString("s.canary-wrapping"))
			wantReason(t, "Unwrap", err, test.want)
			if got := strings.Join(fake.requests(), ", "); got != lookup+", "+unwrapping {
				t.Errorf("it sent %s, want each once", got)
			}
			if <-tokens != "s.canary-token" || <-tokens != "s.canary-wrapping" {
				t.Error("the requests had other tokens than our own and then the wrapping one")
			}
		})
	}
}
