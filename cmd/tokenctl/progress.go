package main

import (
	"fmt"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// progress prints a rotation as it goes on: a line for each step, and at a terminal a
// last line that is written over. For programs it prints each message.
type progress struct {
	screen
	session *session

	shown *pb.RotationEvent // the last event that was printed
	stuck bool              // whether that was said
}

func newProgress(s *session) progress { return progress{screen: newScreen(s), session: s} }

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
