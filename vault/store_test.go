package vault_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

func TestStore(t *testing.T) {
	realvault.Shared(t)
	brokertest.TestStore(t, func(t *testing.T) broker.Store { return start(t, newCorner(t).config) })
}

// TestStoreOverTLS also has no prefix.
func TestStoreOverTLS(t *testing.T) {
	c := ownCorner(t, realvault.WithTLS(), realvault.InMemory())
	store := start(t, c.config)
	version := mustWrite(t, store, "meta", object(1), 0)
	wantRecord(t, store, "meta", object(1), version)
	names, err := store.List(t.Context(), "")
	if err != nil || len(names) != 1 || names[0] != "meta" {
		t.Errorf("List = %q, %v; want meta", names, err)
	}

	c.config.CAFile = ""
	_, err = start(t, c.config).Read(t.Context(), "meta")
	wantReason(t, "Read without the CA", err, broker.ReasonStoreUnreachable, "certificate")
}

// TestRecordsAreReadable says what an operator sees with `vault kv get`.
func TestRecordsAreReadable(t *testing.T) {
	c := newCorner(t)
	store := start(t, c.config)
	const plain = `{"expires":1767225600,"nested":{"a":[1,true,null]},"schema":1,"uid":"u"}`
	mustWrite(t, store, "clients/a", secret.NewString(plain), 0)
	wantRecord(t, store, "clients/a", secret.NewString(plain), 1)
	seen := c.must("GET", c.path("data", "clients/a"), nil)["data"].(map[string]any)
	if seen["uid"] != "u" || seen["expires"] != 1767225600.0 {
		t.Errorf("Vault shows %v, want the record's own fields", seen)
	}

	// A number that KV would change is stored as text.
	const exact = `{"n":9007199254740993}`
	mustWrite(t, store, "clients/b", secret.NewString(exact), 0)
	wantRecord(t, store, "clients/b", secret.NewString(exact), 1)
	seen = c.must("GET", c.path("data", "clients/b"), nil)["data"].(map[string]any)
	if len(seen) != 1 || seen["tokenbroker_verbatim"] != exact {
		t.Errorf("Vault shows %v, want %s as text", seen, exact)
	}
	const ambiguous = `{"tokenbroker_verbatim":"{}"}`
	mustWrite(t, store, "clients/c", secret.NewString(ambiguous), 0)
	wantRecord(t, store, "clients/c", secret.NewString(ambiguous), 1)
}

func TestHarmfulKeys(t *testing.T) {
	store := start(t, newCorner(t).config)
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../b", "a/./b", "a b", "a%2Fb", "..%2Fb", "a?b", "a#b", "ä", "a\x00b"} {
		_, err := store.Read(t.Context(), key)
		wantReason(t, "Read of "+key, err, broker.ReasonInvalidRequest)
		_, err = store.Write(t.Context(), key, object(1), 0)
		wantReason(t, "Write of "+key, err, broker.ReasonInvalidRequest)
		wantReason(t, "Destroy of "+key, store.Destroy(t.Context(), key), broker.ReasonInvalidRequest)
		if key != "" && key != "a/" {
			_, err = store.List(t.Context(), key)
			wantReason(t, "List of "+key, err, broker.ReasonInvalidRequest)
		}
	}
}
