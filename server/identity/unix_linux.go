package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// mostSocketPath is what a socket's address has room for (unix(7)), less its end.
const mostSocketPath = 107

// ListenUnix listens on a new UNIX socket of that mode. The socket of a process that
// is gone is replaced; one that somebody listens on, and anything that is no socket, is
// an error. Closing the listener removes the socket, if it is still ours.
//
// The socket is made in a folder that only we may enter and then linked into its
// place, so that it never has a wider mode than asked for and nobody finds it before
// it is ready.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("UNIX socket: %w", err)
	}
	if len(path) > mostSocketPath {
		return nil, fmt.Errorf("UNIX socket %s: the path has %d bytes; at most %d", path, len(path), mostSocketPath)
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("UNIX socket %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("UNIX socket %s: %w", path, err)
	}
	l, err := listenAside(path, mode)
	if err != nil {
		return nil, fmt.Errorf("UNIX socket %s: %w", path, err)
	}
	return l, nil
}

// lockFolder keeps two processes that start at once from taking each other's socket
// for a stale one.
func lockFolder(dir string) (unlock func(), err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), folder.Close())
	}
	return func() { _ = folder.Close() }, nil // which unlocks
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something that is no socket is there already; remove it or choose another path")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return errors.Join(errors.New("another process listens on it"), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist): // removed in between
		return nil
	default:
		return fmt.Errorf("a socket is there already, and whether somebody listens on it cannot be told: %w", err)
	}
}

// listenAside makes the socket in a folder of its own and links it to path.
func listenAside(path string, mode fs.FileMode) (_ *unixListener, err error) {
	aside, err := os.MkdirTemp(filepath.Dir(path), ".s") // of mode 0700
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(aside)) }()
	folder, err := os.Open(aside)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	// By the folder's descriptor, or the longer path might not fit into an address.
	made := fmt.Sprintf("/proc/self/fd/%d/s", folder.Fd())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // that would be the first name
	defer func() {
		if err != nil {
			_ = listener.Close()
		}
	}()
	if err := os.Chmod(made, mode.Perm()); err != nil {
		return nil, err
	}
	info, err := os.Lstat(made)
	if err != nil {
		return nil, err
	}
	if err := os.Link(made, path); err != nil { // unlike a rename it replaces nothing
		return nil, err
	}
	return &unixListener{UnixListener: listener, path: path, info: info}, nil
}

// unixListener is a UNIX socket under the name that it was linked to.
type unixListener struct {
	*net.UnixListener
	path   string
	info   os.FileInfo
	remove sync.Once
}

// Addr implements net.Listener.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close implements net.Listener.
func (l *unixListener) Close() error {
	l.remove.Do(func() {
		// Before the socket is closed: nobody else can have listened on the name until now.
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
			_ = os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
