package embedded_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/tokenbroker/embedded"
)

func BenchmarkRead(b *testing.B) {
	s := open(b, newConfig(b))
	for n := range 1000 {
		if _, err := s.Write(b.Context(), fmt.Sprintf("clients/00/c%d", n), sized(1000), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Read(b.Context(), fmt.Sprintf("clients/00/c%d", n%1000)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAbsent(b *testing.B) {
	s := open(b, newConfig(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Read(b.Context(), "clients/00/absent"); err == nil {
			b.Fatal("found")
		}
	}
}

// BenchmarkWrite has one writer: what a caller waits for is one fsync.
func BenchmarkWrite(b *testing.B) {
	s := open(b, newConfig(b))
	data := sized(1000)
	b.ReportAllocs()
	version := uint64(0)
	for b.Loop() {
		var err error
		if version, err = s.Write(b.Context(), "clients/00/a", data, version); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteConcurrent has 32 writers for each CPU, who share their fsyncs.
func BenchmarkWriteConcurrent(b *testing.B) {
	s := open(b, newConfig(b))
	data := sized(1000)
	var writers atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := fmt.Sprint("clients/00/w", writers.Add(1))
		version := uint64(0)
		for pb.Next() {
			var err error
			if version, err = s.Write(b.Context(), key, data, version); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkOpen shows what the inspection costs for 10,000 records of 1 KB.
func BenchmarkOpen(b *testing.B) {
	config := newConfig(b)
	s, err := embedded.Open(config)
	if err != nil {
		b.Fatal(err)
	}
	var wait sync.WaitGroup
	for worker := range 100 {
		wait.Go(func() {
			for n := range 100 {
				if _, err := s.Write(b.Context(), fmt.Sprintf("clients/%02d/c%d", worker, n), sized(1000), 0); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := embedded.Open(config)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(readFile(b, config.File))))
}
