package vault_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// wantAll checks what all four calls say to the same trouble.
func wantAll(t *testing.T, store *vault.Store, want broker.Reason, parts ...string) {
	t.Helper()
	_, err := store.Read(t.Context(), "meta")
	wantReason(t, "Read", err, want, parts...)
	_, err = store.Read(t.Context(), "secrets/a/u-1")
	wantReason(t, "Read of a secret", err, want, parts...)
	_, err = store.Write(t.Context(), "clients/other", object(9), 0)
	wantReason(t, "Write", err, want, parts...)
	wantReason(t, "Destroy", store.Destroy(t.Context(), "meta"), want, parts...)
	_, err = store.List(t.Context(), "")
	wantReason(t, "List", err, want, parts...)
}

func TestSealed(t *testing.T) {
	c := ownCorner(t, realvault.InMemory())
	store := start(t, c.config)
	version := mustWrite(t, store, "meta", object(1), 0)
	c.Seal()
	wantAll(t, store, broker.ReasonStoreSealed, "sealed")
	late := start(t, c.config) // cannot even log in
	wantAll(t, late, broker.ReasonStoreSealed, "sealed")
	c.Unseal()
	wantRecord(t, store, "meta", object(1), version)
	mustWrite(t, store, "meta", object(2), version)
	within(t, 10*time.Second, "late store", func() error {
		_, err := late.Read(t.Context(), "meta")
		return err
	})
}

func TestKilled(t *testing.T) {
	c := ownCorner(t)
	store := start(t, c.config)
	version := mustWrite(t, store, "meta", object(1), 0)
	c.Stop()
	wantAll(t, store, broker.ReasonStoreUnreachable, c.Addr(), "no connection")
	late := start(t, c.config)
	wantAll(t, late, broker.ReasonStoreUnreachable, c.Addr(), "no connection")
	c.RestartSealed()
	wantAll(t, store, broker.ReasonStoreSealed, "sealed")
	c.Unseal()
	wantRecord(t, store, "meta", object(1), version) // the token outlives the process
	mustWrite(t, store, "meta", object(2), version)
	within(t, 10*time.Second, "late store", func() error {
		_, err := late.Read(t.Context(), "meta")
		return err
	})
}

// TestUnreachable has no server behind the address in several ways.
func TestUnreachable(t *testing.T) {
	tests := []struct{ name, address, want string }{
		{"nobody listens", "http://127.0.0.1:1", "no connection"},
		{"no such host", "https://vault.invalid:8200", "does not resolve"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := vault.Config{Address: test.address, TokenFile: file(t, "s.canary"), Timeout: time.Second}
			wantAll(t, start(t, config), broker.ReasonStoreUnreachable, test.want)
		})
	}
}
