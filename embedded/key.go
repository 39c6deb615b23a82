package embedded

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// The rules of a key file: at most maxKeyFile bytes; lines that are empty or begin
// with '#' do not count; what is left is exactly the format, "id" and "key". The id
// is made from the key, so that a typing error is told apart from another key.
const (
	keyFormat  = "tokenbroker-store-key v1"
	keyComment = "# The key of a Tokenbroker store. Who has it and the store's file can read every secret."
	keySize    = 32
	maxKeyFile = 4096
)

// keyID names a key without telling it: the first bytes of its hash.
type keyID [8]byte

// String returns 16 hex digits.
func (id keyID) String() string { return hex.EncodeToString(id[:]) }

func keyIDOf(key []byte) keyID {
	sum := sha256.Sum256(append([]byte("tokenbroker store key id\x00"), key...))
	return keyID(sum[:])
}

// formatKey returns the text of a key file.
func formatKey(key []byte) []byte {
	return fmt.Appendf(nil, "%s\n%s\nid %s\nkey %s\n", keyComment, keyFormat, keyIDOf(key), base64.StdEncoding.EncodeToString(key))
}

// parseKey reads the text of a key file. Its errors never quote the text.
func parseKey(text []byte) (secret.Value, error) {
	if len(text) > maxKeyFile {
		return secret.Value{}, fmt.Errorf("has more than %d bytes", maxKeyFile)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 || lines[0] != keyFormat {
		return secret.Value{}, fmt.Errorf("is not a key file of this release: its first line is not %q", keyFormat)
	}
	if len(lines) != 3 {
		return secret.Value{}, fmt.Errorf("has %d lines; a key file has 3", len(lines))
	}
	id, okID := strings.CutPrefix(lines[1], "id ")
	encoded, okKey := strings.CutPrefix(lines[2], "key ")
	if !okID || !okKey {
		return secret.Value{}, errors.New(`lacks the lines "id" and "key"`)
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(key) != keySize {
		return secret.Value{}, fmt.Errorf("is damaged: its key is not %d bytes in base64", keySize)
	}
	defer clear(key)
	if subtle.ConstantTimeCompare([]byte(id), []byte(keyIDOf(key).String())) != 1 {
		return secret.Value{}, errors.New("is damaged: its id is not that of its key")
	}
	return secret.New(key), nil
}

// readKey reads the key file at path. A missing one unwraps to fs.ErrNotExist.
func readKey(path string) (secret.Value, error) {
	wrong := func(err error) error {
		return &broker.Error{Reason: broker.ReasonStoreKeyWrong, Op: "read key file", Detail: path, Err: err}
	}
	f, info, err := openRegular(path)
	if err != nil {
		return secret.Value{}, wrong(err)
	}
	defer func() { _ = f.Close() }()
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return secret.Value{}, wrong(fmt.Errorf("has mode %04o, so that others than its owner may use it; chmod it to 0600", mode))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return secret.Value{}, wrong(err)
	}
	defer clear(text)
	key, err := parseKey(text)
	if err != nil {
		return secret.Value{}, wrong(err)
	}
	return key, nil
}

// openRegular opens a file for reading. It asks before it opens, since opening a
// pipe would wait for a writer, and again afterwards, so that what it tells is of
// the file that is read.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, nil, errNotRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

const errNotRegular = damageError("is not a regular file")

// createKey makes a key file with a new key; if there is one by now, it stays.
func createKey(path string) error {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	defer clear(key)
	text := formatKey(key)
	defer clear(text)
	return place(path, func(f *os.File) error {
		_, err := io.Copy(f, bytes.NewReader(text))
		return err
	})
}

// place makes the file at path, of mode 0600, with what fill writes: whole or not
// at all, and never over a file that is there already.
func place(path string, fill func(*os.File) error) (err error) {
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, "."+filepath.Base(path)+".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(folder)
}

// syncFolder makes the names in a folder survive a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
