package identity

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Connections bounds the connections that are open at once, over all listeners that
// [Connections.Listen] made. Each costs memory before anybody knows whose it is: what
// it may hold is bounded by gRPC, how many there are is bounded here. It is safe for
// concurrent use.
type Connections struct {
	// Max bounds all connections, MaxPerPeer those of one source: an IPv4 address, an
	// IPv6 network of 64 bits, which is what one machine has, or a user id.
	Max, MaxPerPeer int
	// UserTimeout is how long a TCP peer may leave data unacknowledged, or its window
	// shut, before the connection is cut; 0 leaves it to the system. Linux only. It is
	// set here because gRPC finds no TCP connection behind one of ours.
	UserTimeout time.Duration
	// Refused, if not nil, is told of each connection that was closed at accept. It
	// must not block.
	Refused func(Bound)

	mu    sync.Mutex // guards the rest
	open  int
	peers map[string]int // :: source → its open connections
}

// Bound is one of the bounds of [Connections]. The set is closed.
type Bound string

// The bounds.
const (
	// BoundTotal is that of all connections.
	BoundTotal Bound = "total"
	// BoundPeer is that of one source.
	BoundPeer Bound = "peer"
)

// Bounds lists all bounds.
func Bounds() []Bound { return []Bound{BoundTotal, BoundPeer} }

// Listen returns a listener that counts what it accepts from listener, and closes at
// once what is too much.
func (c *Connections) Listen(listener net.Listener) net.Listener {
	return &countingListener{listener, c}
}

type countingListener struct {
	net.Listener
	connections *Connections
}

// Accept implements net.Listener.
func (l *countingListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(conn)
		if bound := l.connections.enter(source); bound != "" {
			if l.connections.Refused != nil { // before the peer can know
				l.connections.Refused(bound)
			}
			_ = conn.Close() // nothing was sent yet
			continue
		}
		if l.connections.UserTimeout > 0 {
			// Without it keepalive still ends the connection, only later.
			_ = setUserTimeout(conn, l.connections.UserTimeout)
		}
		return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.connections.leave(source) })}, nil
	}
}

// enter counts a connection in, or says which bound it would exceed.
func (c *Connections) enter(source string) Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.open >= c.Max:
		return BoundTotal
	case c.peers[source] >= c.MaxPerPeer:
		return BoundPeer
	}
	if c.peers == nil {
		c.peers = make(map[string]int)
	}
	c.open++
	c.peers[source]++
	return ""
}

func (c *Connections) leave(source string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.peers[source]--; c.peers[source] <= 0 {
		delete(c.peers, source)
	}
}

// counted is a connection that counts itself out when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn, for those who ask the socket about itself.
func (c *counted) SyscallConn() (syscall.RawConn, error) {
	if socket, ok := c.Conn.(syscall.Conn); ok {
		return socket.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// sourceOf returns what connections are counted by.
func sourceOf(conn net.Conn) string {
	if c, ok := conn.(*net.UnixConn); ok {
		uid, err := peerUID(c)
		if err != nil {
			return "unix" // the handshake will refuse it
		}
		return fmt.Sprintf("unix:%d", uid)
	}
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return networkOf(remote.AddrPort().Addr())
	}
	return conn.RemoteAddr().String()
}

func networkOf(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	network, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return network.String()
}

// errNotTCP says that a connection has no TCP socket.
var errNotTCP = errors.New("not a TCP connection")
