package broker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// schema is the version of all record formats. A record of a newer one is left alone.
const schema = 1

// writeTimeout bounds a write and the reads that find out what became of it. A
// write that has begun does not end with its caller: half a decision is worse.
const writeTimeout = 15 * time.Second

const metaKey = "meta"

// clientKey spreads clients over 256 shards, because a store may have no paging
// in its list.
func clientKey(id string) string { return "clients/" + shardOf(id) + "/" + id }

func shardOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:1])
}

// secretKey names one immutable value. The uid is part of it, so that a client
// made anew under an old id never meets its predecessor's secrets.
func secretKey(id, uid string, number int64) string {
	return "secrets/" + id + "/" + uid + "-" + strconv.FormatInt(number, 10)
}

// header is what each record begins with.
type header struct {
	Schema int `json:"schema"`
	// UID ties the record to one client (or to the store, for meta).
	UID string `json:"uid"`
	// WriteID is new with each write: it tells a writer whose answer was lost
	// whether the record that it finds is its own.
	WriteID string `json:"write_id"`
}

type clientRecord struct {
	header
	Client
}

type secretRecord struct {
	header
	Number int64  `json:"number"`
	Value  string `json:"value"`
	// Registration is the registration access token (RFC 7592) that belongs to it.
	Registration string `json:"registration_access_token,omitempty"`
	// CreateTime is when it was written; zero for values of earlier releases.
	CreateTime time.Time `json:"create_time,omitzero"`
}

// metaRecord is the store's own identity.
type metaRecord struct {
	header
	Product         string           `json:"product"`
	FingerprintKeys []fingerprintKey `json:"fingerprint_keys"`
	SealingKeys     []sealingKey     `json:"sealing_keys,omitempty"`

	version uint64
}

// fingerprintKey keys fingerprints. The last of the list makes new ones.
type fingerprintKey struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

// fingerprint covers all that must not change behind our back: a value copied to
// another client, version or destination has another fingerprint.
func (k fingerprintKey) fingerprint(uid string, number int64, destinations []string, value secret.Value) string {
	mac := hmac.New(sha256.New, k.Key)
	fmt.Fprintf(mac, "%s\x00%d\x00%s\x00", uid, number, strings.Join(destinations, " "))
	mac.Write(value.Reveal())
	return "hmac-sha256:" + k.ID + ":" + hex.EncodeToString(mac.Sum(nil)[:16])
}

// fingerprintKeyOf returns the key that a fingerprint was made with.
func (m *metaRecord) fingerprintKeyOf(fingerprint string) (fingerprintKey, bool) {
	for _, k := range m.FingerprintKeys {
		if strings.HasPrefix(fingerprint, "hmac-sha256:"+k.ID+":") {
			return k, true
		}
	}
	return fingerprintKey{}, false
}

func (m *metaRecord) activeKey() fingerprintKey { return m.FingerprintKeys[len(m.FingerprintKeys)-1] }

// newID returns 26 random characters of a-z and 2-7 (130 bits, of which 128 count).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// decode reads a record and refuses what is not ours to understand. into must
// embed header; required names its fields that must be there.
func decode(key string, record Record, into any, required ...string) error {
	corrupt := func(reason Reason, detail string) error {
		return &Error{Reason: reason, Op: "decode record", Detail: key + ": " + detail}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(record.Data.Reveal(), &fields); err != nil {
		return corrupt(ReasonRecordCorrupt, "is not a JSON object") // the error would quote the data
	}
	var found int
	if raw, ok := fields["schema"]; !ok {
		return corrupt(ReasonRecordFieldMissing, "has no field schema")
	} else if err := json.Unmarshal(raw, &found); err != nil || found < 1 {
		return corrupt(ReasonRecordCorrupt, "field schema is not a number")
	}
	if found > schema {
		return corrupt(ReasonRecordSchemaNewer, fmt.Sprintf("has schema %d, this release knows %d", found, schema))
	}
	for _, name := range append([]string{"uid", "write_id"}, required...) {
		if raw, ok := fields[name]; !ok || string(raw) == `""` || string(raw) == "null" {
			return corrupt(ReasonRecordFieldMissing, "has no field "+name)
		}
	}
	if err := json.Unmarshal(record.Data.Reveal(), into); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			return corrupt(ReasonRecordCorrupt, "field "+wrongType.Field+" is of the wrong type")
		}
		return corrupt(ReasonRecordCorrupt, "a field cannot be read")
	}
	return nil
}

// write stores a record by check-and-set and finds out what became of a write
// whose answer was lost: our write_id means committed, the version we started
// from means not yet, anything else means somebody else won.
func (b *Broker) write(ctx context.Context, key string, version uint64, h *header, record any) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	h.Schema, h.WriteID = schema, newID()
	encoded, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", key, err)
	}
	if len(encoded) > MaxRecordBytes {
		return 0, Invalid("client", "its record would have %d bytes; at most %d", len(encoded), MaxRecordBytes)
	}
	data := secret.New(encoded)
	clear(encoded)
	defer data.Wipe()
	const tries = 3
	for try := range tries {
		var written uint64
		written, err = b.store.Write(ctx, key, data, version)
		reason := ReasonOf(err)
		lost := reason == ReasonStoreAnswerLost
		// A conflict in a later try may be with our own first one, arrived late.
		if !lost && (try == 0 || reason != ReasonStoreConflict) {
			return written, err
		}
		found, outcome := b.outcome(ctx, key, h.WriteID, version)
		switch outcome {
		case writeCommitted:
			return found, nil
		case writeSuperseded:
			return 0, newError(ReasonStoreConflict, "", "%s was written by somebody else", key)
		case writeUnknown:
			return 0, &Error{Reason: ReasonStoreAnswerLost, Op: "write record", Detail: key, Err: err}
		}
	}
	return 0, &Error{Reason: ReasonStoreAnswerLost, Op: "write record", Detail: key, Err: err}
}

type writeOutcome int

const (
	writeUnknown writeOutcome = iota
	writeCommitted
	writeNotDone
	writeSuperseded
)

// read is a bounded read: a store that hangs must leave time to do without it.
func (b *Broker) read(ctx context.Context, key string) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return b.store.Read(ctx, key)
}

// absence returns the [AbsentError] within err, if there is one.
func absence(err error) (*AbsentError, bool) {
	var absent *AbsentError
	return absent, errors.As(err, &absent)
}

// outcome reads what became of the write of writeID over version.
func (b *Broker) outcome(ctx context.Context, key, writeID string, version uint64) (uint64, writeOutcome) {
	record, err := b.store.Read(ctx, key)
	var absent *AbsentError
	if errors.As(err, &absent) {
		if absent.Version == version && absent.How == AbsentNeverExisted {
			return 0, writeNotDone
		}
		return 0, writeSuperseded
	}
	if err != nil {
		return 0, writeUnknown
	}
	var found header
	if err := json.Unmarshal(record.Data.Reveal(), &found); err != nil {
		return 0, writeSuperseded
	}
	switch {
	case found.WriteID == writeID:
		return record.Version, writeCommitted
	case record.Version == version:
		return 0, writeNotDone
	default:
		return 0, writeSuperseded
	}
}

// meta returns the store's identity, making it in an empty store. A store that
// has data but no meta is somebody else's, or damaged: it is not touched.
func (b *Broker) meta(ctx context.Context) (*metaRecord, error) {
	if m := b.metaCache.Load(); m != nil {
		return m, nil
	}
	m, err := b.readMeta(ctx)
	var absent *AbsentError
	if errors.As(err, &absent) && absent.How == AbsentNeverExisted {
		m, err = b.createMeta(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read the store's meta record: %w", err)
	}
	b.metaCache.Store(m)
	return m, nil
}

func (b *Broker) readMeta(ctx context.Context) (*metaRecord, error) {
	record, err := b.read(ctx, metaKey)
	if err != nil {
		return nil, err
	}
	var m metaRecord
	if err := decode(metaKey, record, &m, "product", "fingerprint_keys"); err != nil {
		switch ReasonOf(err) {
		case ReasonRecordSchemaNewer, ReasonStoreForeignData:
			return nil, err
		}
		return nil, &Error{Reason: ReasonStoreForeignData, Detail: "the record meta is not the broker's", Err: err}
	}
	if m.Product != product || len(m.FingerprintKeys) == 0 || len(m.activeKey().Key) < 32 {
		return nil, newError(ReasonStoreForeignData, "", "the record meta is not the broker's")
	}
	m.version = record.Version
	return &m, nil
}

const product = "tokenbroker"

func (b *Broker) createMeta(ctx context.Context) (*metaRecord, error) {
	names, err := b.store.List(ctx, "")
	if err != nil {
		return nil, err
	}
	if slices.Contains(names, metaKey) {
		return b.readMeta(ctx) // another replica made it since it was looked for
	}
	if len(names) > 0 {
		return nil, newError(ReasonStoreForeignData, "", "the prefix holds %q but no meta record", names[:min(len(names), 5)])
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	m := &metaRecord{
		header: header{UID: newID()}, Product: product, FingerprintKeys: []fingerprintKey{{ID: newID()[:8], Key: key}},
		SealingKeys: []sealingKey{newSealingKey()},
	}
	m.version, err = b.write(ctx, metaKey, 0, &m.header, m)
	if ReasonOf(err) == ReasonStoreConflict {
		return b.readMeta(ctx) // another replica was faster; its key is the key
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}
