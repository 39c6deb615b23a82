package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// progress prints a rotation as it goes on: a line for each step, and at a terminal a
// last line that is written over. For programs it prints each message.
type progress struct {
	session *session
	out     io.Writer
	// terminal is where out ends, if it is one, and its width; else 0.
	width int

	shown *pb.RotationEvent // the last event that was printed
	stuck bool              // whether that was said
	drawn bool              // whether a line is there to be written over
}

func newProgress(s *session) progress {
	p := progress{session: s, out: s.stdout}
	if file, ok := s.stdout.(*os.File); ok && s.Output == outputText {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil {
			p.width = width
		}
	}
	return p
}

// show prints what is new in a message.
func (p *progress) show(message *pb.WatchRotationResponse) error {
	if p.session.Output != outputText {
		return p.session.showLine(message)
	}
	r := message.GetRotation()
	for _, e := range sinceEvent(r.GetEvents(), p.shown) {
		p.line(eventLine(e))
		p.shown = e
	}
	if r.GetStuck() && !p.stuck {
		p.line(clean("stuck: it does not go on although it should. " + r.GetRemedy()))
	}
	p.stuck = r.GetStuck()
	p.transient(nowLine(time.Now(), r))
	return nil
}

// nowLine says in one line what is going on.
func nowLine(now time.Time, r *pb.Rotation) string {
	line := stateWord(r.GetState())
	if r.GetRequiredTokens() > 0 && r.GetPromoteTime() == nil {
		line += fmt.Sprintf(", %d of %d tokens", r.GetVerifiedTokens(), r.GetRequiredTokens())
	}
	if r.GetAttempts() > 0 {
		line += fmt.Sprintf(", %d failed tries", r.GetAttempts())
	}
	if r.GetReason() != "" {
		line += ", " + r.GetReason()
	}
	if next := r.GetNextTime(); next != nil && next.AsTime().After(now) {
		line += ", goes on in " + about(next.AsTime().Sub(now))
	}
	return line
}

// line prints a line that stays.
func (p *progress) line(text string) {
	p.end()
	fmt.Fprintln(p.out, text)
}

// transient draws the line that is written over; without a terminal there is none.
func (p *progress) transient(text string) {
	if p.width < 2 {
		return
	}
	runes := []rune(clean(text))
	fmt.Fprintf(p.out, "\r\x1b[2K%s", string(runes[:min(len(runes), p.width-1)]))
	p.drawn = true
}

// end takes the line away that is written over.
func (p *progress) end() {
	if p.drawn {
		_, _ = io.WriteString(p.out, "\r\x1b[2K")
		p.drawn = false
	}
}
