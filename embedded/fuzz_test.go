package embedded_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/tokenbroker/tokenbroker/embedded"
)

// FuzzKeyFile: what is accepted is a whole key, and its file can be written again.
func FuzzKeyFile(f *testing.F) {
	good := embedded.FormatKey(bytes.Repeat([]byte{7}, embedded.KeySize))
	f.Add(good)
	f.Add([]byte("tokenbroker-store-key v1\nid 0\nkey AAAA\n"))
	f.Add(bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := embedded.ParseKey(text)
		if err != nil {
			return
		}
		if key.Len() != embedded.KeySize {
			t.Fatalf("accepted a key of %d bytes", key.Len())
		}
		again, err := embedded.ParseKey(embedded.FormatKey(key.Reveal()))
		if err != nil || !again.Equal(key) {
			t.Fatalf("the key does not come back: %v", err)
		}
	})
}

// FuzzOpen overwrites bytes of a store's file; see probe for what must hold. Each
// edit is three bytes of position and one to add.
func FuzzOpen(f *testing.F) {
	config := settled(f)
	whole := readFile(f, config.File)
	f.Add([]byte{0, 0, 16, 1}, uint16(0))
	f.Add([]byte{0, 32, 8, 1, 0, 32, 10, 3}, uint16(0))
	f.Add([]byte{}, uint16(9000))
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16) {
		writeFile(t, config.File, edited(whole, edits, cut))
		probe(t, config, "fuzzed")
	})
}

// edited returns a copy of whole with bytes changed and the end cut off. The
// input is not the file itself, which is too long for the fuzzer to make sense of.
func edited(whole, edits []byte, cut uint16) []byte {
	spoiled := bytes.Clone(whole)
	for ; len(edits) >= 4; edits = edits[4:] {
		at := int(binary.BigEndian.Uint32(edits)>>8) % len(spoiled)
		spoiled[at] += edits[3]
	}
	return spoiled[:len(spoiled)-int(cut)%len(spoiled)]
}

// FuzzInspect has no file and so is quicker: nothing may panic or take long,
// whatever it is.
func FuzzInspect(f *testing.F) {
	whole := readFile(f, settled(f).File)
	f.Add([]byte{0, 32, 8, 1, 0, 32, 10, 3}, uint16(0))
	f.Add([]byte{}, uint16(9000))
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16) {
		file := edited(whole, edits, cut)
		_ = embedded.Inspect(bytes.NewReader(file), int64(len(file)))
	})
}
