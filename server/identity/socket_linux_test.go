package identity_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/identity"
)

// TestUserTimeout: the kernel ends connections of peers that do not acknowledge.
func TestUserTimeout(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	listener := (&identity.Connections{Max: 1, MaxPerPeer: 1, UserTimeout: 20 * time.Second}).Listen(inner)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	defer client.Close()
	conn, err := listener.Accept()
	must(t, err)
	defer conn.Close()
	socket, ok := conn.(syscall.Conn)
	if !ok {
		t.Fatal("the socket cannot be reached, by gRPC neither")
	}
	raw, err := socket.SyscallConn()
	must(t, err)
	const tcpUserTimeout = 18 // linux/tcp.h
	must(t, raw.Control(func(fd uintptr) {
		got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
		if err != nil || got != 20_000 {
			t.Errorf("got %d ms, %v; want 20000", got, err)
		}
	}))
}
