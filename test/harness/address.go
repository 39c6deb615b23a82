package harness

import (
	"net"
	"testing"
)

// UnusedAddress returns an address of loopback, as host:port, on which nobody listens and
// which the kernel gives to nobody who asks for any port, until the test ends. A program
// that is told the address and sets SO_REUSEADDR, as Go's and Node's do, can listen there.
func UnusedAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	// A connection at the port keeps it: not the client's own port, where a connection
	// without a listener could meet itself.
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return listener.Addr().String()
}
