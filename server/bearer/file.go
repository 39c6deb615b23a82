package bearer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// lookInterval is how often a file is looked at. Events would get lost on network
	// file systems and where a directory is replaced, as Kubernetes does.
	lookInterval = time.Second
	// unsettled is how long after it was modified a file is read whatever its stamp
	// says: a second change within one tick of the file system's clock leaves none.
	unsettled = 3 * time.Second
)

// fileSource reads an issuer's keys from a file.
type fileSource struct {
	path string
	set  *keySet     // what was last read
	info os.FileInfo // of the file then; nil if it must be read
}

func (s *fileSource) fetch(context.Context) (*keySet, time.Duration, error) {
	info, err := os.Stat(s.path)
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read the JWK Set: %w", err)
	case !info.Mode().IsRegular(): // opening a pipe would wait for its writer
		return nil, 0, fmt.Errorf("read the JWK Set: %s is not a regular file", s.path)
	case s.unchanged(info):
		return s.set, lookInterval, nil
	}
	set, err := s.read()
	if err != nil {
		s.info = nil
		return nil, 0, err
	}
	s.set, s.info = set, info
	if time.Since(info.ModTime()) < unsettled {
		s.info = nil
	}
	return set, lookInterval, nil
}

func (s *fileSource) unchanged(info os.FileInfo) bool {
	return s.info != nil && os.SameFile(info, s.info) && info.ModTime().Equal(s.info.ModTime()) && info.Size() == s.info.Size()
}

// read takes the file whole: one that is overwritten in place may be read half old,
// half new, and then a second reading differs. One that was replaced in between is read
// once more.
func (s *fileSource) read() (*keySet, error) {
	var last []byte
	for n := range 3 {
		text, err := readBounded(s.path)
		if err != nil {
			return nil, fmt.Errorf("read the JWK Set: %w", err)
		}
		if n > 0 && bytes.Equal(text, last) {
			return parseKeySet(text)
		}
		last = text
	}
	return nil, errors.New("the JWK Set is being written")
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxBody+1))
	if err == nil && len(text) > maxBody {
		err = errors.New("the file is over 1 MiB")
	}
	return text, err
}
