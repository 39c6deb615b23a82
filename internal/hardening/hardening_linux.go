package hardening

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoCoreDumps keeps the kernel from writing the memory to a file or handing it to a
// crash reporter, and processes of the same user from reading it. It takes effect for
// all threads.
//
// Both switches are needed: a limit of 0 does not stop core dumps into a pipe
// (core(5)), and a process that is not dumpable could become so by an exec.
func NoCoreDumps() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("set RLIMIT_CORE to 0: %w", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("set PR_SET_DUMPABLE to 0: %w", err))
	}
	return errors.Join(errs...)
}

// LockMemory keeps all memory, present and future, off the swap device. Its error is
// [ErrLimited] or the kernel's; nothing is locked then.
//
// Pages are locked once they are touched (MCL_ONFAULT, Linux 4.4): Go reserves far
// more than it uses, and without that flag memory that the heap gives back stays
// resident.
func LockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	if limit.Cur != unix.RLIM_INFINITY && !mayLockWithoutLimit() {
		return ErrLimited
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	return nil
}

// mayLockWithoutLimit reports whether the process has CAP_IPC_LOCK (capabilities(7)).
func mayLockWithoutLimit() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(os.Getpid())}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false
	}
	return sets[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
