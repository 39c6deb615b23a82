package gather_test

import (
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/tokenbroker/tokenbroker/server/gather"
)

// BenchmarkIdle reports what a connection holds that has written and is idle.
func BenchmarkIdle(b *testing.B) {
	const count = 2000
	held := func() uint64 {
		runtime.GC()
		runtime.GC() // empties pools
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc + stats.StackInuse
	}
	for b.Loop() {
		conns := make([]net.Conn, 0, count)
		pipes := make([]net.Conn, 0, count)
		for range count {
			inner, far := net.Pipe()
			conns, pipes = append(conns, inner), append(pipes, far)
		}
		before := held()
		for i, inner := range conns {
			conns[i] = gather.Conn(inner)
			if _, err := conns[i].Write(make([]byte, 1000)); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(pipes[i], make([]byte, 1000)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(held()-before)/count, "bytes/connection")
		for _, conn := range conns {
			if err := conn.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
