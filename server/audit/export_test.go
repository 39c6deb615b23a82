package audit

import (
	"bytes"
	"time"
)

// Constants and parts that tests look at.
const (
	MaxLine   = maxLine
	MaxString = maxString
	MaxScopes = maxScopes
)

// Tear leaves part of a line in a file as a full disk does that lets nothing be undone.
func Tear(f *File, part string) error {
	f.torn = true
	_, err := f.file.WriteString(part)
	return err
}

// Waiting returns how many lines wait for the next write.
func (l *Log) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buffer, []byte{'\n'})
}

// SetPatience changes how long a daemon may take for a group of lines. It belongs before
// the first of them.
func (s *Syslog) SetPatience(d time.Duration) { s.patience = d }

// AppendFields returns e as an object of JSON.
func AppendFields(e *Entry) []byte { return append(e.append([]byte{'{'}), '}') }

// AppendString is appendString.
func AppendString(s string, most int) ([]byte, bool) { return appendString(nil, s, most) }

// AppendTime is appendTime.
func AppendTime(t time.Time) []byte { return appendTime(nil, t) }

// IsLine reports whether raw is read as a line, and what of it is taken for a header.
func IsLine(raw []byte) (header []byte, ok bool) {
	_, ok = parseLine(raw)
	return bytes.Clone(raw[:headerSize(raw)]), ok
}
