package server_test

import (
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestUseIsNoted for each token that is handed out, be it asked for or pushed, and for
// no other call.
func TestUseIsNoted(t *testing.T) {
	tests := []struct {
		name string
		call func(t *testing.T, w *world)
		want int
	}{
		{"GetToken", func(t *testing.T, w *world) {
			for range 3 {
				_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
				must(t, err)
			}
		}, 1},
		{"WatchToken", func(t *testing.T, w *world) { watch(t, w.peer, "clients/acme") }, 1},
		{"a pushed token of another secret", func(t *testing.T, w *world) {
			stream, _ := watch(t, w.peer, "clients/acme")
			w.stage(t, w.peer, "acme", "secret-2 of acme")
			must(t, verify("acme", 2)(t, w))
			_, err := w.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: "clients/acme", SecretVersion: 2, DropTokens: true})
			must(t, err)
			_, err = stream.Recv()
			must(t, err)
		}, 2},
		{"a token that is refused", func(t *testing.T, w *world) {
			if _, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", Scopes: []string{"none"}}); err == nil {
				t.Error("got a token with a scope that is not allowed")
			}
		}, 0},
		{"a token that cannot be recorded", func(t *testing.T, w *world) {
			w.audit.failAfter(0)
			if _, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"}); err == nil {
				t.Error("got a token without an entry")
			}
		}, 0},
		{"another call", func(t *testing.T, w *world) { must(t, verify("acme", 0)(t, w)) }, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{})
				w.register(t, w.peer, "acme")
				if test.name == "another call" {
					w.stage(t, w.peer, "acme", "secret-2 of acme")
				}
				begun := time.Now()
				test.call(t, w)
				usage, err := w.broker.Usage(t.Context(), "acme")
				must(t, err)
				if got := len(usage.Callers); got != test.want {
					t.Fatalf("%d uses are known: %+v, want %d", got, usage, test.want)
				}
				for _, use := range usage.Callers {
					if use.Caller != "tester" || begun.Sub(use.LastUseTime) >= 15*time.Minute || use.LastUseTime.After(time.Now()) {
						t.Errorf("use %+v, want one by tester within the quarter of an hour", use)
					}
				}
			})
		})
	}
}
