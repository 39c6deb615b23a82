// Package checkup is a sheet of looks at a set-up, and the looks at files that both
// commands take: certificates, keys, permissions. It reads and changes nothing, and writes
// no content of a file on the sheet but what is public in a certificate.
package checkup

// Outcome is what came of a look.
type Outcome string

// The outcomes.
const (
	// Good is as it should be.
	Good Outcome = "ok"
	// Doubtful works, but somebody should look.
	Doubtful Outcome = "look"
	// Bad is broken.
	Bad Outcome = "fail"
	// Skipped was not looked at; what was seen says why.
	Skipped Outcome = "skipped"
)

// Look is one look at a set-up.
type Look struct {
	// Part is what it belongs to, such as "credentials".
	Part string `json:"part"`
	// Name says what was looked at, in a word or two.
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// Seen is what was seen, without secrets.
	Seen []string `json:"seen,omitempty"`
	// Mend is what mends it; "" where nothing needs to be.
	Mend string `json:"mend,omitempty"`
}

// Sheet is all that was looked at, in order. It belongs to one goroutine.
type Sheet struct {
	// Part is what the next looks belong to.
	Part string
	// Tell, if set, is called with each look as it is done.
	Tell  func(Look)
	looks []Look
}

// Looks returns all looks, in order. The sheet keeps the slice.
func (s *Sheet) Looks() []Look { return s.looks }

// Add puts a look on the sheet.
func (s *Sheet) Add(outcome Outcome, name, mend string, seen ...string) {
	look := Look{s.Part, name, outcome, seen, mend}
	s.looks = append(s.looks, look)
	if s.Tell != nil {
		s.Tell(look)
	}
}

// Good notes what is as it should be.
func (s *Sheet) Good(name string, seen ...string) { s.Add(Good, name, "", seen...) }

// Doubtful notes what works and should be looked at.
func (s *Sheet) Doubtful(name, mend string, seen ...string) { s.Add(Doubtful, name, mend, seen...) }

// Bad notes what is broken.
func (s *Sheet) Bad(name, mend string, seen ...string) { s.Add(Bad, name, mend, seen...) }

// Skipped notes what was not looked at, and why.
func (s *Sheet) Skipped(name, why string) { s.Add(Skipped, name, "", why) }

// Count returns how many looks had an outcome.
func (s *Sheet) Count(outcome Outcome) (n int) {
	for _, l := range s.looks {
		if l.Outcome == outcome {
			n++
		}
	}
	return n
}
