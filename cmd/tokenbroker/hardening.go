package main

import (
	"fmt"
	"log/slog"

	"github.com/tokenbroker/tokenbroker/internal/hardening"
)

// processConfig says how the process guards its memory.
type processConfig struct {
	// LockMemory is auto, required or off.
	LockMemory string `yaml:"lock_memory"`
}

// What can be said of locking memory.
const (
	lockIfAllowed = "auto"
	lockRequired  = "required"
	lockOff       = "off"
)

func (c processConfig) validate(add func(key, format string, args ...any)) {
	switch c.LockMemory {
	case lockIfAllowed, lockRequired, lockOff:
	default:
		add("process.lock_memory", "is %q; it must be auto, required or off", c.LockMemory)
	}
}

// harden guards the memory of this process, before a secret is read. Its error means
// that memory cannot be locked although that is required.
func (c processConfig) harden(log *slog.Logger) error {
	if err := hardening.NoCoreDumps(); err != nil {
		log.Warn("core dumps are not turned off", "cause", err)
	}
	if c.LockMemory == lockOff {
		return nil
	}
	err := hardening.LockMemory()
	if err != nil && c.LockMemory == lockRequired {
		return fmt.Errorf("process.lock_memory is required: %w", err)
	}
	if err != nil {
		log.Info("memory is not locked and may be swapped out", "cause", err)
	}
	return nil
}
