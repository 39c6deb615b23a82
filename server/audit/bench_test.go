//go:build unix

package audit_test

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// Benchmark compares an entry with a line of slog and with writing bytes of the same
// size, each to a file, from one goroutine and from 64.
func Benchmark(b *testing.B) {
	e := entry(1)
	e.TraceID, e.Identity, e.ServedFrom = "4bf92f3577b34da6a3ce929d0e0e4736", "spiffe://example.org/crm", "memory"
	e.Time = time.Now()
	line := append(audit.AppendFields(e), bytes.Repeat([]byte{'x'}, 80)...)
	cases := []struct {
		name string
		make func(b *testing.B, file *os.File) func()
	}{
		{"audit", func(b *testing.B, file *os.File) func() {
			l := run(b, audit.Config{Key: newKey(b), Sinks: []audit.Sink{openFile(b, file.Name(), 0)}})
			return func() {
				if err := l.Append(e); err != nil {
					b.Error(err)
				}
			}
		}},
		{"audit and stdout", func(b *testing.B, file *os.File) func() {
			sinks := []audit.Sink{openFile(b, file.Name(), 0), audit.NewStream("stdout", io.Discard)}
			l := run(b, audit.Config{Key: newKey(b), Sinks: sinks})
			return func() {
				if err := l.Append(e); err != nil {
					b.Error(err)
				}
			}
		}},
		{"slog", func(_ *testing.B, file *os.File) func() {
			log := slog.New(slog.NewJSONHandler(file, nil))
			return func() {
				log.LogAttrs(b.Context(), slog.LevelInfo, "audit", slog.String("request_id", e.RequestID), slog.String("trace_id", e.TraceID),
					slog.String("caller", e.Caller), slog.String("identity", e.Identity), slog.String("method", e.Method), slog.String("client", e.Client),
					slog.Any("scopes", e.Scopes), slog.String("outcome", string(e.Outcome)), slog.String("token_id", e.TokenID),
					slog.Int64("secret_version", e.SecretVersion), slog.String("served_from", e.ServedFrom))
			}
		}},
		{"write", func(b *testing.B, file *os.File) func() {
			return func() {
				if _, err := file.Write(line); err != nil {
					b.Error(err)
				}
			}
		}},
	}
	for _, c := range cases {
		start := func(b *testing.B) func() {
			file, err := os.OpenFile(filepath.Join(b.TempDir(), "audit.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = file.Close() })
			b.ReportAllocs()
			return c.make(b, file)
		}
		b.Run(c.name+"/1", func(b *testing.B) {
			f := start(b)
			defer reportCPU(b)()
			for b.Loop() {
				f()
			}
		})
		b.Run(c.name+"/64", func(b *testing.B) {
			f := start(b)
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.ResetTimer()
			defer reportCPU(b)()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f()
				}
			})
		})
	}
}

// reportCPU returns a function that reports the CPU time of an operation, which other
// processes on the machine disturb less than its duration.
func reportCPU(b *testing.B) func() {
	cpu := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	before := cpu()
	return func() { b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkAppendOnly leaves the kernel out.
func BenchmarkAppendOnly(b *testing.B) {
	l := run(b, audit.Config{Key: newKey(b), Sinks: []audit.Sink{&discard{}}})
	e := entry(1)
	e.Time = time.Now()
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		if err := l.Append(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	key, sink := newKey(b), &memory{}
	l := run(b, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	for n := range 10_000 {
		appendEntry(b, l, n)
	}
	must(l.stop())
	text := sink.text()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		report, err := audit.Verify(audit.VerifyConfig{Keys: []audit.Key{key}}, audit.Source{Name: "x", Reader: strings.NewReader(text)})
		if err != nil || !report.Sound() {
			b.Fatal(err, report)
		}
	}
}
