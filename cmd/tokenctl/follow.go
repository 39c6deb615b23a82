package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Pauses before a watch that broke is taken up again.
const (
	firstPause = 500 * time.Millisecond
	mostPause  = 15 * time.Second
)

// follower watches one rotation and shows each step. It belongs to one command.
type follower struct {
	session *session
	client  clientArg
	// rotation is the name of the one that is meant; "" takes the client's last.
	rotation string
	// until says in which states there is nothing more to wait for.
	until func(pb.RotationState) bool

	progress progress
	last     *pb.Rotation
}

// errBroken means that the stream ended before the rotation did.
var errBroken = errors.New("the stream ended before the rotation did")

// run follows until there is nothing more to wait for, and returns how it ended.
func (f *follower) run(ctx context.Context) error {
	f.progress = newProgress(f.session)
	err := f.session.call(ctx, withoutEnd, f.follow)
	f.progress.end()
	if err != nil {
		return f.stopped(err)
	}
	return f.outcome()
}

// follow watches, and watches again when the broker or the way to it broke.
func (f *follower) follow(ctx context.Context, b *services) error {
	pause := firstPause
	for {
		seen := f.last
		err := f.stream(ctx, b)
		if err == nil {
			return nil
		}
		broken := errors.Is(err, errBroken) || status.Code(err) == codes.Unavailable
		if ctx.Err() != nil || !broken || f.last == nil && f.rotation == "" {
			return err // a rotation that was begun here is there: that one is waited for
		}
		if f.last != seen {
			pause = firstPause
		}
		f.progress.transient("the connection broke; watching again")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// stream reads one stream; nil means that there is nothing more to wait for.
func (f *follower) stream(ctx context.Context, b *services) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := b.rotations.WatchRotation(ctx, &pb.WatchRotationRequest{Client: f.client.name()})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errBroken
		}
		if err != nil {
			return err
		}
		r := message.GetRotation()
		if f.rotation == "" {
			f.rotation = r.GetName()
		}
		if r.GetName() != f.rotation {
			return &problem{Status: exitNotRotated, Message: fmt.Sprintf("another rotation, %s, has taken the place of %s", r.GetName(), f.rotation)}
		}
		if err := f.progress.show(message); err != nil {
			return err
		}
		f.last = r
		if f.until(r.GetState()) || r.GetState() == pb.RotationState_ROTATION_STATE_NEEDS_OPERATOR {
			return nil
		}
	}
}

// stopped says how to go on when the watching ended before the rotation.
func (f *follower) stopped(err error) error {
	p := problemOf(context.Background(), err)
	if f.rotation == "" || p.Status == exitNotRotated {
		return p
	}
	told := *p
	told.Hint = "the rotation goes on"
	if p.Status == exitInterrupted || p.Status == exitDeadline {
		told.Message, told.Hint = "stopped watching; the rotation goes on", ""
	}
	return withHint(&told, "watch again with `%s`, end it with `%s`", f.session.again("rotations watch "+f.client.id()), f.session.again("rotations abort "+f.client.id()))
}

// outcome says how the rotation stands in the end.
func (f *follower) outcome() error {
	r := f.last
	switch r.GetState() {
	case pb.RotationState_ROTATION_STATE_NEEDS_OPERATOR:
		return f.ended(exitNeedsOperator, "the rotation needs an operator", f.goOn())
	case pb.RotationState_ROTATION_STATE_FAILED:
		return f.ended(exitNotRotated, "the rotation failed; the current secret is what it was", "")
	case pb.RotationState_ROTATION_STATE_ABORTED:
		return f.ended(exitNotRotated, "the rotation was aborted; the current secret is what it was", "")
	case pb.RotationState_ROTATION_STATE_ROLLED_BACK:
		return f.ended(exitNotRotated, "the rotation was rolled back; the replaced secret is current again", "")
	}
	if f.session.Output != outputText {
		return nil
	}
	now := time.Now()
	fmt.Fprintf(f.session.stdout, "version %d of %s is current\n", r.GetSecretVersion(), f.client.name())
	if !isOver(r.GetState()) && r.GetReplacedVersion() != 0 {
		fmt.Fprintf(f.session.stdout, "version %d is retired %s; watch: %s\n", r.GetReplacedVersion(), orElse(when(now, r.GetRetireTime()), "later"),
			f.session.again("rotations watch "+f.client.id()))
	}
	describeCallers(f.session.stdout, now, "callers with tokens that may still be good:", r.GetCallers())
	return nil
}

// goOn says how a rotation that needs an operator goes on, and what ends it.
func (f *follower) goOn() string {
	r, ways := f.last, []string{}
	if id := r.GetRequestId(); id != "" && r.GetAutomatic() {
		ways = append(ways, f.session.again(fmt.Sprintf("rotate %s --request-id %s", f.client.id(), id))+" goes on")
	}
	if r.GetPromoteTime() == nil {
		ways = append(ways, f.session.again("rotations abort "+f.client.id())+" gives it up")
	} else {
		ways = append(ways, f.session.again("secret rollback "+f.client.id())+" leads back")
	}
	return "when that is done: " + strings.Join(ways, ", ")
}

func (f *follower) ended(exit int, what, hint string) error {
	r := f.last
	p := &problem{Status: exit, Reason: r.GetReason(), Message: what, Detail: r.GetDetail(), Hint: hint}
	if r.GetReason() != "" {
		p.Message += ": " + r.GetReason()
	}
	if r.GetRemedy() != "" {
		p.Message += ": " + r.GetRemedy()
	}
	return p
}

// sinceEvent returns the events after the last one that was shown; all, if that one is
// not among them any more.
func sinceEvent(events []*pb.RotationEvent, shown *pb.RotationEvent) []*pb.RotationEvent {
	for i := len(events) - 1; i >= 0 && shown != nil; i-- {
		if proto.Equal(events[i], shown) {
			return events[i+1:]
		}
	}
	return events
}
