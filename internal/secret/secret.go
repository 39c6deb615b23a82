// Package secret holds bytes that must never be printed: client secrets,
// private keys, access and refresh tokens.
//
// It guards one invariant: the only way from a [Value] to its bytes is
// [Value.Reveal]. Formatting, logging and encoding a Value, or anything that
// contains one, yields a fixed placeholder. It does not encrypt, and it cannot
// stop somebody who prints what Reveal returned.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

// Placeholder is what a [Value] looks like wherever it is printed or encoded.
const Placeholder = "[secret]"

// Value is an immutable secret. The zero Value is empty and ready to use.
// A Value may be copied and is safe for concurrent use.
//
// The bytes sit behind a function because fmt does not call methods on values
// in unexported fields of other structs: it would print a struct's bytes, but
// of a function it can print only the address.
type Value struct {
	reveal func() []byte
}

// New returns a Value holding a copy of b; the caller keeps b and may wipe it.
func New(b []byte) Value {
	if len(b) == 0 {
		return Value{}
	}
	own := append([]byte(nil), b...)
	return Value{reveal: func() []byte { return own }}
}

// NewString returns a Value holding s.
func NewString(s string) Value { return New([]byte(s)) }

// Reveal returns the bytes themselves, which the caller must neither change
// nor keep longer than the one use it was revealed for.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// RevealString returns a copy of the bytes as a string.
func (v Value) RevealString() string { return string(v.Reveal()) }

// IsZero reports whether v is empty. It also lets encoders omit an empty Value.
func (v Value) IsZero() bool { return v.reveal == nil }

// Len returns the length in bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal reports whether v and w hold the same bytes, in time that depends on
// their lengths only.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare(v.Reveal(), w.Reveal()) == 1
}

// ID returns the first 16 hex digits of the SHA-256 of the bytes: enough to
// tell two tokens apart in a log, too little to find one. Only for values of
// high entropy such as access tokens: a short secret could be guessed from it.
func (v Value) ID() string {
	sum := sha256.Sum256(v.Reveal())
	return hex.EncodeToString(sum[:8])
}

// Wipe overwrites the bytes shared by all copies of v. Strings made from it
// and buffers of the network stack are out of its reach.
func (v Value) Wipe() { clear(v.Reveal()) }

// String returns [Placeholder].
func (v Value) String() string { return Placeholder }

// GoString returns [Placeholder], for %#v.
func (v Value) GoString() string { return Placeholder }

// Format writes [Placeholder] whatever the verb.
func (v Value) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, Placeholder) }

// LogValue returns [Placeholder], for log/slog.
func (v Value) LogValue() slog.Value { return slog.StringValue(Placeholder) }

// MarshalText returns [Placeholder], for every text encoder (JSON, YAML, XML).
func (v Value) MarshalText() ([]byte, error) { return []byte(Placeholder), nil }
