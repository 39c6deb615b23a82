package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// wire is a connection that makes gRPC calls with next to no work: grpc-go's client
// takes more time for a call than the server that is measured, and on two cores takes
// it from the server. One goroutine reads and writes; what several callers ask for
// while it reads leaves in one write. It is not safe for concurrent use.
type wire struct {
	conn    net.Conn
	in      *bufio.Reader
	out     *bufio.Writer
	framer  *http2.Framer
	headers []byte // of the next call, encoded
	later   []byte // of those after it
	decoder *hpack.Decoder
	status  string // grpc-status of the headers that were decoded last
	nextID  uint32
	// consumed is how many bytes of answers the server was not told yet that we took.
	consumed uint32
	calls    map[uint32]*wireCall
}

// wireCall is a call that waits for its answer.
type wireCall struct {
	caller int
	bytes  int
}

const (
	// wireWindow is how many bytes a server may send ahead, on a connection as on each
	// stream: more than it ever does.
	wireWindow = 1 << 28
	// messageHead is what stands before a gRPC message: compression and length.
	messageHead = 5
)

// dialWire connects to the server at address and calls that method of it.
func dialWire(ctx context.Context, address, method string, settings *tls.Config) (_ *wire, err error) {
	settings = settings.Clone()
	settings.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10), nextID: 1, calls: make(map[uint32]*wireCall)}
	w.framer = http2.NewFramer(w.out, w.in)
	w.framer.SetReuseFrames()
	w.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "grpc-status" {
			w.status = f.Value
		}
	})
	w.headers, w.later = encodeHeaders(method, address)
	_, err = w.out.WriteString(http2.ClientPreface)
	err = errors.Join(err, w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: wireWindow}),
		w.framer.WriteWindowUpdate(0, wireWindow))
	if err != nil {
		return nil, joinClose(err, conn.Close)
	}
	return w, nil
}

// encodeHeaders encodes the headers of the first call of a connection, which the server
// keeps in its table, and of all later ones, which refer to them.
func encodeHeaders(method, authority string) (first, later []byte) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func() []byte {
		block.Reset()
		for _, field := range [][2]string{
			{":method", "POST"},
			{":scheme", "https"},
			{":path", method},
			{":authority", authority},
			{"content-type", "application/grpc"},
			{"user-agent", "tokenbroker-bench"},
			{"te", "trailers"},
		} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // a bytes.Buffer takes all
		}
		return bytes.Clone(block.Bytes())
	}
	return encode(), encode()
}

// loop has callers call one after the other until over says so. request returns what a
// caller asks next, answered is told the size of each answer.
func (w *wire) loop(callers int, over func() bool, request func(caller int) []byte, answered func(bytes int) error) (calls int, err error) {
	for caller := range callers {
		if err := w.ask(&wireCall{caller: caller}, request); err != nil {
			return 0, err
		}
	}
	for len(w.calls) > 0 {
		done, err := w.step()
		if err != nil {
			return calls, err
		}
		if done == nil {
			continue
		}
		calls++
		if err := answered(done.bytes); err != nil {
			return calls, err
		}
		if !over() {
			done.bytes = 0
			if err := w.ask(done, request); err != nil {
				return calls, err
			}
		}
	}
	return calls, w.out.Flush()
}

// ask writes one call.
func (w *wire) ask(call *wireCall, request func(caller int) []byte) error {
	id := w.nextID
	w.nextID += 2
	w.calls[id] = call
	message := request(call.caller)
	data := make([]byte, messageHead, messageHead+len(message))
	binary.BigEndian.PutUint32(data[1:], uint32(len(message)))
	if err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers, EndHeaders: true}); err != nil {
		return err
	}
	w.headers = w.later
	return w.framer.WriteData(id, true, append(data, message...))
}

// step reads one frame and returns the call that it ends; nil if it ends none.
func (w *wire) step() (*wireCall, error) {
	if w.in.Buffered() == 0 {
		if err := w.out.Flush(); err != nil {
			return nil, err
		}
	}
	frame, err := w.framer.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := frame.(type) {
	case *http2.DataFrame:
		return nil, w.data(f)
	case *http2.HeadersFrame:
		return w.head(f)
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return nil, w.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return nil, w.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame: // what is asked for is too little to exhaust one
	default:
		return nil, fmt.Errorf("the server sent %v", frame.Header())
	}
	return nil, nil
}

// data counts a piece of an answer.
func (w *wire) data(f *http2.DataFrame) error {
	call := w.calls[f.StreamID]
	if call == nil {
		return fmt.Errorf("the server sent %v", f.Header())
	}
	call.bytes += len(f.Data())
	if w.consumed += f.Length; w.consumed < wireWindow/2 {
		return nil
	}
	err := w.framer.WriteWindowUpdate(0, w.consumed)
	w.consumed = 0
	return err
}

// head reads headers or trailers, and returns the call if it has ended.
func (w *wire) head(f *http2.HeadersFrame) (*wireCall, error) {
	w.status = ""
	if _, err := w.decoder.Write(f.HeaderBlockFragment()); err != nil {
		return nil, err
	}
	call := w.calls[f.StreamID]
	if call == nil || !f.HeadersEnded() {
		return nil, fmt.Errorf("the server sent %v", f.Header())
	}
	if !f.StreamEnded() {
		return nil, nil
	}
	delete(w.calls, f.StreamID)
	if w.status != "0" {
		return nil, fmt.Errorf("the server answered with status %q", w.status)
	}
	call.bytes -= messageHead
	return call, nil
}

// close closes the connection. How that goes does not matter: a server closes one that
// is idle for long.
func (w *wire) close() { _ = w.conn.Close() }
