package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/checkup"
)

// lookMarks is outcome → the word for it in text.
var lookMarks = map[checkup.Outcome]string{
	checkup.Good: markGood, checkup.Doubtful: markLook, checkup.Bad: markBad, checkup.Skipped: markNone,
}

// partNames is part → its heading.
var partNames = map[string]string{
	"context": "You", "way": "The way to the broker", "broker": "The broker", "restore": "After a restore",
}

// draw prints one look.
func (d *doctor) draw(l checkup.Look) {
	if l.Part != d.drew {
		if d.drew != "" {
			d.line("")
		}
		d.line(d.paint(colourBold, partNames[l.Part]))
		d.drew = l.Part
	}
	indent := markWidth + 2
	first := d.mark(lookMarks[l.Outcome]) + l.Name + ": "
	if !d.narrow() {
		first = d.mark(lookMarks[l.Outcome]) + fmt.Sprintf("%-13s  ", l.Name)
		indent = len(uncoloured(first))
	}
	for i, seen := range l.Seen {
		if i > 0 {
			first = strings.Repeat(" ", indent)
		}
		d.hanging(first, indent, seen)
	}
	if l.Mend != "" {
		d.wrapped(strings.Repeat(" ", indent)+"> ", l.Mend)
	}
}

// conclude prints what it comes to, or the document.
func (d *doctor) conclude() error {
	sum := struct {
		Looks    []checkup.Look `json:"looks"`
		Good     int            `json:"ok"`
		Doubtful int            `json:"look"`
		Bad      int            `json:"fail"`
		Skipped  int            `json:"skipped"`
		Restore  map[string]int `json:"restore,omitempty"`
	}{d.Looks(), d.Count(checkup.Good), d.Count(checkup.Doubtful), d.Count(checkup.Bad), d.Count(checkup.Skipped), d.listed}
	if d.session.Output != outputText {
		if err := d.session.write(d.session.stdout, sum); err != nil {
			return err
		}
	} else {
		d.line("")
		if d.listed != nil {
			var kinds []string
			for _, kind := range slices.Sorted(maps.Keys(d.listed)) {
				kinds = append(kinds, fmt.Sprintf("%s %d", kind, d.listed[kind]))
			}
			d.wrapped("", "to go through after a restore: "+strings.Join(kinds, ", "))
		}
		d.line(fmt.Sprintf("%d ok, %d to look at, %d broken, %d not looked at", sum.Good, sum.Doubtful, sum.Bad, sum.Skipped))
	}
	if sum.Bad > 0 {
		return fault("something is broken")
	}
	return nil
}
