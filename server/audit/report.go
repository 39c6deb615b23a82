package audit

import (
	"fmt"
	"io"
	"strings"
)

// Ending is how a chain ends.
type Ending string

// The endings.
const (
	// Closed: its last line says that none follows.
	Closed Ending = "closed"
	// Running: it has no such line, and its newest is of the last half minute.
	Running Ending = "still running"
	// SinksFailed: no sink took entries any more. The process went on in another
	// chain, which says so.
	SinksFailed Ending = "ended because no sink took its entries"
	// Broken: it has no such line, and its newest is old: the process was killed, or
	// the tail was cut off.
	Broken Ending = "killed or cut off"
)

// Finding is one thing that is wrong with audit files.
type Finding struct {
	// Where is file:line, or the chain where no line is to blame.
	Where string `json:"where"`
	// Problem says what is wrong.
	Problem string `json:"problem"`
}

// String returns both on one line.
func (f Finding) String() string { return f.Where + ": " + f.Problem }

// ChainReport is what was found of one chain: what one process wrote, unless its
// sinks failed meanwhile.
type ChainReport struct {
	ID string `json:"id"`
	// First and Last are the numbers of its first and last line that were read.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Begin and End are the times of these lines.
	Begin string `json:"begin"`
	End   string `json:"end"`
	// Entries counts decisions: not starts and checkpoints.
	Entries uint64 `json:"entries"`
	Ending  Ending `json:"ending"`
	// After are the lines that it follows, as chain/number.
	After []string `json:"after"`
	// Checkpoint is the time of the last checkpoint; "" if there is none.
	Checkpoint string `json:"checkpoint"`
	// Unproven counts the lines behind it, which only the key can prove, and of whose
	// number nothing does; and those before the first one, where lines before them are
	// missing.
	Unproven uint64 `json:"unproven"`
}

// Report is what [Verify] found.
type Report struct {
	// Chains are in the order of their first lines' times.
	Chains []ChainReport `json:"chains"`
	// Findings are what is wrong. More says how many more there were.
	Findings []Finding `json:"findings"`
	More     int       `json:"more"`
	// Notes are what an operator should know and what proves nothing.
	Notes []Finding `json:"notes"`
}

// Sound reports whether nothing is wrong: every line from the first to the last of
// every chain is there, once, in order and as it was written, and every chain's
// beginning and end is accounted for.
func (r Report) Sound() bool { return len(r.Findings) == 0 }

// Entries counts the decisions in all chains.
func (r Report) Entries() (n uint64) {
	for _, c := range r.Chains {
		n += c.Entries
	}
	return n
}

// Write writes the report as text, the verdict last.
func (r Report) Write(w io.Writer) error {
	_, err := io.WriteString(w, r.String())
	return err
}

// String returns the report as text, the verdict last.
func (r Report) String() string {
	var text strings.Builder
	for _, c := range r.Chains {
		fmt.Fprintf(&text, "chain %s: lines %d to %d, %s to %s, %s", c.ID, c.First, c.Last, c.Begin, c.End, c.Ending)
		if len(c.After) > 0 {
			fmt.Fprintf(&text, ", after %s", strings.Join(c.After, " and "))
		}
		if c.Unproven > 0 {
			fmt.Fprintf(&text, "; not covered by a checkpoint: %s", count(c.Unproven, "line"))
		}
		text.WriteByte('\n')
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&text, "note: %s\n", note)
	}
	for _, finding := range r.Findings {
		fmt.Fprintf(&text, "WRONG: %s\n", finding)
	}
	if r.More > 0 {
		fmt.Fprintf(&text, "WRONG: %d more\n", r.More)
	}
	verdict := "SOUND"
	if !r.Sound() {
		verdict = "NOT SOUND"
	}
	fmt.Fprintf(&text, "%s: %s in %s, %s wrong\n", verdict, count(r.Entries(), "entry"), count(uint64(len(r.Chains)), "chain"),
		count(uint64(len(r.Findings)+r.More), "thing"))
	return text.String()
}

// count returns n and what is counted, in the plural where it belongs.
func count(n uint64, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "y"):
		what = strings.TrimSuffix(what, "y") + "ies"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
