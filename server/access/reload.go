package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookInterval is how often Run looks at the file.
	lookInterval = time.Second
	// unsettled is how long after it was modified a file is read again, whatever its
	// stamp says: a second change within one tick of the file system's clock, of the
	// same size, does not change the stamp.
	unsettled = 3 * time.Second
)

// Reloader keeps the table of a file and makes it anew when the file changes: as a
// whole, or, if anything is wrong with it, not at all. It polls instead of waiting for
// events, because those get lost on network file systems and when a directory is
// replaced, as Kubernetes does. All methods are safe for concurrent use.
type Reloader struct {
	file    string
	report  func(*Table, error)
	current atomic.Pointer[Table]

	mu        sync.Mutex // guards the rest; held while the file is read
	look      look
	content   [sha256.Size]byte // what current was made of
	complaint string            // the last problem that was reported; "" after a good look
}

// look is what was last seen of a file.
type look struct {
	info  os.FileInfo // nil if it could not be seen
	again bool        // it may have changed since without a trace
}

// NewReloader reads the table; its error is that of [Parse] or that the file cannot be
// read. report, if not nil, is called one at a time: with each new table after it took
// effect, with each new problem once, and, when a problem went away although the table
// is what it was, with that table. It must not call the Reloader.
func NewReloader(file string, report func(*Table, error)) (*Reloader, error) {
	r := &Reloader{file: file, report: report}
	if r.report == nil {
		r.report = func(*Table, error) {}
	}
	table, sum, err := r.read()
	if err != nil {
		return nil, err
	}
	r.content = sum
	r.current.Store(table)
	return r, nil
}

// Table returns the present table. Ask once for each call and use that one throughout:
// what was decided then comes of one generation.
func (r *Reloader) Table() *Table { return r.current.Load() }

// Run looks at the file each second until ctx ends, and returns nil then.
func (r *Reloader) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			_ = r.reload(false) // was reported
		}
	}
}

// Reload reads the file at once, as on SIGHUP, and returns what is wrong with it; the
// table stays as it was then.
func (r *Reloader) Reload() error { return r.reload(true) }

func (r *Reloader) reload(always bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !always && !r.changed() {
		return nil
	}
	table, sum, err := r.read()
	switch {
	case errors.Is(err, errBeingWritten):
		r.look = look{} // the next look sees the whole
		return err
	case err != nil:
		if text := err.Error(); text != r.complaint {
			r.complaint = text
			r.report(nil, err)
		}
		return err
	case sum == r.content:
		if table = r.current.Load(); r.complaint != "" {
			r.complaint = ""
			r.report(table, nil)
		}
		return nil
	}
	table.generation = r.current.Load().generation + 1
	r.content, r.complaint = sum, ""
	r.current.Store(table)
	r.report(table, nil)
	return nil
}

// changed reports whether the file may be another than at the last look.
func (r *Reloader) changed() bool {
	info, err := os.Stat(r.file)
	last := r.look
	r.look = look{info: info, again: err == nil && time.Since(info.ModTime()) < unsettled}
	if err != nil || last.info == nil || last.again {
		return true
	}
	return !os.SameFile(info, last.info) || !info.ModTime().Equal(last.info.ModTime()) || info.Size() != last.info.Size()
}

var errBeingWritten = errors.New("is being written")

// read makes a table of the file and returns the hash of what it was made of.
func (r *Reloader) read() (*Table, [sha256.Size]byte, error) {
	first, err := readFile(r.file)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	// A file that is overwritten in place may have been read half old, half new; then a
	// second reading differs.
	second, err := readFile(r.file)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	if !bytes.Equal(first, second) {
		return nil, [sha256.Size]byte{}, fmt.Errorf("access table %s %w", r.file, errBeingWritten)
	}
	table, err := Parse(r.file, first)
	return table, sha256.Sum256(first), err
}

// readFile reads a bounded regular file; opening a pipe would wait for its writer.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("access table: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("access table: %s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("access table: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1)) // Parse refuses what is longer
	if err != nil {
		return nil, fmt.Errorf("access table: %w", err)
	}
	return raw, nil
}
