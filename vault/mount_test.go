package vault_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// recovers waits until the store has found out that the mount was mended.
func recovers(t *testing.T, store *vault.Store) {
	t.Helper()
	within(t, 15*time.Second, "after it was mended", func() error {
		_, err := store.List(t.Context(), "")
		return err
	})
}

func TestMountMissing(t *testing.T) {
	c := cornerOf(t, realvault.Shared(t), "missing-kv", "")
	store := start(t, c.config)
	wantAll(t, store, broker.ReasonStoreMountMissing, "nothing is mounted at missing-kv")
	c.MountKV("missing-kv", 2)
	recovers(t, store)
	mustWrite(t, store, "meta", object(1), 0)

	// Unmounted while the store runs: records must not look as if they never were.
	c.must("DELETE", "sys/mounts/missing-kv", nil)
	wantAll(t, store, broker.ReasonStoreMountMissing, "nothing is mounted there")
}

func TestMountNotPermitted(t *testing.T) {
	c := newCorner(t)
	c.PutPolicy(c.role, vault.Policy("another", ""))
	wantAll(t, start(t, c.config), broker.ReasonStoreMountMissing, "missing, or the policy does not grant "+c.mount+"/config")
}

func TestMountWithinAnother(t *testing.T) {
	c := newCorner(t)
	c.config.Mount = c.mount + "/data"
	wantAll(t, start(t, c.config), broker.ReasonStoreMountMissing, "lies within the mount "+c.mount)
}

// TestMountOfVersion1 makes sure that nothing is ever sent to one: it would take
// a check-and-set write and ignore the condition.
func TestMountOfVersion1(t *testing.T) {
	c := cornerOf(t, realvault.Shared(t), "kv-one", "")
	c.MountKV("kv-one", 1)
	wantAll(t, start(t, c.config), broker.ReasonStoreNotKV2, "kv-one is KV version 1")
	if status, answer := c.Do("LIST", "kv-one", nil); status != 404 {
		t.Errorf("the mount holds something: status %d, %v", status, answer)
	}
}

func TestMountOfAnotherEngine(t *testing.T) {
	c := cornerOf(t, realvault.Shared(t), "transit", "")
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	t.Cleanup(func() { c.must("DELETE", "sys/mounts/transit", nil) })
	wantAll(t, start(t, c.config), broker.ReasonStoreNotKV2, "of type transit")
}

// TestMountReplaced swaps the engine under a running store.
func TestMountReplaced(t *testing.T) {
	c := cornerOf(t, realvault.Shared(t), "kv-swapped", "")
	c.MountKV("kv-swapped", 2)
	store := start(t, c.config)
	mustWrite(t, store, "meta", object(1), 0)
	c.must("DELETE", "sys/mounts/kv-swapped", nil)
	c.must("POST", "sys/mounts/kv-swapped", map[string]any{"type": "kv", "options": map[string]string{"version": "1"}})
	_, err := store.Write(t.Context(), "meta", object(2), 1)
	wantReason(t, "Write that version 1 takes", err, broker.ReasonStoreNotKV2)
	wantAll(t, store, broker.ReasonStoreNotKV2, "KV version 1")
}

func TestMountExpiresRecords(t *testing.T) {
	c := newCorner(t)
	running := start(t, c.config)
	mustWrite(t, running, "meta", object(1), 0)
	c.must("POST", c.mount+"/config", map[string]any{"delete_version_after": "1h"})

	wantAll(t, start(t, c.config), broker.ReasonStoreExpiresRecords, "delete_version_after of mount "+c.mount+" is 1h")
	// The running store learns it from the answer to its next write, which stands.
	mustWrite(t, running, "meta", object(2), 1)
	wantAll(t, running, broker.ReasonStoreExpiresRecords)

	c.must("POST", c.mount+"/config", map[string]any{"delete_version_after": "0s"})
	recovers(t, running)
	mustWrite(t, running, "meta", object(3), 2)
}

// TestNamespaceOnCommunity: the server would ignore it and use the root.
func TestNamespaceOnCommunity(t *testing.T) {
	c := newCorner(t)
	c.config.Namespace = "team-a"
	wantAll(t, start(t, c.config), broker.ReasonStoreFailed, `namespace "team-a"`, "ignores namespaces")
	names, _ := c.Do("LIST", c.path("metadata", ""), nil)
	if names != 404 {
		t.Errorf("the root namespace was written to: status %d", names)
	}
}
