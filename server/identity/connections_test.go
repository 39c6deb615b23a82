package identity_test

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/server/identity"
)

// from is a listener whose connections claim to come from where the test says.
type from struct {
	*bufconn.Listener
	sources chan net.Addr
}

type claiming struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr implements net.Conn.
func (c claiming) RemoteAddr() net.Addr { return c.remote }

// Accept implements net.Listener.
func (f from) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return claiming{conn, <-f.sources}, nil
}

// bounded is a listener whose connections are counted.
type bounded struct {
	connections *identity.Connections
	inner       from
	accepted    chan net.Conn
}

func newBounded(t *testing.T, connections *identity.Connections) *bounded {
	t.Helper()
	b := &bounded{connections: connections, inner: from{bufconn.Listen(1024), make(chan net.Addr, 1)}, accepted: make(chan net.Conn, 10)}
	listener := connections.Listen(b.inner)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.accepted <- conn
		}
	})
	t.Cleanup(func() { _ = listener.Close(); accepting.Wait() })
	return b
}

// come returns the accepted connection, or nil if it was closed at once.
func (b *bounded) come(t *testing.T, source string) net.Conn {
	t.Helper()
	conn, err := b.inner.DialContext(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	b.inner.sources <- net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source))
	closed := make(chan struct{})
	go func() { _, _ = conn.Read(make([]byte, 1)); close(closed) }()
	select {
	case server := <-b.accepted:
		t.Cleanup(func() { _ = server.Close() })
		return server
	case <-closed:
		return nil
	}
}

// TestWhatIsOneSource: of an IPv6 network one machine has all addresses.
func TestWhatIsOneSource(t *testing.T) {
	tests := []struct {
		name, first, second string
		same                bool
	}{
		{"ports", "10.0.0.1:1", "10.0.0.1:2", true},
		{"addresses", "10.0.0.1:1", "10.0.0.2:1", false},
		{"mapped", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", true},
		{"one network", "[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::2]:1", true},
		{"two networks", "[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBounded(t, &identity.Connections{Max: 9, MaxPerPeer: 1})
			if b.come(t, test.first) == nil {
				t.Fatal("the first was not accepted")
			}
			if got := b.come(t, test.second) == nil; got != test.same {
				t.Errorf("counted as one source: %t, want %t", got, test.same)
			}
		})
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	var mu sync.Mutex
	var refused []identity.Bound
	connections := &identity.Connections{Max: 3, MaxPerPeer: 2, Refused: func(b identity.Bound) {
		mu.Lock()
		defer mu.Unlock()
		refused = append(refused, b)
	}}
	b := newBounded(t, connections)
	come := func(source string) net.Conn { return b.come(t, source) }
	first := come("10.0.0.1:1")
	if first == nil || come("10.0.0.1:2") == nil {
		t.Fatal("two of one address were not accepted")
	}
	if come("10.0.0.1:3") != nil {
		t.Error("a third of one address was accepted")
	}
	if come("10.0.0.2:1") == nil {
		t.Error("one of another address was not accepted")
	}
	if come("10.0.0.3:1") != nil {
		t.Error("a fourth was accepted")
	}
	must(t, first.Close())
	_ = first.Close() // counts once
	if come("10.0.0.1:4") == nil {
		t.Error("one in the place of a closed one was not accepted")
	}
	if come("10.0.0.4:1") != nil {
		t.Error("a fourth was accepted after one was closed twice")
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []identity.Bound{identity.BoundPeer, identity.BoundTotal, identity.BoundTotal}; !slices.Equal(refused, want) {
		t.Errorf("refused for %v, want %v", refused, want)
	}
}
