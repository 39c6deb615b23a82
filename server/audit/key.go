package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// The rules of a key file: at most maxKeyFile bytes; lines that are empty or begin
// with '#' do not count; what is left is exactly the format, "id" and "key". The id
// is made from the public key, so that a private key, its public one and the chains
// written with it carry the same id, and a typing error is told from another key.
const (
	keyFormat     = "tokenbroker-audit-key v1"
	keyComment    = "# The key of a Tokenbroker audit log. Who has it can forge entries."
	publicFormat  = "tokenbroker-audit-public-key v1"
	publicComment = "# The public key of a Tokenbroker audit log. Who has it can check entries up to the last checkpoint."
	keySize       = 32
	maxKeyFile    = 4096
)

// Key keys the chain and signs checkpoints. All replicas may share one. The zero
// Key is of no use.
type Key struct {
	id     string
	chain  secret.Value
	sign   func() ed25519.PrivateKey // behind a function, as secret.Value is
	public PublicKey
}

// PublicKey checks checkpoints. The zero PublicKey is of no use.
type PublicKey struct {
	id  string
	key ed25519.PublicKey
}

// ID returns 16 hex digits that name the key in files and in the starts of chains.
func (k Key) ID() string { return k.id }

// Public returns what others need to check entries without being able to forge.
func (k Key) Public() PublicKey { return k.public }

// ID returns 16 hex digits, those of the key that it belongs to.
func (p PublicKey) ID() string { return p.id }

// String returns the text of a public key file.
func (p PublicKey) String() string {
	return string(formatKey(publicComment, publicFormat, p.id, p.key))
}

// LoadKey reads a key file, which only its owner may read or write.
func LoadKey(path string) (Key, error) {
	master, id, err := readKeyFile(path, keyFormat, 0o077)
	if err != nil {
		return Key{}, fmt.Errorf("audit key %s: %w", path, err)
	}
	defer clear(master)
	key, err := newKey(master)
	if err != nil {
		return Key{}, fmt.Errorf("audit key %s: %w", path, err)
	}
	if key.id != id {
		return Key{}, fmt.Errorf("audit key %s: %w", path, errKeyID)
	}
	return key, nil
}

// LoadPublicKey reads a file with what [PublicKey.String] returned, which only its
// owner may write.
func LoadPublicKey(path string) (PublicKey, error) {
	key, id, err := readKeyFile(path, publicFormat, 0o022)
	if err != nil {
		return PublicKey{}, fmt.Errorf("audit public key %s: %w", path, err)
	}
	public := newPublicKey(key)
	if public.id != id {
		return PublicKey{}, fmt.Errorf("audit public key %s: %w", path, errKeyID)
	}
	return public, nil
}

// CreateKey makes a key file of mode 0600 unless there is a file already. The file
// is there whole or not at all, whatever happens meanwhile; of several that create
// it at the same time, one wins.
func CreateKey(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	master := make([]byte, keySize)
	_, _ = rand.Read(master) // never fails (crypto/rand)
	defer clear(master)
	key, err := newKey(master)
	if err == nil {
		err = createWhole(path, formatKey(keyComment, keyFormat, key.id, master))
	}
	if err != nil {
		return fmt.Errorf("audit key %s: %w", path, err)
	}
	return nil
}

const errKeyID = keyError("is damaged: its id is not that of its key")

// keyError says what is wrong with a key file, without quoting it.
type keyError string

// Error implements error.
func (e keyError) Error() string { return string(e) }

func newKey(master []byte) (Key, error) {
	chain, err := hkdf.Key(sha256.New, master, nil, "tokenbroker audit chain", sha256.Size)
	if err != nil {
		return Key{}, err
	}
	defer clear(chain)
	seed, err := hkdf.Key(sha256.New, master, nil, "tokenbroker audit checkpoint", ed25519.SeedSize)
	if err != nil {
		return Key{}, err
	}
	defer clear(seed)
	private := ed25519.NewKeyFromSeed(seed)
	public := newPublicKey(private.Public().(ed25519.PublicKey))
	return Key{public.id, secret.New(chain), func() ed25519.PrivateKey { return private }, public}, nil
}

func newPublicKey(key []byte) PublicKey {
	sum := sha256.Sum256(append([]byte("tokenbroker audit key id\x00"), key...))
	return PublicKey{hex.EncodeToString(sum[:8]), key}
}

func formatKey(comment, format, id string, key []byte) []byte {
	return fmt.Appendf(nil, "%s\n%s\nid %s\nkey %s\n", comment, format, id, base64.StdEncoding.EncodeToString(key))
}

// readKeyFile returns the key and the id in a file of which no permission in
// forbidden may be given.
func readKeyFile(path, format string, forbidden fs.FileMode) (key []byte, id string, err error) {
	file, info, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = file.Close() }()
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, "", fmt.Errorf("has mode %04o, so that others than its owner may use it; chmod it to %04o", mode, mode&^forbidden)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, "", err
	}
	defer clear(text)
	return parseKey(text, format)
}

func parseKey(text []byte, format string) (key []byte, id string, err error) {
	if len(text) > maxKeyFile {
		return nil, "", fmt.Errorf("has more than %d bytes", maxKeyFile)
	}
	var lines []string
	for line := range bytes.Lines(text) {
		if line := string(bytes.TrimSpace(line)); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 || lines[0] != format {
		return nil, "", fmt.Errorf("is not such a file of this release: its first line is not %q", format)
	}
	if len(lines) != 3 {
		return nil, "", fmt.Errorf("has %d lines; a key file has 3", len(lines))
	}
	id, okID := strings.CutPrefix(lines[1], "id ")
	encoded, okKey := strings.CutPrefix(lines[2], "key ")
	if !okID || !okKey {
		return nil, "", keyError(`lacks the lines "id" and "key"`)
	}
	key, err = base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(key) != keySize {
		return nil, "", fmt.Errorf("is damaged: its key is not %d bytes in base64", keySize)
	}
	return key, id, nil
}

// createWhole makes the file at path, of mode 0600, whole or not at all, and never over a
// file that is there already.
func createWhole(path string, text []byte) (err error) {
	defer clear(text)
	folder := filepath.Dir(path)
	file, err := os.CreateTemp(folder, "."+filepath.Base(path)+".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(folder)
}
