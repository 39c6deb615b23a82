package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// roundTrips is a proxy for bytes that times how long who connects waits for answers:
// from the first byte of what was sent until the first ones of what came back, for each
// turn. It holds up each turn by delay, as a network does. Safe for concurrent use.
type roundTrips struct {
	listener net.Listener
	target   string
	delay    time.Duration
	serving  sync.WaitGroup

	mu     sync.Mutex
	waited time.Duration     // guarded by mu
	turns  int               // guarded by mu
	conns  map[net.Conn]bool // guarded by mu
}

// newRoundTrips listens on loopback and passes on to target until close.
func newRoundTrips(target string, delay time.Duration) (*roundTrips, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &roundTrips{listener: listener, target: target, delay: delay, conns: map[net.Conn]bool{}}
	r.serving.Go(r.serve)
	return r, nil
}

func (r *roundTrips) serve() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		out, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = true, true
		r.mu.Unlock()
		t := &turn{all: r}
		r.serving.Go(func() { r.pass(out, in, t.asked) })
		r.serving.Go(func() { r.pass(in, out, t.answered) })
	}
}

// pass copies until either side ends, and has each piece seen: before it is passed on
// where it asks, after it where it answers.
func (r *roundTrips) pass(to, from net.Conn, seen func(n int, pass func())) {
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			seen(n, func() { _, _ = to.Write(piece[:n]) }) // an error shows at the next Read
		}
		if err != nil {
			if half, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = half.CloseWrite()
				return
			}
			_ = to.Close()
			return
		}
	}
}

// turn is whose it is on one connection.
type turn struct {
	all     *roundTrips
	mu      sync.Mutex
	waiting bool      // guarded by mu
	since   time.Time // guarded by mu
}

// farewell is at most as long as what is sent without waiting for an answer: TLS's
// close_notify.
const farewell = 40

func (t *turn) asked(n int, pass func()) {
	t.mu.Lock()
	first := !t.waiting && n > farewell
	if first {
		t.waiting, t.since = true, time.Now()
	}
	t.mu.Unlock()
	if first {
		time.Sleep(t.all.delay)
	}
	pass()
}

func (t *turn) answered(n int, pass func()) {
	pass()
	if n <= farewell {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	if t.waiting {
		t.all.turns++
		t.all.waited += now.Sub(t.since)
	}
	t.waiting = false
}

// take returns what was waited, in how many turns, since it was called last.
func (r *roundTrips) take() (waited time.Duration, turns int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waited, turns = r.waited, r.turns
	r.waited, r.turns = 0, 0
	return waited, turns
}

func (r *roundTrips) close() error {
	err := r.listener.Close()
	r.mu.Lock()
	for conn := range r.conns {
		_ = conn.Close()
	}
	r.mu.Unlock()
	r.serving.Wait()
	return err
}
