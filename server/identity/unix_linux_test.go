package identity_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/access"
	"github.com/tokenbroker/tokenbroker/server/identity"
)

func listenUnix(t testing.TB, path string, mode fs.FileMode) net.Listener {
	t.Helper()
	listener, err := identity.ListenUnix(path, mode)
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// TestUNIXSocket beside TLS, on one server.
func TestUNIXSocket(t *testing.T) {
	f, ca := newFiles(t), authority(t, "of callers")
	s := f.serve(t, f.simple(t, []*devpki.Authority{ca}))
	path := filepath.Join(t.TempDir(), "s")
	beside := &served{Credentials: s.Credentials, serving: s.serving}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	connections := &identity.Connections{Max: 10, MaxPerPeer: 10}
	beside.start(t, connections.Listen(tcp), connections.Listen(listenUnix(t, path, 0o600)))
	want := fmt.Sprintf("unix:uid=%d", os.Getuid())
	if got := dial(t, "unix:"+path, nil).who(t); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := beside.connect(t, issue(t, ca, names(t, crm))).who(t); got != crm {
		t.Errorf("got %q, want %q", got, crm)
	}
	if got := dial(t, beside.address, nil).who(t); !strings.HasPrefix(got, "handshake: ") {
		t.Errorf("plaintext over TCP: got %q, want no connection", got)
	}
}

// TestKindsOfConnections: what is not configured is not served.
func TestKindsOfConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	tcp := func() net.Listener {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		return listener
	}
	user := fmt.Sprintf("unix:uid=%d", os.Getuid())
	plain := &served{Credentials: &identity.Credentials{Plaintext: true}}
	plain.start(t, tcp(), listenUnix(t, path, 0o600))
	if got := dial(t, plain.address, nil).who(t); got != access.InsecureIdentity {
		t.Errorf("plaintext: got %q, want %q", got, access.InsecureIdentity)
	}
	if got := dial(t, "unix:"+path, nil).who(t); got != user {
		t.Errorf("socket beside plaintext: got %q, want %q", got, user)
	}
	alone := &served{Credentials: &identity.Credentials{}}
	alone.start(t, tcp())
	if got := dial(t, alone.address, nil).who(t); !strings.HasPrefix(got, "handshake: ") {
		t.Errorf("neither TLS nor plaintext: got %q, want no connection", got)
	}
}

func TestSocketFile(t *testing.T) {
	stale := func(t *testing.T, path string) {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		listener.SetUnlinkOnClose(false)
		must(t, listener.Close())
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // "" if it listens
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"of a dead process", stale, ""},
		{"of a live process", func(t *testing.T, path string) { listenUnix(t, path, 0o600) }, "another process listens on it"},
		{"a file", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("x"), 0o600)) }, "no socket"},
		{"a folder", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "no socket"},
		{"a link to a stale socket", func(t *testing.T, path string) {
			stale(t, path+"x")
			must(t, os.Symlink(path+"x", path))
		}, "no socket"},
		{"no folder", func(t *testing.T, path string) { must(t, os.Remove(filepath.Dir(path))) }, "no such file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x", "s")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			test.prepare(t, path)
			before, _ := os.Lstat(path)
			listener, err := identity.ListenUnix(path, 0o640)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
					t.Fatalf("got %v, want an error that names %s and %s", err, path, test.want)
				}
				if after, _ := os.Lstat(path); before != nil && (after == nil || !os.SameFile(before, after)) {
					t.Error("what was there is gone")
				}
				return
			}
			must(t, err)
			info, err := os.Lstat(path)
			must(t, err)
			if got, want := info.Mode(), fs.ModeSocket|0o640; got != want {
				t.Errorf("got mode %v, want %v", got, want)
			}
			if got := listener.Addr().String(); got != path {
				t.Errorf("got address %s, want %s", got, path)
			}
			must(t, listener.Close())
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v (%v)", left, err)
			}
		})
	}
	t.Run("long path", func(t *testing.T) {
		dir := t.TempDir()
		listener := listenUnix(t, filepath.Join(dir, strings.Repeat("s", 107-len(dir)-1)), 0o600)
		must(t, listener.Close())
		if _, err := identity.ListenUnix(filepath.Join(dir, strings.Repeat("s", 108-len(dir)-1)), 0o600); err == nil || !strings.Contains(err.Error(), "107") {
			t.Errorf("got %v, want an error that names the bound", err)
		}
	})
}

// TestClosingLeavesAnothersSocket that has taken the name since.
func TestClosingLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := listenUnix(t, path, 0o600)
	must(t, os.Remove(path))
	second := listenUnix(t, path, 0o600)
	must(t, first.Close())
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the second listener is gone: %v", err)
	}
	must(t, conn.Close())
	must(t, second.Close())
}

// TestTwoStartAtOnce: one of them gets the socket, the other one an error.
func TestTwoStartAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listeners := make(chan net.Listener, 8)
	var starting sync.WaitGroup
	for range cap(listeners) {
		starting.Go(func() {
			if listener, err := identity.ListenUnix(path, 0o600); err == nil {
				listeners <- listener
			}
		})
	}
	starting.Wait()
	close(listeners)
	if got := len(listeners); got != 1 {
		t.Errorf("%d listen, want 1", got)
	}
	for listener := range listeners {
		must(t, listener.Close())
	}
}
