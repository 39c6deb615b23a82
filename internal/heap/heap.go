// Package heap lets a small heap be collected less often. With Go's default a process
// that holds 20 MiB collects each 20 MiB that it allocates, which for a warm broker is
// many times a second; memory that nobody misses makes that rare. A heap that is large
// anyway is collected as Go does by default.
package heap

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Room is how many bytes may be allocated between collections, however little lives.
	Room = 128 << 20
	// lookEvery is how often the live heap is looked at, which takes about a microsecond.
	// A heap that grows and is looked at later gets the room of the small one that it was,
	// many times over: a cache that fills within seconds would take thrice its size.
	lookEvery = 250 * time.Millisecond
	// defaultPercent is Go's own; mostPercent bounds what an almost empty heap gets.
	defaultPercent, mostPercent = 100, 800
)

// Run sets the pace of the garbage collector by the live heap until ctx ends, then sets
// it back, and returns nil. It does nothing where GOGC is set: the operator has chosen.
func Run(ctx context.Context) error {
	if _, chosen := os.LookupEnv("GOGC"); chosen {
		return nil
	}
	defer debug.SetGCPercent(defaultPercent)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	last := 0
	for {
		if percent := Percent(live()); percent != last {
			debug.SetGCPercent(percent)
			last = percent
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Percent returns the GOGC that leaves [Room] beside live bytes, but at least Go's
// default, in steps of ten: finer ones would change the pace and save nothing.
func Percent(live uint64) int {
	percent := uint64(mostPercent)
	if live > 0 {
		percent = Room * 100 / live / 10 * 10
	}
	return int(min(max(percent, defaultPercent), mostPercent))
}

// live returns the bytes that the last collection found in use.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
