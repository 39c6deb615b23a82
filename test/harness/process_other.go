//go:build !linux

package harness

import "os/exec"

// dieWithParent does nothing: only Linux ties a program's life to its parent's. Elsewhere a server outlives a test process that is
// killed, not one that ends.
func dieWithParent(*exec.Cmd) {}
