package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// TestDoctor looks at a server before its first start, while it runs, and after.
func TestDoctor(t *testing.T) {
	config := setup(t, harness.UnusedAddress(t), true)
	before := entries(t, filepath.Dir(config))
	got := command(t, "doctor", "--config", config)
	got.prints(t, 0, "is sound", "certificate and key go together", "the server makes it when it starts", "is free", "0 broken")
	if after := entries(t, filepath.Dir(config)); after != before {
		t.Errorf("it made something: %q, before %q", after, before)
	}
	stop := serve(t, config)
	healthy(t, config)
	command(t, "doctor", "--config", config).prints(t, 0, "is in use, as by a running server", "the server itself, which says SERVING", "audit.log can be written")
	stop().want(t, 0)
	command(t, "doctor", "--config", config).prints(t, 0, "the store answers", "the store's policy lets the broker read", "is free")
}

// prints checks the status, and that each text was printed.
func (o outcome) prints(t *testing.T, status int, texts ...string) {
	t.Helper()
	o.want(t, status)
	for _, text := range texts {
		if !strings.Contains(o.stdout, text) {
			t.Errorf("%q is not in\n%s", text, o.stdout)
		}
	}
}

// entries are the names in a folder.
func entries(t *testing.T, dir string) (names string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names += e.Name() + " "
	}
	return names
}

// healthy waits until a server answers.
func healthy(t *testing.T, config string) {
	t.Helper()
	for t.Context().Err() == nil {
		if command(t, "health", "--config", config).err == nil {
			return
		}
		runtime.Gosched()
	}
}

// TestDoctorFinds what is broken, and says what mends it.
func TestDoctorFinds(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  []string
	}{
		{"key for all", func(t *testing.T, dir string) { mode(t, filepath.Join(dir, "key.pem"), 0o644) }, []string{"FAIL  key ", "mode 0644", "chmod 600"}},
		{"another key", func(t *testing.T, dir string) {
			move(t, filepath.Join(dir, "other.pem"), filepath.Join(dir, "key.pem"))
		}, []string{"FAIL  key fits", "do not go together"}},
		{"no certificate", func(t *testing.T, dir string) {
			move(t, filepath.Join(dir, "other.pem"), filepath.Join(dir, "cert.pem"))
		}, []string{"FAIL  certificate", "are the two files mixed up?"}},
		{"configuration for all", func(t *testing.T, dir string) { mode(t, filepath.Join(dir, "config.yaml"), 0o666) }, []string{"FAIL  who may write it"}},
		{"store of another key", func(t *testing.T, dir string) {
			fill(t, filepath.Join(dir, "store.db"), "not a store")
			fill(t, filepath.Join(dir, "store.key"), "not a key")
		}, []string{"FAIL  store.embedded"}},
		{"audit key", func(t *testing.T, dir string) { fill(t, filepath.Join(dir, "audit.key"), "not a key") }, []string{"FAIL  audit.key_file"}},
		{"audit file", func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "audit.log"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"FAIL  audit.file.path", "no regular file"}},
		{"unknown key", func(t *testing.T, dir string) { fill(t, filepath.Join(dir, "config.yaml"), "nonsense: 1\n") }, []string{"FAIL  configuration", "line 1", "nonsense"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := setup(t, harness.UnusedAddress(t), true)
			dir := filepath.Dir(config)
			other := filepath.Dir(setup(t, "127.0.0.1:1", true))
			move(t, filepath.Join(other, "key.pem"), filepath.Join(dir, "other.pem"))
			test.spoil(t, dir)
			command(t, "doctor", "--config", config).prints(t, 1, test.want...)
		})
	}
	t.Run("somebody else listens", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		command(t, "doctor", "--config", setup(t, listener.Addr().String(), false)).prints(t, 1, "FAIL  listen.address", "not by the server that the configuration describes")
	})
}

func mode(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDoctorForPrograms prints one document.
func TestDoctorForPrograms(t *testing.T) {
	got := command(t, "doctor", "--config", setup(t, harness.UnusedAddress(t), false), "-o", "json")
	got.want(t, 0)
	var sheet struct {
		Looks []struct{ Part, Name, Outcome string }
		Fail  int
	}
	if err := json.Unmarshal([]byte(got.stdout), &sheet); err != nil || len(sheet.Looks) < 5 || sheet.Fail != 0 {
		t.Errorf("%v: %s", err, got.stdout)
	}
	if strings.Contains(got.stdout, "PRIVATE") {
		t.Error("it printed a key")
	}
}
