package embedded_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func sized(size int) secret.Value {
	return secret.NewString(`{"value":"` + strings.Repeat("x", size) + `"}`)
}

// TestNothingInClear looks for the value in the file, also after updates and
// destruction, when old pages hold it.
func TestNothingInClear(t *testing.T) {
	const canary = "canary-0123456789abcdef-canary"
	config := newConfig(t)
	s := open(t, config)
	for n := range 20 {
		key := fmt.Sprintf("secrets/a/u-%d", n)
		if _, err := s.Write(t.Context(), key, secret.NewString(`{"value":"`+canary+`"}`), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(t.Context(), key, secret.NewString(`{"next":"`+canary+`"}`), 1); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			if err := s.Destroy(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := readFile(t, config.File)
	if !bytes.Contains(file, []byte("secrets/a/u-1")) {
		t.Error("the names are not in the file: the test looks at the wrong one")
	}
	key, err := base64.StdEncoding.DecodeString(keyText(t, config))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the value": canary, "its middle": canary[10:20], "the key": string(key), "a JSON frame": `{"value"`} {
		spellings := map[string]string{
			"raw": text, "hex": hex.EncodeToString([]byte(text)), "upper-case hex": strings.ToUpper(hex.EncodeToString([]byte(text))),
		}
		for shift := range 3 { // base64 depends on where it begins
			encoded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), text...))
			// Only the characters that are made of the text alone.
			encoded = encoded[(shift*8+5)/6 : (shift+len(text))*8/6]
			if len(encoded) >= 10 { // less occurs by chance
				spellings[fmt.Sprint("base64 ", shift)] = encoded
			}
		}
		for spelling, wanted := range spellings {
			if bytes.Contains(file, []byte(wanted)) {
				t.Errorf("the file contains %s in %s", what, spelling)
			}
		}
	}
}

// TestEqualValuesLookDifferent: nonces are random and keys are each record's own.
func TestEqualValuesLookDifferent(t *testing.T) {
	s := open(t, newConfig(t))
	write(t, s, "a", 1, 0)
	write(t, s, "b", 1, 0)
	seen := map[string]bool{}
	look := func() {
		err := s.DB().View(func(tx *bbolt.Tx) error {
			return tx.Bucket(embedded.BucketValues).ForEach(func(_, v []byte) error {
				seen[string(v[9:])] = true
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	look()
	write(t, s, "a", 1, 1)
	look()
	if got, want := len(seen), 3; got != want {
		t.Errorf("%d different sealed values, want %d", got, want)
	}
}

// TestTampering has somebody who can write the file and lacks the key.
func TestTampering(t *testing.T) {
	names := func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket(embedded.BucketNames) }
	values := func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket(embedded.BucketValues) }
	valueKey := func(tx *bbolt.Tx, name string) []byte { return names(tx).Get([]byte(name))[1:9] }
	get := func(b *bbolt.Bucket, key []byte) []byte { return bytes.Clone(b.Get(key)) }
	// The state before the last write of "a", for those who put it back.
	var oldEntry, oldValue, oldHead []byte

	tests := []struct {
		name     string
		tamper   func(tx *bbolt.Tx) error
		wantOpen broker.Reason
		wantRead broker.Reason // of "a", if it opens
	}{
		{"nothing", func(tx *bbolt.Tx) error { return nil }, "", ""},
		{"two values swapped", func(tx *bbolt.Tx) error {
			a, b := valueKey(tx, "a"), valueKey(tx, "b")
			va, vb := get(values(tx), a), get(values(tx), b)
			if err := values(tx).Put(a, vb); err != nil {
				return err
			}
			return values(tx).Put(b, va)
		}, "", broker.ReasonRecordCorrupt},
		{"older value", func(tx *bbolt.Tx) error { return values(tx).Put(valueKey(tx, "a"), oldValue) }, "", broker.ReasonRecordCorrupt},
		{"older value and entry", func(tx *bbolt.Tx) error {
			if err := names(tx).Put([]byte("a"), oldEntry); err != nil {
				return err
			}
			return values(tx).Put(valueKey(tx, "a"), oldValue)
		}, broker.ReasonStoreDamaged, ""},
		{"older value, entry and head", func(tx *bbolt.Tx) error {
			// "b" was written after "a" was first: the old head does not know it.
			if err := names(tx).Put([]byte("a"), oldEntry); err != nil {
				return err
			}
			if err := tx.Bucket(embedded.BucketAbout).Put(embedded.AboutHead, oldHead); err != nil {
				return err
			}
			return values(tx).Put(valueKey(tx, "a"), oldValue)
		}, broker.ReasonStoreDamaged, ""},
		{"older head", func(tx *bbolt.Tx) error {
			return tx.Bucket(embedded.BucketAbout).Put(embedded.AboutHead, oldHead)
		}, broker.ReasonStoreDamaged, ""},
		{"entries swapped", func(tx *bbolt.Tx) error {
			ea, eb := get(names(tx), []byte("a")), get(names(tx), []byte("b"))
			if err := names(tx).Put([]byte("a"), eb); err != nil {
				return err
			}
			return names(tx).Put([]byte("b"), ea)
		}, broker.ReasonStoreDamaged, ""},
		{"entry removed", func(tx *bbolt.Tx) error { return names(tx).Delete([]byte("a")) }, broker.ReasonStoreDamaged, ""},
		{"entry copied", func(tx *bbolt.Tx) error {
			return names(tx).Put([]byte("c"), get(names(tx), []byte("a")))
		}, broker.ReasonStoreDamaged, ""},
		{"destroyed by hand", func(tx *bbolt.Tx) error {
			e := get(names(tx), []byte("a"))
			binary.BigEndian.PutUint64(e[17:], 1)
			return names(tx).Put([]byte("a"), e)
		}, broker.ReasonStoreDamaged, ""},
		{"undestroyed by hand", func(tx *bbolt.Tx) error {
			e := get(names(tx), []byte("gone"))
			clear(e[17:])
			return names(tx).Put([]byte("gone"), e)
		}, broker.ReasonStoreDamaged, ""},
		{"entry of no sense", func(tx *bbolt.Tx) error { return names(tx).Put([]byte("a"), []byte("x")) }, broker.ReasonStoreDamaged, ""},
		{"value removed", func(tx *bbolt.Tx) error { return values(tx).Delete(valueKey(tx, "a")) }, "", broker.ReasonRecordCorrupt},
		{"value emptied", func(tx *bbolt.Tx) error { return values(tx).Put(valueKey(tx, "a"), nil) }, "", broker.ReasonRecordCorrupt},
		{"value in clear", func(tx *bbolt.Tx) error { return values(tx).Put(valueKey(tx, "a"), []byte(`{"n":9}`)) }, "", broker.ReasonRecordCorrupt},
		{"value's last byte", func(tx *bbolt.Tx) error {
			v := get(values(tx), valueKey(tx, "a"))
			v[len(v)-1] ^= 1
			return values(tx).Put(valueKey(tx, "a"), v)
		}, "", broker.ReasonRecordCorrupt},
		{"head removed", func(tx *bbolt.Tx) error {
			return tx.Bucket(embedded.BucketAbout).Delete(embedded.AboutHead)
		}, broker.ReasonStoreDamaged, ""},
		{"head is a value", func(tx *bbolt.Tx) error {
			return tx.Bucket(embedded.BucketAbout).Put(embedded.AboutHead, get(values(tx), valueKey(tx, "a")))
		}, broker.ReasonStoreDamaged, ""},
		{"bucket removed", func(tx *bbolt.Tx) error { return tx.DeleteBucket(embedded.BucketValues) }, broker.ReasonStoreDamaged, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := newConfig(t)
			s := open(t, config)
			write(t, s, "a", 1, 0)
			if err := s.DB().View(func(tx *bbolt.Tx) error {
				oldEntry, oldValue = get(names(tx), []byte("a")), get(values(tx), valueKey(tx, "a"))
				oldHead = get(tx.Bucket(embedded.BucketAbout), embedded.AboutHead)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			write(t, s, "a", 2, 1)
			write(t, s, "b", 3, write(t, s, "b", 0, 0)) // of the same version as "a"
			write(t, s, "gone", 4, 0)
			if err := s.Destroy(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			editFile(t, config.File, test.tamper)
			s, err := embedded.Open(config)
			wantReason(t, "Open", err, test.wantOpen)
			if err != nil {
				return
			}
			defer func() { _ = s.Close() }()
			_, err = s.Read(t.Context(), "a")
			wantReason(t, "Read", err, test.wantRead)
		})
	}
}
