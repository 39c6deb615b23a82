//go:build unix

package audit

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// lockFile keeps other processes from writing to the same file: they would undo
// each other's writes. The lock goes with the open file.
func lockFile(file *os.File) error {
	err := control(file, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fileError("is in use by another process")
	}
	return err
}

// removed reports whether an open file has no name any more.
func removed(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}

// duplicate returns another descriptor of the same file.
func duplicate(file *os.File) (*os.File, error) {
	copied := -1
	syscall.ForkLock.RLock() // so that no child inherits it
	defer syscall.ForkLock.RUnlock()
	err := control(file, func(fd int) (err error) {
		if copied, err = syscall.Dup(fd); err == nil {
			syscall.CloseOnExec(copied)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), file.Name()), nil
}

// control calls f with file's descriptor, which Fd would make blocking.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := conn.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}
