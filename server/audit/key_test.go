package audit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

func TestCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.key")
	var wg sync.WaitGroup
	for range 8 { // replicas that start at the same time
		wg.Go(func() {
			if err := audit.CreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	if files := filesOf(t, filepath.Join(filepath.Dir(path), ".")); len(files) != 1 {
		t.Errorf("got files %v, want the key alone", files)
	}
	before := read(t, path)
	if err := audit.CreateKey(path); err != nil || read(t, path) != before {
		t.Errorf("got %v and another key for one that is there", err)
	}
	if err := audit.CreateKey(filepath.Join(path, "audit.key")); err == nil {
		t.Error("no error where there is no folder")
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "audit.key")
	must(audit.CreateKey(path))
	key := loadKey(t, path)
	text := read(t, path)
	lines := strings.SplitAfter(text, "\n")
	encoded := strings.TrimSpace(strings.TrimPrefix(lines[3], "key "))
	typo := 'A'
	if encoded[0] == 'A' {
		typo = 'B'
	}
	other := filepath.Join(folder, "other.key")
	for _, test := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"empty", "", 0o600, "is not such a file"},
		{"truncated", text[:len(text)-6], 0o600, "is damaged"},
		{"truncated between lines", strings.Join(lines[:3], ""), 0o600, "a key file has 3"},
		{"a typing error", strings.Replace(text, "\nkey "+encoded[:1], "\nkey "+string(typo), 1), 0o600, "its id is not that of its key"},
		{"another id", strings.Replace(text, key.ID(), "0123456789abcdef", 1), 0o600, "its id is not that of its key"},
		{"a public key", key.Public().String(), 0o600, "its first line is not"},
		{"the store's key", "tokenbroker-store-key v1\nid 0\nkey " + encoded + "\n", 0o600, "its first line is not"},
		{"another file", strings.Repeat("x\n", 10), 0o600, "its first line is not"},
		{"a large file", strings.Repeat("#\n", 1<<20), 0o600, "has more than"},
		{"readable by others", text, 0o640, "mode 0640"},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, other, test.content, test.mode)
			_, err := audit.LoadKey(other)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			} else if strings.Contains(err.Error(), encoded[:20]) {
				t.Errorf("got %v, which tells the key", err)
			}
		})
	}
	for name, path := range map[string]string{"absent": filepath.Join(folder, "absent"), "a folder": folder} {
		t.Run(name, func(t *testing.T) {
			if _, err := audit.LoadKey(path); err == nil {
				t.Error("got no error")
			}
		})
	}
}

func TestPublicKey(t *testing.T) {
	key := newKey(t)
	path := filepath.Join(t.TempDir(), "audit.pub")
	write(t, path, key.Public().String(), 0o644)
	public, err := audit.LoadPublicKey(path)
	if err != nil || public.ID() != key.ID() || public.String() != key.Public().String() {
		t.Errorf("got %v, %v, want %v", public, err, key.Public())
	}
	write(t, path, key.Public().String(), 0o666)
	if _, err := audit.LoadPublicKey(path); err == nil {
		t.Error("got no error for a public key that everybody may change")
	}
	write(t, path, strings.Replace(key.Public().String(), key.ID(), newKey(t).ID(), 1), 0o644)
	if _, err := audit.LoadPublicKey(path); err == nil {
		t.Error("got no error for another id")
	}
}

// TestKeyIsNotPrinted, whatever it is printed with.
func TestKeyIsNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.key")
	must(audit.CreateKey(path))
	key := loadKey(t, path)
	var text bytes.Buffer
	slog.New(slog.NewJSONHandler(&text, nil)).Info("key", "key", key, "config", audit.Config{Key: key})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		fmt.Fprintf(&text, verb+"\n", key)
		fmt.Fprintf(&text, verb+"\n", &audit.Config{Key: key})
	}
	lines := strings.Split(read(t, path), "\n")
	if secret := strings.TrimPrefix(lines[3], "key "); strings.Contains(text.String(), secret) {
		t.Errorf("got %s", text.String())
	}
}

func TestVerifyNeedsKey(t *testing.T) {
	for name, cfg := range map[string]audit.VerifyConfig{
		"none":          {},
		"zero":          {Keys: []audit.Key{{}}},
		"zero public":   {PublicKeys: []audit.PublicKey{{}}},
		"killed wrong":  {Keys: []audit.Key{newKey(t)}, Killed: []string{"abc"}},
		"killed number": {Keys: []audit.Key{newKey(t)}, Killed: []string{"abc/-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := audit.Verify(cfg); err == nil {
				t.Error("got no error")
			}
		})
	}
}
