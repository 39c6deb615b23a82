package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// mostFileBytes bounds a file: a revocation list of a million certificates has some 40 MB.
const mostFileBytes = 128 << 20

// unsettled is how long after it was modified a file is read again, whatever its
// stamp says: a second change within one tick of the file system's clock, of the same
// size, does not change the stamp.
const unsettled = 3 * time.Second

// watched is some files that are read together.
type watched struct {
	paths []string
	looks []look
	// complaint is the last problem that was reported; "" after a good look.
	complaint string
}

// look is what was last seen of a file.
type look struct {
	info  os.FileInfo // nil if it could not be seen
	again bool        // it may have changed since without a trace
}

// changed reports whether one of the files may be another than at the last look.
func (w *watched) changed() bool {
	found := false
	last := w.looks
	w.looks = make([]look, len(w.paths))
	for i, path := range w.paths {
		info, err := os.Stat(path)
		w.looks[i] = look{info: info, again: err == nil && time.Since(info.ModTime()) < unsettled}
		if err != nil || last == nil || last[i].info == nil || last[i].again {
			found = true
			continue
		}
		before := last[i].info
		found = found || !os.SameFile(info, before) || !info.ModTime().Equal(before.ModTime()) || info.Size() != before.Size()
	}
	return found
}

// news reports whether a problem is worth a line in the log: one that was not
// reported at the last look. After nil the same one is news again.
func (w *watched) news(err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	fresh := text != w.complaint
	w.complaint = text
	return fresh
}

var errBeingWritten = errors.New("is being written")

// read reads each of the files, or says why it cannot.
func (w *watched) read() ([][]byte, []error) {
	contents, errs := make([][]byte, len(w.paths)), make([]error, len(w.paths))
	for i, path := range w.paths {
		if contents[i], errs[i] = readFile(path); errs[i] != nil {
			continue
		}
		// A file that is overwritten may have been read half old, half new; then a second
		// reading differs.
		if again, err := readFile(path); err != nil || !bytes.Equal(contents[i], again) {
			errs[i] = fmt.Errorf("%s %w", path, errBeingWritten)
		}
	}
	return contents, errs
}

// readFile reads a bounded regular file; opening a pipe would wait for its writer.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, mostFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > mostFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, mostFileBytes)
	}
	return content, nil
}
