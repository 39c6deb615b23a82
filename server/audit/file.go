package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// File is a [Sink] that appends to a file. Rotation goes on in a new one: when the
// file is full, which is then moved aside; or when the file is not at its path any
// more, because something else such as logrotate has moved it. No line is split or
// lost by that, and the chain goes on across files.
//
// While a new file cannot be made, the old one goes on, and Check says so.
type File struct {
	path    string
	maxSize int64 // 0: never by size
	last    string
	reopen  atomic.Bool

	// Used by Write alone.
	size  int64     // of the file; others may change it
	torn  bool      // the file ends in part of a line
	due   bool      // a new file is wanted
	retry time.Time // not before then, after a failure

	mu      sync.Mutex // guards the next four
	file    *os.File
	retired []*os.File // rotated, but not synced yet
	renamed bool       // names in the folder have changed since the last sync
	trouble error      // why no new file could be made
}

// OpenFile opens or makes a file of mode 0600. maxSize is in bytes; 0 means that it
// is never rotated by size. One process at a time may have it open.
func OpenFile(path string, maxSize int64) (*File, error) {
	file, size, err := openLog(path)
	if err != nil {
		return nil, fmt.Errorf("audit file %s: %w", path, err)
	}
	f := &File{path: path, maxSize: maxSize, file: file, size: size, renamed: true}
	f.last, f.torn, err = lastLine(file, size)
	if err == nil && f.last == "" {
		f.last, err = lastLineAside(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("audit file %s: %w", path, err), file.Close())
	}
	return f, nil
}

func openLog(path string) (*os.File, int64, error) {
	file, info, err := openRegular(path, os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return nil, 0, err
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 {
		err = fmt.Errorf("has mode %04o, so that everybody may write to it", mode)
	} else {
		err = lockFile(file)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// openRegular opens a file, with mode 0600 if it makes one. It asks before it opens,
// since opening a pipe would wait for the other end, and again afterwards, so that
// what it tells is of the file that was opened.
func openRegular(path string, flags int) (*os.File, fs.FileInfo, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, errNotRegular
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

const errNotRegular = fileError("is not a regular file")

// fileError is a fixed text.
type fileError string

// Error implements error.
func (e fileError) Error() string { return string(e) }

// Name implements [Sink].
func (f *File) Name() string { return "file " + f.path }

// Last returns the last whole line that was there when the file was opened, or, if
// it was empty, in the newest of those that were moved aside.
func (f *File) Last() string { return f.last }

// Reopen makes the next write go to a new file if the old one was moved away. Safe
// for concurrent use.
func (f *File) Reopen() { f.reopen.Store(true) }

// Write implements [Sink]. A write that was cut short is undone, so that the file
// does not end in part of a line; where even that fails, the next line begins anew.
func (f *File) Write(lines []byte) error {
	f.rotate(int64(len(lines)))
	if f.torn {
		n, err := f.file.Write([]byte{'\n'})
		f.size += int64(n)
		if err != nil {
			return err
		}
		f.torn = false
	}
	n, err := f.file.Write(lines)
	f.size += int64(n)
	if err != nil && n > 0 {
		f.undo(int64(n))
	}
	return err
}

// undo takes back the n bytes that were written last. Their place is asked for, not
// remembered: somebody may have emptied the file (logrotate's copytruncate).
func (f *File) undo(n int64) {
	info, err := f.file.Stat()
	if err == nil {
		err = f.file.Truncate(max(info.Size()-n, 0))
	}
	if f.torn = err != nil; !f.torn {
		f.size -= n
	}
}

// rotate goes on to a new file if one is wanted, for instance because more bytes
// would not fit. Its failures must not cost a line: the old file is still good.
func (f *File) rotate(more int64) {
	const pause = time.Second
	full := f.full(more)
	if f.reopen.Load() && f.reopen.Swap(false) {
		f.due, f.retry = true, time.Time{}
	}
	if !full && !f.due || !f.retry.IsZero() && time.Now().Before(f.retry) {
		return
	}
	if info, err := f.file.Stat(); full && err == nil { // somebody may have emptied it
		f.size = info.Size()
		full = f.full(more)
	}
	err := f.replace(full)
	f.due, f.retry = false, time.Time{}
	if err != nil {
		f.due, f.retry = true, time.Now().Add(pause)
		err = fmt.Errorf("the old file goes on, since there is no new one: %w", err)
	}
	f.mu.Lock()
	f.trouble = err
	f.mu.Unlock()
}

// full reports whether more bytes do not fit. One group of lines always does.
func (f *File) full(more int64) bool {
	return f.maxSize > 0 && f.size > 0 && f.size+more > f.maxSize
}

func (f *File) replace(full bool) error {
	here, err := f.inPlace()
	if err != nil {
		return err
	}
	if here && !full {
		return nil // nobody has moved it
	}
	if here {
		if err := f.moveAside(); err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody else may have moved it just now
			return err
		}
	}
	file, size, err := openLog(f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.retired = append(f.retired, f.file)
	f.file, f.renamed = file, true
	f.mu.Unlock()
	f.size, f.torn = size, false
	return nil
}

// inPlace reports whether the file at the path is the one that is open.
func (f *File) inPlace() (bool, error) {
	at, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	open, err := f.file.Stat()
	return err == nil && os.SameFile(at, open), err
}

// moveAside renames the file so that names sort by time, and over no other.
func (f *File) moveAside() error {
	name := f.path + "." + time.Now().UTC().Format("20060102T150405.000000000Z")
	for n := 1; ; n++ {
		aside := name
		if n > 1 {
			aside += "-" + strconv.Itoa(n)
		}
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(f.path, aside)
		} else if err != nil {
			return err
		}
	}
}

// Sync implements [Sink].
func (f *File) Sync() error {
	f.mu.Lock()
	file, retired, renamed := f.file, f.retired, f.renamed
	f.retired, f.renamed = nil, false
	f.mu.Unlock()
	err := file.Sync()
	if errors.Is(err, os.ErrClosed) {
		err = nil // rotated meanwhile, and synced by another Sync
	}
	for _, old := range retired {
		err = errors.Join(err, old.Sync(), old.Close())
	}
	if !renamed {
		return err
	}
	folderErr := syncFolder(filepath.Dir(f.path))
	if folderErr != nil {
		f.mu.Lock()
		f.renamed = true
		f.mu.Unlock()
	}
	return errors.Join(err, folderErr)
}

// Check implements [Sink]: it asks for a new file when the old one is not at its
// path any more, so that entries do not go where nobody looks.
func (f *File) Check() error {
	f.mu.Lock()
	file, trouble := f.file, f.trouble
	f.mu.Unlock()
	info, err := file.Stat()
	if errors.Is(err, os.ErrClosed) { // rotated meanwhile
		return trouble
	}
	if err != nil {
		return errors.Join(trouble, err)
	}
	if at, err := os.Stat(f.path); err != nil || !os.SameFile(at, info) {
		f.Reopen()
	}
	if removed(info) {
		return errors.Join(trouble, errRemoved)
	}
	return trouble
}

const errRemoved = fileError("the file was removed while it was written to; what it had is lost")

// Close implements [Sink].
func (f *File) Close() error { return errors.Join(f.Sync(), f.file.Close()) }

// syncFolder makes the names in a folder survive a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
