package gather_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/server/gather"
)

// TestCloseSends what waits, to a peer that takes a while.
func TestCloseSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(t)
		want := bytes.Repeat([]byte("0123456789"), gather.MaxWaiting/10)
		_, err := near.Write(want)
		must(t, err)
		closed := make(chan error)
		go func() { closed <- near.Close() }()
		time.Sleep(gather.Grace / 2)
		got, err := io.ReadAll(far)
		must(t, err)
		must(t, <-closed)
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: got %v", err)
		}
		if err := near.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("close again: got %v", err)
		}
	})
}

// TestCloseOfADeadPeer takes the grace, less what it was dead before.
func TestCloseOfADeadPeer(t *testing.T) {
	tests := []struct {
		name       string
		dead, want time.Duration
	}{
		{"only now", 0, gather.Grace},
		{"for a while", gather.Grace / 4, gather.Grace * 3 / 4},
		{"for long", time.Hour, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, _ := pipe(t)
				waiting := make(chan error)
				go func() {
					_, err := near.Write(make([]byte, 3*gather.MaxWaiting))
					waiting <- err
				}()
				synctest.Wait()
				time.Sleep(test.dead)
				begun := time.Now()
				closed := make(chan error)
				go func() { closed <- near.Close() }()
				if err := <-waiting; !errors.Is(err, net.ErrClosed) {
					t.Errorf("write: got %v", err)
				}
				if err := <-closed; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("close: got %v", err)
				}
				if took := time.Since(begun); took != test.want {
					t.Errorf("took %v, want %v", took, test.want)
				}
			})
		})
	}
}

// TestCloseOfASlowPeer that goes on taking: each write has the grace, all have it too.
func TestCloseOfASlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pipe(t)
		_, err := near.Write([]byte("first"))
		must(t, err)
		synctest.Wait() // is under way
		_, err = near.Write([]byte("second"))
		must(t, err)
		time.Sleep(gather.Grace * 3 / 4)
		closed := make(chan error)
		go func() { closed <- near.Close() }()
		var got []byte
		for _, size := range []int{5, 6} {
			time.Sleep(gather.Grace / 5)
			part := make([]byte, size)
			_, err := io.ReadFull(far, part)
			must(t, err)
			got = append(got, part...)
		}
		must(t, <-closed)
		if string(got) != "firstsecond" {
			t.Errorf("got %q", got)
		}
	})
}

func TestCloseWithoutAWrite(t *testing.T) {
	near, far := pipe(t)
	must(t, near.Close())
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

// TestAll at once: writes, reads and Close do not wait for each other for ever.
func TestAll(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			near, far := pipe(t)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for {
						if _, err := near.Write(make([]byte, 20_000)); err != nil {
							return
						}
					}
				})
			}
			all.Go(func() { _, _ = io.Copy(io.Discard, near) })
			all.Go(func() { _, _ = io.CopyN(far, endless{}, 100_000) })
			_, err := io.CopyN(io.Discard, far, 300_000)
			must(t, err)
			synctest.Wait() // the writers have filled it again
			if err := near.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("close: got %v", err) // the peer reads no more
			}
			all.Wait()
		})
	}
}

// endless is read for ever.
type endless struct{}

// Read implements io.Reader.
func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestTLS says goodbye after the last byte, and to a dead peer not at all.
func TestTLS(t *testing.T) {
	authority, err := devpki.New("authority")
	must(t, err)
	certificate, key, err := authority.Server("localhost")
	must(t, err)
	pair, err := tls.X509KeyPair(certificate, key)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate())
	connect := func(t *testing.T) (near net.Conn, far *tls.Conn) {
		inner, outer := net.Pipe()
		server := tls.Server(inner, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}})
		far = tls.Client(outer, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "localhost"})
		shaken := make(chan error, 1)
		go func() { shaken <- server.HandshakeContext(t.Context()) }()
		must(t, far.HandshakeContext(t.Context()))
		// A ticket follows the handshake; a pipe holds nothing, so it must be read.
		ready := make(chan struct{})
		go func() { _, _ = far.Read(nil); close(ready) }()
		must(t, <-shaken)
		<-ready
		near = gather.Conn(server)
		t.Cleanup(func() { _, _ = outer.Close(), near.Close() })
		return near, far
	}
	t.Run("goodbye", func(t *testing.T) {
		near, far := connect(t)
		want := bytes.Repeat([]byte("token"), 10_000)
		_, err := near.Write(want)
		must(t, err)
		closed := make(chan error, 1)
		go func() { closed <- near.Close() }()
		got, err := io.ReadAll(far) // an end without goodbye is an error
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Run("dead peer", func(t *testing.T) {
		near, _ := connect(t)
		_, err := near.Write(make([]byte, 50_000))
		must(t, err)
		begun := time.Now()
		if err := near.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// tls.Conn alone would wait five seconds to say goodbye.
		if took := time.Since(begun); took > 4*gather.Grace {
			t.Errorf("took %v", took)
		}
	})
}

// FuzzAgainstAPipe does what the script says to a gathering connection: the peer gets
// what a plain pipe would have brought, and after a Close that held, all of it.
func FuzzAgainstAPipe(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 4, 5, 128, 9}, uint16(100), false)
	f.Add([]byte{255, 255, 254, 253, 127, 126}, uint16(4000), true)
	f.Add([]byte{}, uint16(0), false)
	f.Fuzz(func(t *testing.T, script []byte, chunk uint16, deaf bool) {
		script = script[:min(len(script), 64)]
		synctest.Test(t, func(t *testing.T) {
			near, far := pipe(t)
			received := make(chan []byte)
			go func() {
				var got []byte
				part := make([]byte, int(chunk)+1)
				for stop := len(script) * 100; !deaf || len(got) < stop; {
					n, err := far.Read(part)
					got = append(got, part[:n]...)
					if err != nil {
						break
					}
				}
				_ = far.Close()
				received <- got
			}()
			var want []byte
			var failed error
			for i, size := range script {
				message := bytes.Repeat([]byte{byte(i)}, int(size)*97)
				n, err := near.Write(message)
				want = append(want, message[:n]...)
				if failed = err; err != nil {
					break
				}
				if size%5 == 0 {
					synctest.Wait()
				}
			}
			closeErr := near.Close()
			got := <-received
			if !bytes.HasPrefix(want, got) {
				t.Fatalf("got %d bytes that are not the beginning of %d", len(got), len(want))
			}
			if failed == nil && closeErr == nil && len(got) != len(want) {
				t.Errorf("got %d bytes of %d, without an error", len(got), len(want))
			}
			if !deaf && (failed != nil || closeErr != nil) {
				t.Errorf("got %v, %v", failed, closeErr)
			}
		})
	})
}
