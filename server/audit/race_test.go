//go:build race

package audit_test

// raceEnabled makes the slowest tests do less.
const raceEnabled = true
