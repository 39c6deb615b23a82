package audit

import (
	"log/slog"
	"sync/atomic"
)

// Sink takes lines and keeps or forwards them.
//
// Write must not wait for long: while it does, no call is answered. Write is never
// called by two at a time, nor after Close; Sync and Check may run beside it.
//
// A sink that keeps lines from one process to the next should also have a method
// Last() string, which returns the last line that it had when it was opened.
type Sink interface {
	// Name says in logs which sink it is.
	Name() string
	// Write hands whole lines to the kernel. If it fails, it may have taken some of
	// them, and the next lines must begin on a line of their own. It must not keep
	// the slice.
	Write(lines []byte) error
	// Sync makes durable what was written.
	Sync() error
	// Check comes once a second. It mends what can be mended without a line to write,
	// such as a lost connection, and says what needs an operator although lines are
	// taken.
	Check() error
	// Close syncs and releases the sink.
	Close() error
}

// rememberer is a [Sink] that keeps lines from one process to the next.
type rememberer interface {
	// Last returns the last whole line; "" if there is none.
	Last() string
}

// lane is a sink and how it fares.
type lane struct {
	Sink
	log *slog.Logger
	// Whether the last one failed.
	writeFails, syncFails, checkFails atomic.Bool
}

func (s *lane) write(lines []byte) error { return s.note(&s.writeFails, "write", s.Write(lines)) }

func (s *lane) sync() error { return s.note(&s.syncFails, "sync", s.Sync()) }

func (s *lane) check() { _ = s.note(&s.checkFails, "check", s.Check()) }

// note logs when an operation begins and when it ceases to fail, not each time.
func (s *lane) note(failed *atomic.Bool, operation string, err error) error {
	switch {
	case err != nil && !failed.Swap(true):
		s.log.Error("audit sink fails", "sink", s.Name(), "operation", operation, "cause", err)
	case err == nil && failed.Load() && failed.Swap(false):
		s.log.Info("audit sink works again", "sink", s.Name(), "operation", operation)
	}
	return err
}

func (s *lane) failing() bool {
	return s.writeFails.Load() || s.syncFails.Load() || s.checkFails.Load()
}
