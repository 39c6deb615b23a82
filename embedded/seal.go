package embedded

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// A sealed value is: one byte sealFormat, the key's id, then nonce, ciphertext and
// tag as cipher.NewGCMWithRandomNonce lays them out.
const (
	sealFormat = 1
	sealHeader = 1 + len(keyID{})
)

// What sealed values are opened for, each with a key of its own.
const (
	purposeHead   = "tokenbroker store head"
	purposeTally  = "tokenbroker store tally"
	purposeRecord = "tokenbroker store record\x00" // and the record's name
)

var (
	// errOtherKey: sealed with a key of another id.
	errOtherKey = errors.New("is sealed with another key")
	// errSeal: changed, or meant for another place.
	errSeal = errors.New("the sealed value does not open: it is damaged or not the one that was put there")
)

// sealer seals and opens under the store's key. It is immutable.
type sealer struct {
	id  keyID
	key secret.Value
}

func newSealer(key secret.Value) *sealer { return &sealer{id: keyIDOf(key.Reveal()), key: key} }

// derive returns the key for one purpose.
func (s *sealer) derive(purpose string) []byte {
	key, err := hkdf.Expand(sha256.New, s.key.Reveal(), purpose, keySize)
	if err != nil {
		panic(fmt.Sprintf("embedded: derive key: %v", err)) // only if keySize were too large
	}
	return key
}

func (s *sealer) aead(purpose string) cipher.AEAD {
	key := s.derive(purpose)
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(fmt.Sprintf("embedded: make cipher: %v", err)) // only if keySize were no AES key size
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(fmt.Sprintf("embedded: make cipher: %v", err)) // never for AES
	}
	return aead
}

// additional ties a value to its header and to the number of its version.
func additional(header []byte, version uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), header...), version)
}

func (s *sealer) seal(purpose string, version uint64, plain []byte) []byte {
	aead := s.aead(purpose)
	sealed := make([]byte, sealHeader, sealHeader+aead.Overhead()+len(plain))
	sealed[0] = sealFormat
	copy(sealed[1:], s.id[:])
	return aead.Seal(sealed, nil, plain, additional(sealed, version))
}

// open returns the plain bytes, which are the caller's to clear.
func (s *sealer) open(purpose string, version uint64, sealed []byte) ([]byte, error) {
	if len(sealed) < sealHeader || sealed[0] != sealFormat {
		return nil, errSeal
	}
	if keyID(sealed[1:sealHeader]) != s.id {
		return nil, errOtherKey
	}
	plain, err := s.aead(purpose).Open(nil, nil, sealed[sealHeader:], additional(sealed[:sealHeader], version))
	if err != nil {
		return nil, errSeal // the cause says no more
	}
	return plain, nil
}
