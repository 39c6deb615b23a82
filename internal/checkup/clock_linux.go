package checkup

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// KernelClock asks the kernel whether something keeps this machine's clock right, as NTP
// does. It reports how far off the clock may be at most.
func (s *Sheet) KernelClock() {
	const name = "clock"
	var state unix.Timex
	kept, err := unix.Adjtimex(&state)
	switch most := time.Duration(state.Maxerror) * time.Microsecond; {
	case err != nil:
		s.Skipped(name, "the kernel does not tell: "+err.Error())
	case kept == unix.TIME_ERROR:
		s.Doubtful(name, "run a time service, such as chrony", "the kernel says that nothing keeps the clock right: tokens and certificates may seem expired, or not yet valid")
	default:
		s.Good(name, fmt.Sprintf("kept by a time service, at most %s off", most.Round(time.Millisecond)))
	}
}
