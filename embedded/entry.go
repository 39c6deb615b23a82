package embedded

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"time"
)

// entry is what the bucket of names has about one key. It stays when the record
// is destroyed, so that versions never start again.
type entry struct {
	// number is the record's key in the bucket of values.
	number uint64
	// version of the last write.
	version uint64
	// destroyed is when the value was destroyed; zero while it is there.
	destroyed time.Time
}

const (
	entryFormat = 1
	entrySize   = 1 + 8 + 8 + 8
)

var errEntry = errors.New("an entry in the bucket of names cannot be read")

func (e entry) encode() []byte {
	b := make([]byte, 0, entrySize)
	b = append(b, entryFormat)
	b = binary.BigEndian.AppendUint64(b, e.number)
	b = binary.BigEndian.AppendUint64(b, e.version)
	var nanos int64
	if !e.destroyed.IsZero() {
		nanos = e.destroyed.UnixNano()
	}
	return binary.BigEndian.AppendUint64(b, uint64(nanos))
}

func decodeEntry(b []byte) (entry, error) {
	if len(b) != entrySize || b[0] != entryFormat {
		return entry{}, errEntry
	}
	e := entry{number: binary.BigEndian.Uint64(b[1:]), version: binary.BigEndian.Uint64(b[9:])}
	if nanos := int64(binary.BigEndian.Uint64(b[17:])); nanos != 0 {
		e.destroyed = time.Unix(0, nanos).UTC()
	}
	return e, nil
}

// valueKey is the entry's key in the bucket of values.
func (e entry) valueKey() []byte { return binary.BigEndian.AppendUint64(nil, e.number) }

// tally is the sum (exclusive or) of the keyed hashes of a set of entries. One
// entry more or less is one hash more or less, so a commit need not look at the
// others; without the key nobody can make a set fit a tally.
type tally [sha256.Size]byte

// tallier adds to tallies. It is not safe for concurrent use.
type tallier struct{ mac hash.Hash }

func newTallier(s *sealer) *tallier {
	key := s.derive(purposeTally)
	defer clear(key)
	return &tallier{mac: hmac.New(sha256.New, key)}
}

// toggle adds the entry to sum, or takes it away if it is in it.
func (t *tallier) toggle(sum *tally, name, encoded []byte) {
	t.mac.Reset()
	_, _ = t.mac.Write(encoded) // of fixed size, so that the name needs no mark
	_, _ = t.mac.Write(name)
	var one tally
	t.mac.Sum(one[:0])
	for i := range sum {
		sum[i] ^= one[i]
	}
}
