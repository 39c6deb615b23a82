package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// lineBuffer holds the longest line with what a syslog daemon puts before it.
const lineBuffer = maxLine + 4<<10

// source is a file that is being verified, standing at one line.
type source struct {
	name     string
	reader   *bufio.Reader
	number   int   // of the line
	fragment place // where a part of a line is, of which the next line says how it came
	cut      bool  // it has no newline
	// The line that the source stands at; valid until next.
	line  line
	chain *readChain // nil at the end
	// before is the mac of the line before it, if this source has that.
	before   mac
	adjacent bool
	cursors  map[*readChain]*cursor
	over     map[string]string // :: chain → the chain that has followed it here
}

// cursor is the last line of one chain in one source.
type cursor struct {
	seq uint64
	mac mac
}

func newLineReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, lineBuffer) }

func (s *source) where() place { return place{s.name, s.number} }

// next reads on to the next line that can be told to be one, and in order.
func (s *source) next(v *verifier) error {
	for {
		raw, err := s.read(v)
		if len(raw) == 0 && errors.Is(err, io.EOF) {
			s.settle(v, s.cut)
			s.chain = nil
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if raw[0] == '\n' { // an empty line says nothing
			continue
		}
		l, ok := parseLine(raw)
		if !ok {
			s.strange(v, raw, err != nil)
			continue
		}
		s.settle(v, l.kind == typeStart)
		if s.stand(v, l) {
			return nil
		}
	}
}

// read returns a line with its newline. io.EOF means that it has none.
func (s *source) read(v *verifier) ([]byte, error) {
	s.number++
	raw, err := s.reader.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return raw, err
	}
	v.find(s.where(), "is longer than any audit line")
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = s.reader.ReadSlice('\n')
	}
	return []byte{'\n'}, err
}

// strange deals with what is no line.
func (s *source) strange(v *verifier, raw []byte, atEnd bool) {
	s.settle(v, false)
	if atEnd || isFragment(raw) {
		s.fragment, s.cut = s.where(), atEnd
		return
	}
	v.find(s.where(), "is not an audit line")
}

// settle judges the part of a line that came before: a crash leaves one before the
// start of the next process, or at the end of the file and without a newline. Within a chain only a full
// disk does, where the file could not be shortened; that, and somebody who changed a
// line, look the same.
func (s *source) settle(v *verifier, crashed bool) {
	switch {
	case s.fragment == (place{}):
	case crashed:
		v.note(s.fragment, "is part of a line, as a crash leaves behind")
	default:
		v.find(s.fragment, "is part of a line: the disk was full, or it was changed")
	}
	s.fragment = place{}
}

// stand makes l the line that s stands at. It reports whether l may be where it is.
func (s *source) stand(v *verifier, l line) bool {
	c := s.chain
	if c == nil || !bytes.Equal(l.chain, []byte(c.id)) {
		if c = v.chain(l.chain); c == nil {
			v.find(s.where(), "belongs to one more chain than the %d that can be checked together", maxChains)
			return false
		}
	}
	if by, over := s.over[c.id]; over {
		v.find(s.where(), "is of chain %s but comes after the start of chain %s, which followed it: lines were moved", c.id, by)
		return false
	}
	last := s.cursors[c]
	s.before, s.adjacent = mac{}, l.seq == 0
	switch {
	case last == nil:
		last = &cursor{}
		s.cursors[c] = last
	case l.seq <= last.seq:
		v.find(s.where(), "has number %d of chain %s but comes after number %d: lines were moved or repeated", l.seq, c.id, last.seq)
		return false
	case l.seq == last.seq+1:
		s.before, s.adjacent = last.mac, true
	}
	last.seq, last.mac = l.seq, l.mac
	s.line, s.chain = l, c
	return true
}
