package audit

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// lastLine returns the last whole audit line of a file, and whether part of a line
// follows, as a crash leaves behind.
func lastLine(file io.ReaderAt, size int64) (line string, torn bool, err error) {
	tail := make([]byte, min(size, 2*maxLine)) // a whole line and a torn one
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return "", false, err
	}
	torn = len(tail) > 0 && tail[len(tail)-1] != '\n'
	for end := bytes.LastIndexByte(tail, '\n'); end >= 0; {
		start := bytes.LastIndexByte(tail[:end], '\n') + 1
		if _, ok := parseLine(tail[start : end+1]); ok {
			return string(tail[start : end+1]), torn, nil
		}
		end = start - 1
	}
	return "", torn, nil
}

// lastLineAside returns the last line of the newest file that was rotated away from
// path, by this program or by logrotate, as far as that can be read.
func lastLineAside(path string) (string, error) {
	folder, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(folder + "."))
	if err != nil {
		return "", err
	}
	var aside []fs.FileInfo
	for _, entry := range entries {
		rotated := strings.HasPrefix(entry.Name(), name+".") || strings.HasPrefix(entry.Name(), name+"-")
		if info, err := entry.Info(); err == nil && rotated && info.Mode().IsRegular() {
			aside = append(aside, info)
		}
	}
	slices.SortFunc(aside, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	const most = 4 // beside the newest there may be what is no audit file
	for _, info := range aside[:min(len(aside), most)] {
		file, err := os.Open(filepath.Join(folder, info.Name()))
		if err != nil {
			continue // this is a hint: what cannot be read is not named
		}
		line, _, _ := lastLine(file, info.Size())
		_ = file.Close()
		if line != "" {
			return line, nil
		}
	}
	return "", nil
}
