package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// script moves the rotation on each time that the text of the last step was printed.
// The first move is made when the rotation is watched.
type script struct {
	f     *fake
	moves []move
	next  int
}

type move struct {
	after string // what must have been printed
	do    func()
}

// play hands an operator an output that runs the script.
func (f *fake) play(o *operator, moves ...move) {
	s := &script{f: f, moves: moves}
	o.output = &buffer{wrote: func(all string) {
		for s.next < len(s.moves) && strings.Contains(all, s.moves[s.next].after) {
			s.next++
			go s.moves[s.next-1].do() // the writer is in our hands
		}
	}}
}

// begin makes the rotation's first step when it has been asked for.
func (f *fake) begin(do func()) {
	go func() {
		for {
			f.mu.Lock()
			changed, begun := f.changed, f.rotation != nil
			f.mu.Unlock()
			if begun {
				do()
				return
			}
			select {
			case <-changed:
			case <-f.t.Context().Done():
				return
			}
		}
	}()
}

// TestRotate follows a rotation to its promotion: a line for each step.
func TestRotate(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.begin(func() { f.step(creating, "create upstream", "") })
	f.play(o,
		move{"create upstream", func() { f.step(staged, "stage", "") }},
		move{"  stage", func() { f.step(verifying, "verify", "CLIENT_REJECTED") }},
		move{"verify: CLIENT_REJECTED", func() { f.step(promoted, "promote", "") }},
	)
	got := o.run("rotate", "acme-crm", "--accept-gap", "--drop-tokens")
	got.want(exitDone, "note: request id ", "creating        create upstream\n", "staged          stage\n", "verifying       verify: CLIENT_REJECTED\n", "promoted        promote\n",
		"version 4 of clients/acme-crm is current\n", "version 3 is retired ", "(in 1 h); watch: tokenctl rotations watch acme-crm").without("\x1b", "\r")
	r := asked[*pb.RotateSecretRequest](f)
	if !r.GetAcceptGap() || !r.GetDropTokens() || r.GetCompromised() || r.GetSecret() != nil || r.GetRequestId() == "" {
		t.Errorf("the request is %v", r)
	}
	if lines := strings.Count(got.stdout, "\n"); lines != 6 {
		t.Errorf("%d lines, want 6: each step once\n%s", lines, got.stdout)
	}
}

// TestRotateCompromised waits until the old secret is gone, and names who holds tokens.
func TestRotateCompromised(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.begin(func() { f.step(promoted, "promote", "") })
	f.play(o, move{"promoted", func() {
		f.step(completed, "retire", "", func(r *pb.Rotation) {
			r.Callers = []*pb.CallerUse{{Caller: "crm", SecretVersion: 3, LastUseTime: timestamppb.New(time.Now().Add(-20 * time.Minute))}}
		})
	}})
	o.pipe(canary).run("rotate", "acme-crm", "--compromised", "--file", "-").want(exitDone, "completed       retire", "version 4 of clients/acme-crm is current\n", "callers with tokens that may still be good:", "crm     3").
		without(canary, "is retired")
	if r := asked[*pb.RotateSecretRequest](f); !r.GetCompromised() || r.GetSecret().GetClientSecret() != canary {
		t.Error("the request says neither compromised nor the secret")
	}
}

// TestRotationEnds: each end has its status and says what mends it.
func TestRotationEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		state  pb.RotationState
		status int
		want   []string
	}{
		{"needs an operator", needsOperator, exitNeedsOperator, []string{"the rotation needs an operator: UPSTREAM_SECRET_LOST: Do this.", "tokenctl rotate acme-crm --request-id ", "tokenctl rotations abort acme-crm"}},
		{"failed", failed, exitNotRotated, []string{"the rotation failed; the current secret is what it was: UPSTREAM_SECRET_LOST"}},
		{"rolled back", rolledBack, exitNotRotated, []string{"the replaced secret is current again"}},
		{"aborted", aborted, exitNotRotated, []string{"was aborted"}},
		{"completed at once", completed, exitDone, []string{"is current"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			f.begin(func() {
				f.step(test.state, "end", yes(test.status != exitDone, "UPSTREAM_SECRET_LOST"), func(r *pb.Rotation) {
					r.Remedy, r.Detail = yes(test.status != exitDone, "Do this."), "told to operators"
				})
			})
			got := f.operator().run("rotate", "acme-crm").want(test.status, test.want...)
			if test.status != exitDone {
				got.want(test.status, "detail  told to operators")
			}
		})
	}
}

// TestWatchBreaks: a replica that stops, and a stream that ends, are no end.
func TestWatchBreaks(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.broken = 1
	f.begin(func() { f.step(staged, "stage", "") })
	f.play(o, move{"stage\n", func() { f.step(promoted, "promote", "") }})
	got := o.run("rotate", "acme-crm").want(exitDone, "promote")
	if n := strings.Count(got.stdout, "stage\n"); n != 1 || f.watches < 2 {
		t.Errorf("%d watches; the step is printed %d times, want once\n%s", f.watches, n, got.stdout)
	}
}

// TestNobodyToWatch: a way that stays broken ends with --timeout, and one that is closed
// to us at once; in both cases the rotation has begun.
func TestNobodyToWatch(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.broken = 1000
	o.run("rotate", "acme-crm", "--timeout", "1500ms").want(exitDeadline, "stopped watching; the rotation goes on", "watch again with `tokenctl rotations watch acme-crm`")
	o.run("rotations", "watch", "acme-crm").want(exitUnavailable, "SHUTTING_DOWN").without("watch again")
	f = newFake(t)
	f.begin(func() {
		f.refuse(refusal(codes.PermissionDenied, "CALLER_NOT_ALLOWED", "FIX_CALLER", "You may not watch."))
	})
	f.broken = 1 // so that the first stream is not the one that is refused
	f.operator().run("rotate", "acme-crm").want(exitNotAllowed, "CALLER_NOT_ALLOWED", "the rotation goes on; watch again with")
}

// TestCtrlC stops the watching and says how to take it up again.
func TestCtrlC(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		status int
	}{
		{"rotate", []string{"rotate", "acme-crm"}, exitInterrupted},
		{"watch", []string{"rotations", "watch", "acme-crm"}, exitInterrupted},
		{"timeout", []string{"rotate", "acme-crm", "--timeout", "1500ms", "--context", "test"}, exitDeadline},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			o := f.operator()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.args[0] == "rotations" {
				f.rotation = newRotation("r1")
			}
			f.begin(func() { f.step(staged, "stage", "") })
			f.play(o, move{"stage\n", func() {
				if test.status == exitInterrupted {
					cancel()
				}
			}})
			with := yes(test.name == "timeout", " --context test")
			o.runIn(ctx, test.args...).want(test.status, "stopped watching; the rotation goes on", "watch again with `tokenctl rotations watch acme-crm"+with+"`")
			if f.rotation.GetState() != staged {
				t.Errorf("the rotation is %v, want it to go on", f.rotation.GetState())
			}
		})
	}
}

// TestAnotherRotation: one that takes the place of ours is not taken for it.
func TestAnotherRotation(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.begin(func() { f.step(staged, "stage", "") })
	f.play(o, move{"stage\n", func() {
		f.step(promoted, "promote", "", func(r *pb.Rotation) { r.Name = "clients/acme-crm/rotations/r2" })
	}})
	o.run("rotate", "acme-crm").want(exitNotRotated, "another rotation, clients/acme-crm/rotations/r2, has taken the place of").without("is current")
}

// TestWatchForPrograms prints a line of JSON, or a document of YAML, for each change.
func TestWatchForPrograms(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	f.rotation = newRotation("r1")
	f.play(o, move{"CREATING", func() { f.step(completed, "retire", "") }})
	got := o.run("rotations", "watch", "acme-crm", "-o", "json").want(exitDone)
	var states []string
	for line := range strings.Lines(got.stdout) {
		var message struct {
			Rotation struct {
				State      string
				CreateTime time.Time `json:"create_time"`
			}
		}
		if err := json.Unmarshal([]byte(line), &message); err != nil || message.Rotation.CreateTime.IsZero() {
			t.Fatalf("%q: %v", line, err)
		}
		states = append(states, message.Rotation.State)
	}
	if strings.Join(states, " ") != "ROTATION_STATE_CREATING ROTATION_STATE_COMPLETED" {
		t.Errorf("the states are %v", states)
	}
	o.output = nil
	o.run("rotations", "watch", "acme-crm", "-o", "yaml").want(exitDone, "---\nrotation:\n  name: clients/acme-crm/rotations/r1\n  state: ROTATION_STATE_COMPLETED\n")
}

func TestNoWait(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("rotate", "acme-crm", "--no-wait", "--request-id", "mine").want(exitDone, "rotation    clients/acme-crm/rotations/r1", "provider    overlapping", "next: tokenctl rotations watch acme-crm").without("note:")
	if f.watches != 0 {
		t.Errorf("it was watched")
	}
	o.run("rotate", "acme-crm", "--no-wait", "-o", "json").want(exitDone, `"state": "ROTATION_STATE_CREATING"`)
}

func TestRotations(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	o.run("rotations", "get", "acme-crm").want(exitNotFound, "ROTATION_NOT_FOUND")
	o.run("rotations", "watch", "acme-crm").want(exitNotFound, "ROTATION_NOT_FOUND")
	f.rotation = newRotation("r1")
	f.step(promoted, "promote", "")
	o.run("rotations", "list").want(exitDone, "CLIENT    STATE", "acme-crm  promoted", "zeta      needs operator (stuck)", "UPSTREAM_SECRET_LOST")
	o.run("rotations", "list", "--limit", "1").want(exitDone, "acme-crm").without("zeta")
	o.run("rotations", "list", "--state", "needs-operator", "--state", "rolled-back", "--stuck").want(exitDone)
	if r := asked[*pb.ListRotationsRequest](f); !r.GetStuckOnly() || len(r.GetStates()) != 2 || r.GetStates()[0] != needsOperator || r.GetStates()[1] != rolledBack {
		t.Errorf("the request is %v", r)
	}
	o.run("rotations", "get", "acme-crm").want(exitDone, "state       promoted", "version     4, in place of 3", "with        goes on by itself", "verified    3 of 3 tokens", "retires     ", "(in 1 h)", "request id  request-1", "promoted        promote")
	o.run("rotations", "abort", "acme-crm", "--rotation", "clients/acme-crm/rotations/r1").want(exitDone, "state       aborted")
	if r := asked[*pb.AbortRotationRequest](f); r.GetRotation() != "clients/acme-crm/rotations/r1" {
		t.Errorf("the request is %v", r)
	}
}

// TestStuckIsSaidOnce although each message says it.
func TestStuckIsSaidOnce(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	stuck := func(r *pb.Rotation) { r.Stuck, r.Remedy = true, "Look at the provider." }
	f.rotation = newRotation("r1")
	f.begin(func() { f.step(verifying, "verify", "UPSTREAM_TIMEOUT", stuck) })
	f.play(o, move{"stuck:", func() { f.step(verifying, "verify again", "UPSTREAM_TIMEOUT", stuck) }}, move{"verify again", func() { f.step(completed, "retire", "") }})
	if got := o.run("rotations", "watch", "acme-crm").want(exitDone, "stuck: it does not go on although it should. Look at the provider."); strings.Count(got.stdout, "stuck:") != 1 {
		t.Errorf("it is said more than once:\n%s", got.stdout)
	}
}
