package brokertest

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Wrapper makes tokens for a [broker.Unwrap].
type Wrapper interface {
	// Wrap wraps fields by a request that the Unwrap accepts.
	Wrap(fields map[string]any) secret.Value
	// WrapElsewhere wraps them by one that it does not accept.
	WrapElsewhere(fields map[string]any) secret.Value
}

// Wrapping is a [Wrapper] in memory, whose Unwrap is a [broker.Unwrap]. It passes
// [TestUnwrap]. Safe for concurrent use; make one with [NewWrapping].
type Wrapping struct {
	mu sync.Mutex // guards what follows
	// wrapped :: token → what it wraps
	wrapped map[string]wrapped
	calls   int
	refusal error
}

type wrapped struct {
	fields    map[string]any
	elsewhere bool
}

var (
	_ Wrapper       = (*Wrapping)(nil)
	_ broker.Unwrap = (*Wrapping)(nil).Unwrap
)

// NewWrapping returns a Wrapping that has given out no token.
func NewWrapping() *Wrapping { return &Wrapping{wrapped: map[string]wrapped{}} }

// Wrap implements [Wrapper].
func (w *Wrapping) Wrap(fields map[string]any) secret.Value { return w.wrap(wrapped{fields: fields}) }

// WrapElsewhere implements [Wrapper].
func (w *Wrapping) WrapElsewhere(fields map[string]any) secret.Value {
	return w.wrap(wrapped{fields: fields, elsewhere: true})
}

func (w *Wrapping) wrap(content wrapped) secret.Value {
	token := "hvs." + rand.Text()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrapped[token] = content
	return secret.NewString(token)
}

// Refuse answers every call with err from now on, after the token was used up; nil
// ends that.
func (w *Wrapping) Refuse(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusal = err
}

// Calls returns how often Unwrap was called.
func (w *Wrapping) Calls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// Unwrap is a [broker.Unwrap].
func (w *Wrapping) Unwrap(ctx context.Context, token secret.Value) (secret.Value, error) {
	if err := alive(ctx, "unwrap"); err != nil {
		return secret.Value{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	fail := func(reason broker.Reason) (secret.Value, error) {
		return secret.Value{}, &broker.Error{Reason: reason, Op: "unwrap"}
	}
	content, ok := w.wrapped[token.RevealString()]
	if !ok {
		return fail(broker.ReasonWrappingTokenInvalid)
	}
	if content.elsewhere {
		return fail(broker.ReasonWrappingPathRefused)
	}
	delete(w.wrapped, token.RevealString())
	if w.refusal != nil {
		return secret.Value{}, w.refusal
	}
	var found []string
	for _, name := range []string{"value", "client_secret", "private_key"} {
		if value, ok := content.fields[name]; ok {
			text, _ := value.(string)
			found = append(found, text)
		}
	}
	if len(found) != 1 || found[0] == "" {
		return fail(broker.ReasonWrappingContentInvalid)
	}
	return secret.NewString(found[0]), nil
}

// TestUnwrap checks that a [broker.Unwrap] keeps the promises of that type for the
// tokens of wrapper.
func TestUnwrap(t *testing.T, unwrap broker.Unwrap, wrapper Wrapper) {
	refused := func(t *testing.T, token secret.Value, reason broker.Reason) {
		t.Helper()
		_, err := unwrap(t.Context(), token)
		wantReason(t, "Unwrap", err, reason)
		if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), token.RevealString())) {
			t.Errorf("Unwrap: the error shows what it must not: %v", err)
		}
	}
	for _, field := range []string{"value", "client_secret", "private_key"} {
		t.Run(field, func(t *testing.T) {
			token := wrapper.Wrap(map[string]any{field: canary, "note": "of the owner"})
			value, err := unwrap(t.Context(), token)
			if err != nil || value.RevealString() != canary {
				t.Fatalf("Unwrap: %v, or another value than was wrapped", err)
			}
			refused(t, token, broker.ReasonWrappingTokenInvalid) // used
		})
	}
	t.Run("invented", func(t *testing.T) {
		for _, token := range []string{"hvs." + rand.Text(), "s." + rand.Text(), "hvs.CAESIJ" + rand.Text() + rand.Text()} {
			refused(t, secret.NewString(token), broker.ReasonWrappingTokenInvalid)
		}
	})
	t.Run("made elsewhere", func(t *testing.T) {
		token := wrapper.WrapElsewhere(map[string]any{"value": canary})
		refused(t, token, broker.ReasonWrappingPathRefused)
		refused(t, token, broker.ReasonWrappingPathRefused) // it was not unwrapped
	})
	t.Run("wraps something else", func(t *testing.T) {
		for _, fields := range []map[string]any{
			{"password": canary},
			{"value": canary, "client_secret": canary},
			{"value": 7},
			{"value": nil},
			{"value": ""},
			{"client_secret": map[string]any{"value": canary}},
		} {
			token := wrapper.Wrap(fields)
			refused(t, token, broker.ReasonWrappingContentInvalid)
			refused(t, token, broker.ReasonWrappingTokenInvalid) // used up all the same
		}
	})
	t.Run("dead context", func(t *testing.T) {
		token := wrapper.Wrap(map[string]any{"value": canary})
		_, err := unwrap(cancelled(t), token)
		wantReason(t, "Unwrap", err, broker.ReasonDeadlineExceeded)
		if _, err := unwrap(t.Context(), token); err != nil {
			t.Errorf("Unwrap after one that was not sent: %v", err)
		}
	})
}
