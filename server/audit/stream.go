package audit

import (
	"errors"
	"io"
	"os"
	"time"
)

// streamPatience is how long a stream may take for one write. A reader that has
// stopped reading must not stop calls that another sink takes.
const streamPatience = time.Second

const errStreamStuck = fileError("the reader of the stream does not read")

// Stream is a [Sink] that writes to a stream such as standard output.
type Stream struct {
	name string
	work chan []byte
	done chan error // of the write that was begun last
	wait *time.Timer
	// Used by Write and Close alone.
	lines  []byte // the goroutine's while it writes
	busy   bool   // a write that was given up goes on
	torn   bool   // the stream ends in part of a line
	closed bool
}

// NewStream returns a sink for stream, which it does not close. It writes in a
// goroutine that Close ends, unless a write hangs: then it ends with that.
func NewStream(name string, stream io.Writer) *Stream {
	s := &Stream{name: name, work: make(chan []byte), done: make(chan error, 1), wait: time.NewTimer(0)}
	s.wait.Stop()
	go func() {
		for lines := range s.work {
			n, err := stream.Write(lines)
			if err == nil && n < len(lines) {
				err = io.ErrShortWrite
			}
			if err != nil && n > 0 {
				err = &tornError{err}
			}
			s.done <- err
		}
	}()
	return s
}

// OpenStdout returns a sink for standard output. It has a descriptor of its own,
// because Go ends a process that writes to a standard output that nobody reads.
func OpenStdout() (*Stream, error) {
	stdout, err := duplicate(os.Stdout)
	if err != nil {
		return nil, err
	}
	return NewStream("stdout", stdout), nil
}

// tornError says that part of what was written was taken.
type tornError struct{ error }

// Name implements [Sink].
func (s *Stream) Name() string { return s.name }

// Write implements [Sink].
func (s *Stream) Write(lines []byte) error {
	if s.busy {
		select {
		case err := <-s.done:
			s.finished(err)
		default:
			return errStreamStuck
		}
	}
	s.lines = s.lines[:0]
	if s.torn {
		s.lines = append(s.lines, '\n')
	}
	s.lines = append(s.lines, lines...)
	s.busy = true
	s.work <- s.lines
	s.wait.Reset(streamPatience)
	select {
	case err := <-s.done:
		s.wait.Stop()
		s.finished(err)
		return err
	case <-s.wait.C:
		return errStreamStuck
	}
}

func (s *Stream) finished(err error) {
	s.busy = false
	var torn *tornError
	if err == nil || errors.As(err, &torn) {
		s.torn = err != nil
	}
}

// Sync implements [Sink]; a stream has nothing to sync.
func (s *Stream) Sync() error { return nil }

// Check implements [Sink].
func (s *Stream) Check() error { return nil }

// Close implements [Sink].
func (s *Stream) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.work)
	return nil
}
