package embedded_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/embedded"
)

func fileHash(t testing.TB, path string) [sha256.Size]byte {
	t.Helper()
	return sha256.Sum256(readFile(t, path))
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// filled makes a store with a few records, closes it, and returns where it is.
func filled(t testing.TB) embedded.Config {
	t.Helper()
	config := newConfig(t)
	s, err := embedded.Open(config)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	write(t, s, "meta", 0, 0)
	write(t, s, "clients/00/a", 2, write(t, s, "clients/00/a", 1, 0))
	write(t, s, "secrets/a/u-1", 3, 0)
	write(t, s, "secrets/a/u-2", 4, 0)
	if err := errors.Join(s.Destroy(t.Context(), "secrets/a/u-1"), s.Close()); err != nil {
		t.Fatalf("fill the store: %v", err)
	}
	config.Create = false
	return config
}

func TestCreate(t *testing.T) {
	folder := t.TempDir()
	config := embedded.Config{File: filepath.Join(folder, "data", "deep", "store"), KeyFile: filepath.Join(folder, "keys", "key"), Create: true}
	s := open(t, config)
	write(t, s, "k", 1, 0)
	for path, want := range map[string]fs.FileMode{
		config.File: 0o600, config.KeyFile: 0o600, filepath.Dir(config.File): 0o700,
		filepath.Dir(config.KeyFile): 0o700, filepath.Join(folder, "data"): 0o700,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %04o, want %04o", path, got, want)
		}
	}
	for _, path := range []string{config.File, config.KeyFile} {
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) != 1 {
			t.Errorf("files beside %s: %v, %v; want none", path, left, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, config) // Create opens what is there
	wantRecord(t, s, "k", 1, 1)
}

// TestCreateAfterHalf has what a crash between the key and the store leaves.
func TestCreateAfterHalf(t *testing.T) {
	config := newConfig(t)
	s := open(t, config)
	if err := errors.Join(s.Close(), os.Remove(config.File)); err != nil {
		t.Fatal(err)
	}
	key := readFile(t, config.File+".key")
	write(t, open(t, config), "k", 1, 0)
	if !bytes.Equal(readFile(t, config.File+".key"), key) {
		t.Error("the key was replaced")
	}
}

func TestOpenRefuses(t *testing.T) {
	other := filled(t)
	tests := []struct {
		name    string
		spoil   func(t *testing.T, config *embedded.Config)
		want    broker.Reason
		mention string // what the error must say
	}{
		{"no file configured", func(t *testing.T, c *embedded.Config) { c.File = "" }, broker.ReasonStoreFailed, "no file"},
		{"no store", func(t *testing.T, c *embedded.Config) { remove(t, c.File) }, broker.ReasonStoreFailed, "no such file"},
		{"no key", func(t *testing.T, c *embedded.Config) { remove(t, c.File+".key") }, broker.ReasonStoreKeyWrong, "no such file"},
		{"no key, create", func(t *testing.T, c *embedded.Config) {
			remove(t, c.File+".key")
			c.Create = true
		}, broker.ReasonStoreKeyWrong, "no such file"},
		{"another store's key", func(t *testing.T, c *embedded.Config) { c.KeyFile = other.File + ".key" }, broker.ReasonStoreKeyWrong, "another key"},
		{"key for the group", func(t *testing.T, c *embedded.Config) { chmod(t, c.File+".key", 0o640) }, broker.ReasonStoreKeyWrong, "mode 0640"},
		{"key for all", func(t *testing.T, c *embedded.Config) { chmod(t, c.File+".key", 0o604) }, broker.ReasonStoreKeyWrong, "mode 0604"},
		{"key is a folder", func(t *testing.T, c *embedded.Config) { c.KeyFile = t.TempDir() }, broker.ReasonStoreKeyWrong, "not a regular file"},
		{"key is empty", func(t *testing.T, c *embedded.Config) { writeFile(t, c.File+".key", nil) }, broker.ReasonStoreKeyWrong, "not a key file"},
		{"key is the store", func(t *testing.T, c *embedded.Config) { c.KeyFile = c.File }, broker.ReasonStoreKeyWrong, "more than"},
		{"empty", func(t *testing.T, c *embedded.Config) { writeFile(t, c.File, nil) }, broker.ReasonStoreDamaged, "0 bytes"},
		{"empty, create", func(t *testing.T, c *embedded.Config) {
			writeFile(t, c.File, nil)
			c.Create = true
		}, broker.ReasonStoreDamaged, "0 bytes"},
		{"text", func(t *testing.T, c *embedded.Config) {
			writeFile(t, c.File, bytes.Repeat([]byte("not a store\n"), 5000))
		}, broker.ReasonStoreDamaged, ""},
		{"zeros", func(t *testing.T, c *embedded.Config) { writeFile(t, c.File, make([]byte, 1<<16)) }, broker.ReasonStoreDamaged, ""},
		{"folder", func(t *testing.T, c *embedded.Config) {
			remove(t, c.File)
			if err := os.Mkdir(c.File, 0o700); err != nil {
				t.Fatal(err)
			}
		}, broker.ReasonStoreDamaged, "regular file"},
		{"the key as store", func(t *testing.T, c *embedded.Config) { writeFile(t, c.File, readFile(t, c.File+".key")) }, broker.ReasonStoreDamaged, ""},
		{"somebody else's database", func(t *testing.T, c *embedded.Config) {
			remove(t, c.File)
			editFile(t, c.File, func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket([]byte("raft"))
				if err == nil {
					_, err = b.CreateBucket([]byte("logs"))
				}
				return err
			})
		}, broker.ReasonStoreDamaged, "not a store"},
		{"newer format", func(t *testing.T, c *embedded.Config) {
			editFile(t, c.File, func(tx *bbolt.Tx) error {
				return tx.Bucket(embedded.BucketAbout).Put(embedded.AboutFormat, []byte("tokenbroker store v2"))
			})
		}, broker.ReasonRecordSchemaNewer, "store v2"},
		{"no format", func(t *testing.T, c *embedded.Config) {
			editFile(t, c.File, func(tx *bbolt.Tx) error {
				return tx.Bucket(embedded.BucketAbout).Put(embedded.AboutFormat, []byte("x"))
			})
		}, broker.ReasonStoreDamaged, "format"},
		{"open elsewhere", func(t *testing.T, c *embedded.Config) { open(t, *c) }, broker.ReasonStoreLocked, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := filled(t)
			file, ownKey := config.File, keyText(t, config)
			test.spoil(t, &config)
			before, _ := os.ReadFile(file)
			s, err := embedded.Open(config)
			if err == nil {
				_ = s.Close()
				t.Fatal("Open succeeded")
			}
			wantReason(t, "Open", err, test.want)
			if !strings.Contains(err.Error(), test.mention) {
				t.Errorf("Open: %v, which does not mention %q", err, test.mention)
			}
			if strings.Contains(err.Error(), ownKey) || strings.Contains(err.Error(), keyText(t, other)) {
				t.Errorf("Open: %v shows a key", err)
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(after, before) {
				t.Error("Open has changed the file")
			}
		})
	}
}

// keyText returns the key of a key file as it stands there.
func keyText(t *testing.T, config embedded.Config) string {
	t.Helper()
	_, key, ok := strings.Cut(string(readFile(t, config.File+".key")), "\nkey ")
	if !ok {
		t.Fatal("the key file has no key")
	}
	return strings.TrimSpace(key)
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// editFile changes the database behind the store's back.
func editFile(t testing.TB, path string, edit func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(edit), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpeningChangesNothing(t *testing.T) {
	config := filled(t)
	before := fileHash(t, config.File)
	s := open(t, config)
	wantRecord(t, s, "clients/00/a", 2, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if fileHash(t, config.File) != before {
		t.Error("opening, reading and closing changed the file")
	}
}

func TestKeyFile(t *testing.T) {
	key := bytes.Repeat([]byte{7}, embedded.KeySize)
	good := string(embedded.FormatKey(key))
	lines := strings.SplitAfter(good, "\n") // comment, format, id, key
	tests := []struct {
		name, text string
		wantErr    string // "" accepts
	}{
		{"as written", good, ""},
		{"no comment", strings.Join(lines[1:], ""), ""},
		{"carriage returns and spaces", strings.ReplaceAll(good, "\n", " \r\n\n"), ""},
		{"no newline at the end", strings.TrimSpace(good), ""},
		{"empty", "", "not a key file"},
		{"other format", strings.Replace(good, " v1", " v2", 1), "not a key file"},
		{"no id", lines[1] + lines[3], "2 lines"},
		{"order", lines[1] + lines[3] + lines[2], "lacks"},
		{"more", good + "more\n", "4 lines"},
		{"key twice", good + lines[3], "4 lines"},
		{"other id", lines[1] + "id 0000000000000000\n" + lines[3], "not that of its key"},
		{"short key", lines[1] + lines[2] + "key AAAA\n", "not 32 bytes"},
		{"no base64", lines[1] + lines[2] + "key " + strings.Repeat("!", 44) + "\n", "not 32 bytes"},
		{"one letter changed", strings.Replace(good, "BwcHBwcH", "BwcHBwcI", 1), "not that of its key"},
		{"too long", good + strings.Repeat("#", 5000), "more than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := embedded.ParseKey([]byte(test.text))
			if test.wantErr == "" {
				if err != nil || !bytes.Equal(got.Reveal(), key) {
					t.Errorf("ParseKey: %v, want the key", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("ParseKey: %v, want an error with %q", err, test.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), "BwcHBwcH") {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}
