//go:build !linux

package hardening

import "errors"

// NoCoreDumps is an error: only Linux is supported.
func NoCoreDumps() error { return errors.ErrUnsupported }

// LockMemory is an error: only Linux is supported.
func LockMemory() error { return errors.ErrUnsupported }
