// Package hardening keeps the memory of a process to itself: out of core dumps, away
// from debuggers of the same user, and off the swap device.
//
// It changes the whole process, so only commands call it. It does not protect
// against whoever may read the process's memory: root, or a debugger that was
// attached before.
package hardening

import "errors"

// ErrLimited is why memory was not locked: the process has a limit on locked memory
// and no CAP_IPC_LOCK. Locking would work at first, and Go's runtime would end the
// process later, when a piece of its heap does not fit under the limit.
var ErrLimited = errors.New("RLIMIT_MEMLOCK is not unlimited and CAP_IPC_LOCK is missing")
