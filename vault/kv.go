package vault

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// version is one version of a key as KV version 2 returns it.
type version struct {
	Data     json.RawMessage
	Metadata metadata
}

// metadata is what KV says about one version.
type metadata struct {
	Version      uint64 `json:"version"`
	Destroyed    bool   `json:"destroyed"`
	DeletionTime string `json:"deletion_time"`
}

// keyMetadata is what KV says about a key.
type keyMetadata struct {
	CurrentVersion uint64 `json:"current_version"`
	// Versions is version number → what became of it.
	Versions map[string]metadata `json:"versions"`
}

var errNotKV2 = errors.New("not an answer of KV version 2")

// decodeVersion reads the answer to a read below data/. A 404 without metadata,
// for a key that never was, yields the zero version.
func decodeVersion(a answer) (version, error) {
	var body struct{ Data version }
	if err := json.Unmarshal(a.body.Reveal(), &body); err != nil {
		return version{}, errNotKV2 // the error would quote the record
	}
	if body.Data.Metadata.Version == 0 && !a.absent() {
		return version{}, errNotKV2
	}
	return body.Data, nil
}

// record returns what a version holds.
func (v version) record(op, path string) (broker.Record, error) {
	data := fromKV(v.Data)
	defer func() { clear(v.Data); clear(data) }()
	if data == nil {
		return broker.Record{}, &broker.Error{Reason: broker.ReasonRecordCorrupt, Op: op, Detail: path + ": is not a JSON object"}
	}
	return broker.Record{Data: secret.New(data), Version: v.Metadata.Version}, nil
}

// absence says why a version that was answered by a 404 holds nothing.
func (v version) absence() (how broker.Absence, at time.Time) {
	switch {
	case v.Metadata.Version == 0:
		return broker.AbsentNeverExisted, at
	case v.Metadata.Destroyed:
		return broker.AbsentDestroyed, at
	}
	at, _ = time.Parse(time.RFC3339Nano, v.Metadata.DeletionTime) // zero if Vault does not say
	return broker.AbsentDeleted, at
}

// absentImmutable says why version 1 of key is not there, given the 404 to its
// read. KV answers alike for a version that was pushed out and for a key that
// never was; the metadata tells them apart.
func (s *Store) absentImmutable(ctx context.Context, key string, v version) error {
	m, err := s.readMetadata(ctx, "read record", key)
	if err != nil {
		return err
	}
	how, at := v.absence()
	_, listed := m.Versions["1"]
	switch {
	case how != broker.AbsentNeverExisted:
		return broker.Absent(key, how, at, max(m.CurrentVersion, v.Metadata.Version))
	case m.CurrentVersion > 0 && !listed:
		return broker.Absent(key, broker.AbsentPruned, at, m.CurrentVersion)
	default: // listed only now: it was written between our two reads
		return broker.Absent(key, how, at, 0)
	}
}

// readMetadata returns what KV says about key; zero if it knows nothing of it.
func (s *Store) readMetadata(ctx context.Context, op, key string) (keyMetadata, error) {
	path := s.path("metadata", key)
	a, err := s.call(ctx, request{op: op, path: path, needs: "read"})
	if err != nil || a.absent() {
		return keyMetadata{}, err
	}
	var body struct{ Data keyMetadata }
	if json.Unmarshal(a.body.Reveal(), &body) != nil || body.Data.Versions == nil {
		return keyMetadata{}, s.notKV2(op, path)
	}
	return body.Data, nil
}

// present returns the versions that are not destroyed, in order.
func (m keyMetadata) present() []uint64 {
	var numbers []uint64
	for name, v := range m.Versions {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && !v.Destroyed {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}
