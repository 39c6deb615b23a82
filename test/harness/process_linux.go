package harness

import (
	"os/exec"
	"syscall"
)

// dieWithParent asks the kernel to kill the program when the thread that starts it ends.
func dieWithParent(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
