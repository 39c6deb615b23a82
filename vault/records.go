package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// immutable reports whether the value at key is written once and never again.
// Only its version 1 is ever read: a value that somebody puts over it by hand is
// not taken for it.
func immutable(key string) bool { return strings.HasPrefix(key, "secrets/") }

// Read implements [broker.Store]. Under "secrets/" it reads version 1, whatever
// was written after it; elsewhere the latest.
//
// The latest write is seen because the active node serves every read: community
// Vault's standbys forward to it. A performance standby (Enterprise) is sent
// X-Vault-Index for this process's own writes only.
func (s *Store) Read(ctx context.Context, key string) (broker.Record, error) {
	if !immutable(key) {
		return s.ReadLatest(ctx, key)
	}
	record, v, err := s.readVersion(ctx, key, url.Values{"version": {"1"}})
	if err == errAbsent {
		return broker.Record{}, s.absentImmutable(ctx, key, v)
	}
	return record, err
}

// ReadLatest implements [broker.Store].
func (s *Store) ReadLatest(ctx context.Context, key string) (broker.Record, error) {
	record, v, err := s.readVersion(ctx, key, nil)
	if err == errAbsent {
		how, at := v.absence()
		return broker.Record{}, broker.Absent(key, how, at, v.Metadata.Version)
	}
	return record, err
}

// errAbsent is readVersion's word for a version that holds nothing.
var errAbsent = errors.New("absent")

// readVersion reads the version of key that query names, the latest without one. With
// errAbsent it returns what KV says of the version instead of a record.
func (s *Store) readVersion(ctx context.Context, key string, query url.Values) (broker.Record, version, error) {
	const op = "read record"
	if err := checkKey(key); err != nil {
		return broker.Record{}, version{}, err
	}
	r := request{op: op, path: s.path("data", key), needs: "read", query: query}
	a, err := s.call(ctx, r)
	if err != nil {
		return broker.Record{}, version{}, err
	}
	defer a.body.Wipe()
	v, err := decodeVersion(a)
	switch {
	case err != nil:
		return broker.Record{}, version{}, s.notKV2(op, r.path)
	case a.absent():
		return broker.Record{}, v, errAbsent
	}
	record, err := v.record(op, r.path)
	return record, version{}, err
}

// Write implements [broker.Store]. It sends the write once; only one that was
// refused because the token was dead is sent again.
//
// STORE_STANDBY: the node that refused does not know yet of the version named,
// which exists; somebody else's write is not the cause.
func (s *Store) Write(ctx context.Context, key string, data secret.Value, version uint64) (uint64, error) {
	const op = "write record"
	if err := errors.Join(checkKey(key), checkData(data)); err != nil {
		return 0, broker.AsError(err)
	}
	body, err := writeBody(data, version)
	if err != nil {
		return 0, &broker.Error{Reason: broker.ReasonInternal, Op: op} // the error might quote the record
	}
	r := request{op: op, path: s.path("data", key), effect: true, needs: "update", body: body}
	if version == 0 {
		r.needs = "create"
	}
	a, err := s.call(ctx, r)
	if broker.ReasonOf(err) == broker.ReasonStoreConflict && s.lags(ctx, key, version) {
		e := broker.AsError(err)
		e.Reason, e.Detail = broker.ReasonStoreStandby, r.path+": the node that answered does not know of version "+strconv.FormatUint(version, 10)+" yet"
	}
	if err != nil {
		return 0, err
	}
	var answered struct{ Data metadata }
	if json.Unmarshal(a.body.Reveal(), &answered) != nil || answered.Data.Version <= version {
		return 0, s.notKV2(op, r.path)
	}
	if answered.Data.DeletionTime != "" {
		// The setting was made since the last preflight, or for this key alone. The
		// write stands; a new preflight finds out whether the mount is still fit.
		s.log.ErrorContext(ctx, "vault will delete this record, see delete_version_after", "path", r.path, "time", answered.Data.DeletionTime)
		s.recheck()
	}
	return answered.Data.Version, nil
}

// writeBody returns the body of a check-and-set write. It shares no memory with
// data, which the caller may wipe while a connection still holds the body.
func writeBody(data secret.Value, version uint64) ([]byte, error) {
	stored, err := toKV(data.Reveal())
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, len(stored)+64)
	body = append(body, `{"options":{"cas":`...)
	body = strconv.AppendUint(body, version, 10)
	body = append(body, `},"data":`...)
	body = append(body, stored...)
	return append(body, '}'), nil
}

// lags reports whether a mismatch contradicts what the store says now. It says
// no when it cannot find out.
func (s *Store) lags(ctx context.Context, key string, version uint64) bool {
	m, err := s.readMetadata(ctx, "read metadata", key)
	return err == nil && m.CurrentVersion == version
}

// Destroy implements [broker.Store]. It destroys every version that the
// metadata lists and keeps the metadata, which is the mark: a metadata delete
// would let versions begin at 1 again.
func (s *Store) Destroy(ctx context.Context, key string) error {
	const op = "destroy record"
	if err := checkKey(key); err != nil {
		return err
	}
	m, err := s.readMetadata(ctx, op, key)
	if err != nil {
		return err
	}
	versions := m.present()
	if len(versions) == 0 {
		return nil
	}
	body, err := json.Marshal(map[string][]uint64{"versions": versions})
	if err != nil {
		return &broker.Error{Reason: broker.ReasonInternal, Op: op, Err: err}
	}
	_, err = s.call(ctx, request{op: op, path: s.path("destroy", key), effect: true, needs: "update", body: body})
	return err
}

// List implements [broker.Store]. Vault has no paging: the whole folder is read.
func (s *Store) List(ctx context.Context, prefix string) ([]string, error) {
	const op = "list records"
	if prefix != "" {
		if err := checkKey(strings.TrimSuffix(prefix, "/")); err != nil || !strings.HasSuffix(prefix, "/") {
			return nil, broker.Invalid("prefix", "must be empty or end in a slash")
		}
	}
	path := s.path("metadata", strings.TrimSuffix(prefix, "/"))
	a, err := s.call(ctx, request{op: op, path: path, query: url.Values{"list": {"true"}}, needs: "list", aclPath: path + "/"})
	if err != nil {
		return nil, err
	}
	if a.absent() {
		return []string{}, nil
	}
	var answered struct {
		Data struct{ Keys []string }
	}
	if json.Unmarshal(a.body.Reveal(), &answered) != nil || answered.Data.Keys == nil {
		return nil, s.notKV2(op, path)
	}
	slices.Sort(answered.Data.Keys)
	return answered.Data.Keys, nil
}

// path returns the path below /v1/ of one of KV's trees; key may be empty.
func (s *Store) path(tree, key string) string {
	segments := []string{s.config.Mount, tree}
	for _, segment := range []string{s.config.Prefix, key} {
		if segment != "" {
			segments = append(segments, segment)
		}
	}
	return strings.Join(segments, "/")
}

// checkKey refuses what would reach another path. Package broker makes no such
// key; this is the last line before Vault, which resolves "..", and writes to
// another key for "..%2F".
func checkKey(key string) error {
	if !validPath(key) {
		return broker.Invalid("key", "must be segments of letters, digits, '.', '_' and '-'")
	}
	return nil
}

func checkData(data secret.Value) error {
	if data.Len() > broker.MaxRecordBytes {
		return broker.Invalid("data", "has %d bytes; at most %d", data.Len(), broker.MaxRecordBytes)
	}
	if !isObject(data.Reveal()) || !utf8.Valid(data.Reveal()) {
		return broker.Invalid("data", "must be one JSON object in UTF-8")
	}
	return nil
}

// notKV2 is the error for an answer that KV version 2 does not give. The mount
// was replaced since the preflight, so calls wait for the next one.
func (s *Store) notKV2(op, path string) error {
	s.recheck()
	return &broker.Error{Reason: broker.ReasonStoreNotKV2, Op: op, Detail: path + ": the answer is not one of KV version 2"}
}

// recheck makes Run look at the mount again.
func (s *Store) recheck() {
	if sess := s.gate.peek(); sess != nil {
		s.gate.renounce(sess, doubted)
	}
}
