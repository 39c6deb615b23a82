//go:build !unix

package audit_test

// children are none: what they do cannot be done here.
var children map[string]func(args []string)
