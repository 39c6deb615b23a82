package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	syncEvery       = time.Second
	checkpointEvery = 10 * time.Second
)

// ErrAllSinksFailed says that an entry could not be written anywhere, so that what
// it is about must not happen.
var ErrAllSinksFailed = errors.New("no audit sink takes the entry")

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("the audit log is closed")

// Config is what a [Log] is made of.
type Config struct {
	// Key is required.
	Key Key
	// Sinks are at least one. They belong to the Log once New has succeeded.
	Sinks []Sink
	// SyncAlways makes each group of entries durable before its calls return,
	// instead of once a second. It halves the throughput even on a fast disk.
	SyncAlways bool
	// Logger gets sinks that fail and recover; nil discards.
	Logger *slog.Logger
}

// Log writes entries. It is safe for concurrent use. Run must run meanwhile.
type Log struct {
	sinks      []*lane
	syncAlways bool
	// unsynced is when the oldest entry that is not durable was written, in ns since
	// 1970; 0 if all are.
	unsynced atomic.Int64

	mu     sync.Mutex // guards the next four; taken after writing, never before
	chain  *chain
	buffer []byte // lines that wait to be written
	group  *group // the calls that wait for them; nil if none do
	closed bool

	writing sync.Mutex // held by whoever writes to the sinks; guards the next two
	spare   []byte     // the buffer of the last write
	written position   // the last line that a sink took
}

// group is the calls whose lines are written together. The first of them leads.
type group struct {
	done chan struct{} // made by the first who waits, so that a lone call makes none
	err  error         // set before done is closed
}

// New returns a log and writes the first line of its chain.
func New(cfg Config) (*Log, error) {
	if len(cfg.Sinks) == 0 {
		return nil, errors.New("audit: at least one sink is required")
	}
	if cfg.Key.sign == nil {
		return nil, errors.New("audit: a key is required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{syncAlways: cfg.SyncAlways, chain: newChain(cfg.Key)}
	for _, sink := range cfg.Sinks {
		l.sinks = append(l.sinks, &lane{Sink: sink, log: cfg.Logger})
	}
	if err := l.append(func(buffer []byte) []byte {
		return l.chain.start(buffer, time.Now(), lastLines(cfg.Sinks), "")
	}, false); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return l, nil
}

// lastLines returns the last lines that sinks had before: several, if one of them
// did not work at the end.
func lastLines(sinks []Sink) (last []position) {
	for _, sink := range sinks {
		r, ok := sink.(rememberer)
		if !ok {
			continue
		}
		line, ok := parseLine([]byte(r.Last()))
		if !ok {
			continue
		}
		if p := (position{string(line.chain), line.seq}); !slices.Contains(last, p) {
			last = append(last, p)
		}
	}
	return last
}

// Append writes one entry and returns when at least one sink has it.
// [ErrAllSinksFailed], [ErrClosed].
//
// Calls that come at the same time share one write: the first leads, lets those
// that are ready to run add theirs, and writes for all. Those who come while it
// writes make the next group, which the first of them leads.
func (l *Log) Append(e *Entry) error {
	return l.append(func(buffer []byte) []byte { return l.chain.entry(buffer, e) }, false)
}

// append adds what line appends to the buffer, and has it written. After the last
// one nothing is taken any more.
func (l *Log) append(line func([]byte) []byte, last bool) error {
	g, leads, err := l.join(line, last)
	if err != nil {
		return err
	}
	if !leads {
		<-g.done
		return g.err
	}
	runtime.Gosched()
	g.err = ErrAllSinksFailed // what the others get if a sink panics
	defer func() {
		if g.done != nil { // nobody joins any more: flush has let go of g
			close(g.done)
		}
	}()
	g.err = l.flush(g)
	return g.err
}

// join adds a line and returns the group that it belongs to.
func (l *Log) join(line func([]byte) []byte, last bool) (g *group, leads bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock() // also if an entry is nil
	if l.closed {
		return nil, false, ErrClosed
	}
	l.buffer = line(l.buffer)
	l.closed = last
	if l.group == nil {
		l.group = &group{}
		return l.group, true, nil
	}
	if l.group.done == nil {
		l.group.done = make(chan struct{})
	}
	return l.group, false, nil
}

// flush writes what waits, for the group g.
func (l *Log) flush(g *group) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	if l.group != g { // restart has dropped it
		l.mu.Unlock()
		return ErrAllSinksFailed
	}
	lines, last := l.buffer, position{l.chain.id, l.chain.seq - 1}
	l.buffer, l.group = l.spare[:0], nil
	l.mu.Unlock()
	const most = 1 << 20 // a buffer that a burst has grown is not kept
	if l.spare = lines[:0]; cap(lines) > most {
		l.spare = nil
	}
	err := ErrAllSinksFailed
	defer func() { // also if a sink panics
		if err != nil {
			l.restart()
		}
	}()
	if err = l.write(lines); err == nil {
		l.written = last
	}
	return err
}

// write hands lines to every sink; one that takes them is enough.
func (l *Log) write(lines []byte) error {
	if l.unsynced.Load() == 0 { // before the write: one that hangs must show too
		l.unsynced.Store(time.Now().UnixNano())
	}
	taken := false
	for _, sink := range l.sinks {
		err := sink.write(lines)
		if err == nil && l.syncAlways {
			err = sink.sync()
		}
		taken = taken || err == nil
	}
	if !taken {
		return ErrAllSinksFailed
	}
	if l.syncAlways {
		l.unsynced.Store(0)
	}
	return nil
}

// restart begins another chain after no sink has taken some lines: what comes would
// hang on lines that nobody has. Lines that wait already do, so their calls fail too.
func (l *Log) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.group = nil // its leader finds out in flush
	l.chain.renew()
	var after []position
	if l.written.chain != "" {
		after = append(after, l.written)
	}
	l.buffer = l.chain.start(l.buffer[:0], time.Now(), after, causeSinksFailed)
}

// Run syncs every second and writes a checkpoint every ten, until ctx ends; then it
// writes the last line and closes the sinks. Entries appended later are refused.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return l.close()
		case <-tick.C:
		}
		if now := time.Now(); now.Sub(last) >= checkpointEvery {
			last = now
			// A failure is logged by the sinks, and begins another chain.
			_ = l.checkpoint(typeCheckpoint)
		}
		l.sync()
		for _, sink := range l.sinks {
			sink.check()
		}
	}
}

func (l *Log) checkpoint(kind string) error {
	return l.append(func(buffer []byte) []byte { return l.chain.checkpoint(buffer, time.Now(), kind) }, kind == typeEnd)
}

// sync does not hold writing: a slow disk must not hold up calls.
func (l *Log) sync() {
	since := l.unsynced.Swap(0)
	durable := false
	for _, sink := range l.sinks {
		durable = sink.sync() == nil && !sink.writeFails.Load() || durable
	}
	if !durable && since != 0 {
		l.unsynced.Store(since)
	}
}

func (l *Log) close() error {
	err := l.checkpoint(typeEnd)
	l.writing.Lock() // a group that came before the last line may still be writing
	defer l.writing.Unlock()
	for _, sink := range l.sinks {
		err = errors.Join(err, sink.Close())
	}
	if err != nil {
		return fmt.Errorf("audit: close: %w", err)
	}
	return nil
}

// Status is how a [Log] fares, for metrics.
type Status struct {
	// Lag is the age of the oldest entry that is not durable yet.
	Lag time.Duration
	// Failing says of each sink, by name, whether something is wrong with it.
	Failing map[string]bool
}

// Status returns how the log fares. Safe for concurrent use.
func (l *Log) Status() Status {
	status := Status{Failing: make(map[string]bool, len(l.sinks))}
	if since := l.unsynced.Load(); since != 0 {
		status.Lag = time.Since(time.Unix(0, since))
	}
	for _, sink := range l.sinks {
		status.Failing[sink.Name()] = sink.failing()
	}
	return status
}
