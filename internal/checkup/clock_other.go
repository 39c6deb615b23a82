//go:build !linux

package checkup

// KernelClock is known for Linux only.
func (s *Sheet) KernelClock() { s.Skipped("clock", "only Linux tells whether a time service keeps it") }
