//go:build !unix

package main

import (
	"errors"
	"time"
)

// processCPU fails: the benchmark needs getrusage.
func processCPU() (time.Duration, error) {
	return 0, errors.New("the benchmark needs a Unix system, for getrusage")
}
