//go:build race

package e2e_test

// raceDetector says that the tests were built with the race detector; the server
// is then built with it too: its packages are in the build cache already, and a
// race in it fails the test that saw it.
const raceDetector = true
