package gather_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/server/gather"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pipe returns a gathering connection and its peer. Whoever asks for it closes the
// former, which a test may do twice.
func pipe(t testing.TB) (near, far net.Conn) {
	t.Helper()
	inner, far := net.Pipe()
	near = gather.Conn(inner)
	t.Cleanup(func() { _, _ = far.Close(), near.Close() })
	return near, far
}

// below is a connection whose Write is the test's.
type below struct {
	net.Conn
	write  func([]byte) (int, error)
	closed atomic.Bool
}

// Write implements net.Conn.
func (b *below) Write(p []byte) (int, error) { return b.write(p) }

// Close implements net.Conn.
func (b *below) Close() error {
	b.closed.Store(true)
	return nil
}

// TestOrder writes from many goroutines what says whose it is, which one and how long.
func TestOrder(t *testing.T) {
	const writers, each, header = 16, 200, 6
	near, far := pipe(t)
	var writing sync.WaitGroup
	for id := range uint16(writers) {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(id)))
			for number := range uint16(each) {
				size := random.IntN(3000)
				if number%64 == 0 {
					size = gather.MaxWaiting - header // waits for room, in one piece
				}
				message := binary.BigEndian.AppendUint16(nil, id)
				message = binary.BigEndian.AppendUint16(message, number)
				message = binary.BigEndian.AppendUint16(message, uint16(size))
				message = append(message, bytes.Repeat([]byte{byte(id)}, size)...)
				if n, err := near.Write(message); n != len(message) || err != nil {
					t.Errorf("wrote %d of %d bytes, %v", n, len(message), err)
				}
			}
		})
	}
	var next [writers]uint16
	for range writers * each {
		var head [header]byte
		_, err := io.ReadFull(far, head[:])
		must(t, err)
		id, number, size := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint16(head[2:]), binary.BigEndian.Uint16(head[4:])
		if int(id) >= writers || number != next[id] {
			t.Fatalf("got message %d of writer %d", number, id)
		}
		next[id]++
		content := make([]byte, size)
		_, err = io.ReadFull(far, content)
		must(t, err)
		if !bytes.Equal(content, bytes.Repeat([]byte{byte(id)}, int(size))) {
			t.Fatalf("message %d of writer %d is not what was written", number, id)
		}
	}
	writing.Wait()
}

// TestGathers writes a thousand times while one write is under way.
func TestGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		writes, proceed := 0, make(chan struct{})
		near := gather.Conn(&below{write: func(p []byte) (int, error) {
			writes++
			<-proceed
			return got.Write(p)
		}})
		var want strings.Builder
		for n := range 1000 {
			text := strings.Repeat("x", n%50)
			want.WriteString(text)
			_, err := near.Write([]byte(text))
			must(t, err)
			if n == 10 {
				synctest.Wait() // the first is under way
			}
		}
		close(proceed)
		must(t, near.Close())
		if writes != 2 || got.String() != want.String() {
			t.Errorf("%d writes of %d bytes, want 2 of %d", writes, got.Len(), want.Len())
		}
	})
}

// TestBackPressure writes to a peer that does not read, and then does.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(t)
		const size, most = 1000, 2 * gather.MaxWaiting
		var taken atomic.Int64
		ended := make(chan error, 1)
		go func() {
			for range 1000 {
				n, err := near.Write(make([]byte, size))
				taken.Add(int64(n))
				if err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
		synctest.Wait()
		// The write under way may have begun with less than there was room for.
		if n := taken.Load(); n > most || n <= gather.MaxWaiting-size {
			t.Errorf("%d bytes were taken over, want up to %d", n, most)
		}
		n, err := io.CopyN(io.Discard, far, 1000*size)
		must(t, err)
		must(t, <-ended)
		if n != 1000*size {
			t.Errorf("%d bytes arrived", n)
		}
	})
}

// TestError of a write reaches those who wait, later ones, and Close.
func TestError(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name  string
		write func([]byte) (int, error)
		want  string
	}{
		{"nothing written", func([]byte) (int, error) { return 0, broken }, "broken"},
		{"a part written", func([]byte) (int, error) { return 3, broken }, "broken"},
		{"a part written without an error", func([]byte) (int, error) { return 3, nil }, "3 of"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				proceed := make(chan struct{})
				inner := &below{}
				inner.write = func(p []byte) (int, error) {
					<-proceed
					inner.write = func([]byte) (int, error) { t.Error("written to after an error"); return 0, nil }
					return test.write(p)
				}
				near := gather.Conn(inner)
				_, err := near.Write([]byte("first"))
				must(t, err)
				waiting := make(chan error)
				go func() {
					_, err := near.Write(make([]byte, 3*gather.MaxWaiting))
					waiting <- err
				}()
				synctest.Wait()
				close(proceed)
				_, next := near.Write([]byte("next"))
				for who, err := range map[string]error{"waiting": <-waiting, "next": next, "Close": near.Close()} {
					if err == nil || !strings.Contains(err.Error(), test.want) {
						t.Errorf("%s: got %v", who, err)
					}
				}
				if !inner.closed.Load() {
					t.Error("the connection is open")
				}
			})
		})
	}
}

func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := pipe(t)
		must(t, near.SetWriteDeadline(time.Now().Add(time.Minute)))
		begun := time.Now()
		_, err := near.Write(make([]byte, 3*gather.MaxWaiting))
		if took := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || took != time.Minute {
			t.Errorf("waiting: got %v after %v", err, took)
		}
		must(t, near.SetWriteDeadline(time.Time{}))
		_, err = near.Write([]byte("next"))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("next: got %v", err)
		}
	})
}

// TestReadDeadline is that of the connection below.
func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := pipe(t)
		must(t, near.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		_, err := near.Write([]byte("x"))
		must(t, err)
	})
}

func TestSyscallConn(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, listener.Close()) }()
	socket, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	near, _ := pipe(t)
	for name, conn := range map[string]net.Conn{"": gather.Conn(socket), errors.ErrUnsupported.Error(): near} {
		raw, err := conn.(syscall.Conn).SyscallConn()
		if name == "" && (err != nil || raw == nil) || name != "" && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got %v, %v; want error %q", raw, err, name)
		}
		must(t, conn.Close())
	}
}
