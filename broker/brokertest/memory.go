package brokertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// Memory is a [broker.Store] in memory. It passes [TestStore], lists the marks
// that Destroy leaves (as Vault does), and lets a test reach behind the broker's
// back. Safe for concurrent use; make one with [NewMemory].
type Memory struct {
	mu sync.Mutex
	// guards entries :: key → what is there
	entries map[string]entry
}

// entry is what one key holds. Its data is never changed, so entries may be copied.
type entry struct {
	data    []byte
	version uint64
	// how says why data is gone, and is only meaningful when absent is true.
	absent bool
	how    broker.Absence
	at     time.Time
}

var _ broker.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{entries: map[string]entry{}} }

// Read implements [broker.Store].
func (m *Memory) Read(ctx context.Context, key string) (broker.Record, error) {
	if err := alive(ctx, "read record"); err != nil {
		return broker.Record{}, err
	}
	m.mu.Lock()
	e, ok := m.entries[key]
	m.mu.Unlock()
	switch {
	case !ok:
		return broker.Record{}, broker.Absent(key, broker.AbsentNeverExisted, time.Time{}, 0)
	case e.absent:
		return broker.Record{}, broker.Absent(key, e.how, e.at, e.version)
	case checkRecord(e.data) != nil:
		return broker.Record{}, &broker.Error{Reason: broker.ReasonRecordCorrupt, Op: "read record", Detail: key + ": not a JSON object"}
	}
	return broker.Record{Data: secret.New(e.data), Version: e.version}, nil
}

// ReadLatest implements [broker.Store]. There is only one value at a key.
func (m *Memory) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	return m.Read(ctx, key)
}

// Write implements [broker.Store].
func (m *Memory) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	if err := alive(ctx, "write record"); err != nil {
		return 0, err
	}
	if err := checkRecord(data.Reveal()); err != nil {
		return 0, err
	}
	own := bytes.Clone(data.Reveal()) // the caller may wipe its own
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.entries[key].version; found != version {
		return 0, &broker.Error{
			Reason: broker.ReasonStoreConflict, Op: "write record",
			Detail: fmt.Sprintf("%s: has version %d, not %d", key, found, version),
		}
	}
	m.entries[key] = entry{data: own, version: version + 1}
	return version + 1, nil
}

// Destroy implements [broker.Store].
func (m *Memory) Destroy(ctx context.Context, key string) error {
	if err := alive(ctx, "destroy record"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[key]; ok && !(e.absent && e.how == broker.AbsentDestroyed) {
		m.entries[key] = entry{version: e.version, absent: true, how: broker.AbsentDestroyed, at: time.Now()}
	}
	return nil
}

// List implements [broker.Store].
func (m *Memory) List(ctx context.Context, prefix string) ([]string, error) {
	if err := alive(ctx, "list records"); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.entries {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok || rest == "" {
			continue
		}
		if folder, _, below := strings.Cut(rest, "/"); below {
			rest = folder + "/"
		}
		names[rest] = true
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Keys returns all keys that ever held something, sorted.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.entries))
}

// Put writes data at key as if somebody else had: without check-and-set, as a
// new version, and whatever it is, so that a test can damage a record.
func (m *Memory) Put(key, data string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries[key] = entry{data: []byte(data), version: m.entries[key].version + 1}
}

// Remove takes the value at key away as if somebody else had. With
// [broker.AbsentNeverExisted] all trace of the key is gone, and its versions
// start again at 1, as after deleting a secret's metadata in Vault.
func (m *Memory) Remove(key string, how broker.Absence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if how == broker.AbsentNeverExisted {
		delete(m.entries, key)
		return
	}
	m.entries[key] = entry{version: m.entries[key].version, absent: true, how: how, at: time.Now()}
}

// Clone returns a copy of the store as it is now: a backup, or what a process
// that was killed now leaves to the next one.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{entries: maps.Clone(m.entries)}
}

// Contains returns the keys whose present value contains text, sorted.
func (m *Memory) Contains(text string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key, e := range m.entries {
		if bytes.Contains(e.data, []byte(text)) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// alive returns the error of a call whose context has ended before it began.
func alive(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return &broker.Error{Reason: broker.ReasonDeadlineExceeded, Op: op, Err: err}
	}
	return nil
}

// checkRecord refuses what no store may take. Its errors never quote data.
func checkRecord(data []byte) error {
	switch trimmed := bytes.TrimLeft(data, " \t\r\n"); {
	case len(data) > broker.MaxRecordBytes:
		return broker.Invalid("record", "has %d bytes; at most %d are stored", len(data), broker.MaxRecordBytes)
	case len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(data):
		return broker.Invalid("record", "is not one JSON object")
	case !utf8.Valid(data):
		return broker.Invalid("record", "is not UTF-8")
	default:
		return nil
	}
}
