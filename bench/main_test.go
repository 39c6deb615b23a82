package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test's own binary be the servers, as the program does.
func TestMain(m *testing.M) {
	if isChild(os.Args) {
		os.Exit(childMain(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}
