//go:build !race

package broker_test

// raced says that the race detector slows everything down.
const raced = false
