package broker_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// TestDamagedTokenRecords: callers get tokens all the same, and what cannot be read
// is left alone.
func TestDamagedTokenRecords(t *testing.T) {
	damages := append(slices.Clone(headerDamages),
		damage{"of another client", replaced(`"uid":"`, `"uid":"x`), "", ""},
		damage{"token is a text", replaced(`"token":{`, `"token":"canary","x":{`), "", ""},
	)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.token(t, "acme")
				key := keyUnder(t, f.memory, "tokens/")
				f.memory.Put(key, d.change(recordOf(t, f.memory, key)))
				version := keyVersion(t, f, key)
				b := f.replica(t)
				b.token(t, "acme")
				if got, want := f.upstream.Count(), 2; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				if got := keyVersion(t, f, key); got != version {
					t.Errorf("the record was written over: version %d, was %d", got, version)
				}
				if want := "token not shared"; !strings.Contains(b.log.String(), want) || strings.Contains(b.log.String(), "canary") {
					t.Errorf("log %s, want %q in it and nothing of the record", b.log, want)
				}
			})
		})
	}
}

// keyVersion is what the store says of key: its version, or 0 if it cannot be read.
func keyVersion(t *testing.T, f *fixture, key string) uint64 {
	t.Helper()
	record, _ := f.memory.Read(t.Context(), key)
	return record.Version
}

// TestATokenOfAnotherRecord: what was copied to another key, or changed, is not served.
func TestATokenOfAnotherRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		wantReason(t, "admin", f.ask(t, "admin"), "")
		admins := keyUnder(t, f.memory, "tokens/")
		wantReason(t, "read", f.ask(t, "read"), "")
		keys := slices.DeleteFunc(keysUnder(f.memory, "tokens/"), func(key string) bool { return key == admins })
		f.memory.Put(keys[0], recordOf(t, f.memory, admins))
		b := f.replica(t)
		if got := b.token(t, "acme").Access.RevealString(); got != "token-3" {
			t.Errorf("served %s, want a new one", got)
		}
	})
}

// TestAStoreOfAnEarlierRelease has no sealing key yet; replicas that start at once
// agree on one.
func TestAStoreOfAnEarlierRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		meta := recordOf(t, f.memory, "meta")
		f.memory.Put("meta", meta[:strings.Index(meta, `,"sealing_keys"`)]+"}")
		var group sync.WaitGroup
		for range 3 {
			b := f.replica(t)
			group.Go(func() { b.token(t, "acme") })
		}
		group.Wait()
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}
