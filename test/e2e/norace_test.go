//go:build !race

package e2e_test

// raceDetector: see race_test.go.
const raceDetector = false
