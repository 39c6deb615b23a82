package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// mustGet gets a token for acme with these scopes.
func mustGet(t *testing.T, f *fixture, scopes ...string) *broker.Token {
	t.Helper()
	token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: scopes})
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	return token
}

// TestCallersWithOtherScopesGetTheirOwn: one token is at hand beside the record, and
// nobody gets it who asked for another one.
func TestCallersWithOtherScopesGetTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.DefaultScopes, n.Upstream.AllowedScopes = []string{"read"}, []string{"write"}
		})
		want := map[string]string{}
		for round := range 5 {
			for _, scopes := range [][]string{nil, {"write"}, {"read", "write"}, {"write", "read"}} {
				got, name := mustGet(t, f, scopes...), fmt.Sprint(scopes)
				if round == 0 {
					want[name] = got.ID
				}
				if got.ID != want[name] {
					t.Errorf("round %d: scopes %v got %s with %v, want %s", round, scopes, got.ID, got.Scopes, want[name])
				}
			}
			time.Sleep(25 * time.Second)
		}
		if len(want) != 4 || want["[]"] == want["[write]"] || want["[read write]"] != want["[write read]"] {
			t.Errorf("got the tokens %v", want)
		}
		if got := f.upstream.Count(); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
	})
}

// TestANewTokenIsServedAtOnce: one that somebody else had replaced is at hand no more.
func TestANewTokenIsServedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		for range 3 { // the second call finds the token, the third has it at hand
			mustGet(t, f)
		}
		time.Sleep(30 * time.Second)
		old := mustGet(t, f)
		next, _ := f.report(t, old.ID)
		if next.ID == old.ID {
			t.Fatal("the rejected token was not replaced")
		}
		if got := mustGet(t, f); got.ID != next.ID {
			t.Errorf("got %s, want the new token %s", got.ID, next.ID)
		}
	})
}

// TestATokenInUseStaysInMemory: what is served without a look-up is not forgotten for
// want of look-ups while others come and go.
func TestATokenInUseStaysInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memoryOf := newFixture(t)
		f := open(t, memoryOf.memory, memoryOf.store, memoryOf.upstream, func(cfg *broker.Config) {
			cfg.CachedClients, cfg.CachedTokens, cfg.Unshared = 16, 16, true
			cfg.Feed = true // else records are read again, and tokens looked up, every few seconds
		})
		f.run(t)
		synctest.Wait() // the feed was read
		f.create(t, "acme")
		const others, times = 100, 5 // each is asked for oftener in its time than ours is looked up
		for i := range others {
			f.create(t, fmt.Sprintf("other-%d", i))
		}
		used := mustGet(t, f)
		for i := range others {
			for range 20 {
				if got := mustGet(t, f); got.ID != used.ID {
					t.Fatalf("after %d other clients: another token", i)
				}
				time.Sleep(time.Second)
			}
			for range times {
				f.token(t, fmt.Sprintf("other-%d", i))
				f.token(t, fmt.Sprintf("other-%d", max(0, i-3)))
			}
		}
	})
}

// TestNamesAreNotMixedUp: ids of every length are found by all that they are, and by
// nothing that only looks like them where they are compared.
func TestNamesAreNotMixedUp(t *testing.T) {
	f := newFixture(t)
	tokens := map[string]string{}
	for length := 1; length <= 128; length++ {
		for _, end := range []string{"a", "b"} {
			id := strings.Repeat("n", length-1) + end
			f.create(t, id)
			tokens[id] = f.token(t, id).ID
		}
	}
	for id, want := range tokens {
		if got := f.token(t, id).ID; got != want {
			t.Errorf("%s: got token %s, want %s", id, got, want)
		}
		for _, other := range []string{id + "\x00", id + "c", id[:len(id)-1]} {
			if got, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: other}); err == nil {
				t.Errorf("%q got the token %s", other, got.ID)
			}
		}
	}
	if len(tokens) != 256 {
		t.Errorf("%d clients, want 256", len(tokens))
	}
}
