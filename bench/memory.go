package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

func currentMemory() (memory, error) {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m := memory{Heap: stats.HeapAlloc, Goroutines: runtime.NumGoroutine()}
	status, err := os.ReadFile("/proc/self/status") // proc_pid_status(5)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*int64{"VmRSS": &m.Resident, "RssFile": &m.Mapped}[name]
		if into == nil {
			continue
		}
		if _, err := fmt.Sscanf(value, "%d kB", into); err != nil {
			return m, fmt.Errorf("/proc/self/status: %s: %w", name, err)
		}
		*into <<= 10
	}
	return m, nil
}

// mebibytes is a size as figures have it.
func mebibytes(size int64) float64 { return float64(size) / (1 << 20) }
