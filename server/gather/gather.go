// Package gather makes few large writes of many small ones. gRPC flushes as soon as a
// kilobyte waits, which over TLS costs a record and a system call for each answer; here
// what all goroutines that are ready have to say leaves at once.
//
// It guards this invariant: what the peer receives is a prefix of what was written, in
// order. It does not read, and it knows neither TLS nor HTTP/2.
package gather

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// MaxWaiting is how many bytes may wait for a write that is under way; it has at most
	// as many. Beyond it Write blocks.
	MaxWaiting = 64 << 10
	// Grace is how long a peer may take over what was written last, once Close was called.
	Grace = time.Second
)

// Conn returns a connection that writes to conn from a goroutine of its own, and
// otherwise is conn. The goroutine begins with the first Write and ends with Close, or
// with the first error of conn's Write.
//
// A Write that returned nil was taken over, not sent: if sending fails, later Writes and
// Close return why. That holds for a write deadline too, after which nothing more can be
// written, as with a [crypto/tls.Conn].
//
// Close first sends what waits, unless the peer has taken longer than [Grace] over one
// write; its error then is an [os.ErrDeadlineExceeded]. All methods are safe for
// concurrent use, and each Write stays in one piece.
func Conn(conn net.Conn) net.Conn {
	g := &gathering{Conn: conn}
	g.some.L, g.room.L = &g.mu, &g.mu
	return g
}

// buffers are those that nobody writes from. An idle connection has none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// giveBack wipes a buffer, which may hold tokens, for the next one.
func giveBack(buffer *[]byte) {
	clear(*buffer)
	*buffer = (*buffer)[:0]
	buffers.Put(buffer)
}

type gathering struct {
	net.Conn
	mu   sync.Mutex // guards the rest
	some sync.Cond  // there are bytes waiting, or the connection is closing
	room sync.Cond  // there is room again, the turn of a writer is over, or nothing may be written any more

	waiting *[]byte // taken from buffers by Write, given back by send; nil without bytes
	// turn is true while a Write is under way, which may wait for room.
	turn    bool
	closing bool
	err     error         // why nothing can be written any more
	ended   chan struct{} // closed when the goroutine has ended; nil before it began
	since   time.Time     // when the write under way began; zero without one
}

// Write implements net.Conn. It blocks while there is no room.
func (g *gathering) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.turn && g.refusal() == nil {
		g.room.Wait()
	}
	if err := g.refusal(); err != nil {
		return 0, err
	}
	g.turn = true
	defer func() {
		g.turn = false
		g.room.Broadcast()
	}()
	written := 0
	for written < len(b) {
		for g.waiting != nil && len(*g.waiting) >= MaxWaiting && g.refusal() == nil {
			g.room.Wait()
		}
		if err := g.refusal(); err != nil {
			return written, err
		}
		written += g.take(b[written:])
	}
	return written, nil
}

// take puts as much of b as there is room for with what waits. Its caller holds mu.
func (g *gathering) take(b []byte) int {
	if g.waiting == nil {
		g.waiting = buffers.Get().(*[]byte)
		g.some.Signal()
	}
	b = b[:min(len(b), MaxWaiting-len(*g.waiting))]
	*g.waiting = append(*g.waiting, b...)
	if g.ended == nil {
		g.ended = make(chan struct{})
		go g.send(g.ended)
	}
	return len(b)
}

// refusal returns why nothing may be written. Its caller holds mu.
func (g *gathering) refusal() error {
	if g.closing {
		return net.ErrClosed
	}
	return g.err
}

// send writes what waits until the connection is closing or broken.
func (g *gathering) send(ended chan<- struct{}) {
	defer close(ended)
	for {
		batch := g.next()
		if batch == nil {
			return
		}
		n, err := g.Conn.Write(*batch)
		if err == nil && n < len(*batch) {
			err = fmt.Errorf("gather: %d of %d bytes written", n, len(*batch))
		}
		giveBack(batch)
		g.mu.Lock()
		g.since = time.Time{}
		if err != nil {
			g.fail(err)
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// next waits until there is something to write, and returns it; nil if nothing will come.
func (g *gathering) next() *[]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.waiting == nil && !g.closing {
		g.some.Wait()
	}
	if !g.closing {
		g.mu.Unlock()
		// Who is ready now has his turn before this goroutine has it again.
		runtime.Gosched()
		g.mu.Lock()
	}
	batch := g.waiting
	g.waiting = nil
	if batch != nil {
		g.since = time.Now()
		g.room.Broadcast()
	}
	return batch
}

// fail lets nothing be written any more. Its caller holds mu.
func (g *gathering) fail(err error) {
	g.err = err
	if g.waiting != nil {
		giveBack(g.waiting)
		g.waiting = nil
	}
	g.room.Broadcast()
}

// Close implements net.Conn. It takes at most [Grace], beyond what the Close of the
// connection below takes.
func (g *gathering) Close() error {
	g.mu.Lock()
	if g.closing {
		g.mu.Unlock()
		return net.ErrClosed
	}
	g.closing = true
	g.some.Signal()
	g.room.Broadcast()
	ended := g.ended
	g.mu.Unlock()
	if ended == nil {
		return g.Conn.Close()
	}
	late := !g.wait(ended)
	// A write under way ends with it, and tls.Conn then does not wait to say goodbye.
	closeErr := g.Conn.Close()
	<-ended
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case late:
		return errors.Join(fmt.Errorf("gather: the peer takes nothing: %w", os.ErrDeadlineExceeded), closeErr)
	case g.err != nil:
		return errors.Join(g.err, closeErr)
	}
	return closeErr
}

// wait reports whether the goroutine ended within the grace. It counts from when the
// write under way began, so that a peer long gone is cut at once: gRPC closes the
// connections of a server that stops one after the other.
func (g *gathering) wait(ended <-chan struct{}) bool {
	last := time.Now().Add(Grace)
	for {
		until := last
		g.mu.Lock()
		if began := g.since; !began.IsZero() && began.Add(Grace).Before(last) {
			until = began.Add(Grace)
		}
		g.mu.Unlock()
		left := time.Until(until)
		if left <= 0 {
			return false
		}
		timer := time.NewTimer(left)
		select {
		case <-ended:
			timer.Stop()
			return true
		case <-timer.C: // another write may have begun meanwhile
		}
	}
}

// SyscallConn implements syscall.Conn, for those who ask the socket about itself.
func (g *gathering) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := g.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
