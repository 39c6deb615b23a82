//go:build race

package server_test

// raced says that the race detector slows everything down.
const raced = true
