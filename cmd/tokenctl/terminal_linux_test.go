package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// terminal is a pseudo-terminal: what a person sees and types on one side.
type terminal struct {
	t      *testing.T
	person *os.File
	tty    *os.File // the side of the program
	screen *buffer  // all that the person saw
	read   chan struct{}
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 40}); err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, person: person, tty: tty, screen: &buffer{}, read: make(chan struct{})}
	go func() { defer close(x.read); _, _ = io.Copy(x.screen, person) }() // ends when tty is closed
	t.Cleanup(x.close)
	return x
}

// close hangs up; what was written is on the screen then.
func (x *terminal) close() {
	_ = x.tty.Close()
	<-x.read
	_ = x.person.Close()
}

// echoes reports whether the terminal shows what is typed.
func (x *terminal) echoes() bool {
	x.t.Helper()
	state, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// hidden waits until what is typed is not shown.
func (x *terminal) hidden() {
	for x.echoes() && x.t.Context().Err() == nil {
		runtime.Gosched()
	}
}

func (x *terminal) types(text string) {
	x.t.Helper()
	if _, err := x.person.WriteString(text); err != nil {
		x.t.Error(err)
	}
}

// prompted runs a command line and types an answer at each prompt.
func (x *terminal) prompted(o *operator, answers []string, args ...string) outcome {
	x.t.Helper()
	o.stdin = x.tty
	said := 0
	typed := make(chan struct{}, len(answers)+1)
	o.errors = &buffer{wrote: func(all string) {
		if n := strings.Count(all, ": ") - strings.Count(all, "note: "); n > said && said < len(answers) && strings.HasSuffix(all, ": ") {
			answer := answers[said]
			said++
			go func() { defer func() { typed <- struct{}{} }(); x.hidden(); x.types(answer) }()
		}
	}}
	got := o.run(args...)
	for range said {
		<-typed
	}
	if !x.echoes() {
		x.t.Error("the terminal is left without echo")
	}
	return got
}

// TestPrompt asks twice and shows nothing.
func TestPrompt(t *testing.T) {
	const differ = "the two are not the same"
	tests := []struct {
		name    string
		answers []string
		args    []string
		status  int
		want    string
	}{
		{"stage", []string{canary + "\r", canary + "\r"}, []string{"secret", "stage", "acme-crm"}, exitDone, "New client secret: \nNew client secret once more: "},
		{"rotate", []string{canary + "\r", canary + "\r"}, []string{"rotate", "acme-crm", "--prompt", "--no-wait"}, exitDone, "New client secret: "},
		{"different", []string{canary + "\r", canary + "x\r"}, []string{"secret", "stage", "acme-crm"}, exitUsage, differ},
		{"different at the end", []string{canary + "\r", canary + " \r"}, []string{"secret", "stage", "acme-crm"}, exitUsage, differ},
		{"blank at the end", []string{canary + " \r", canary + " \r"}, []string{"secret", "stage", "acme-crm"}, exitUsage, "ends in white space"},
		{"nothing", []string{"\r"}, []string{"secret", "stage", "acme-crm"}, exitUsage, "nothing was entered"},
		{"wrapping token", []string{"  hvs." + canary + "\r"}, []string{"secret", "stage", "acme-crm", "--prompt-wrapping-token"}, exitDone, "Wrapping token: "},
		{"no wrapping token", []string{"\r"}, []string{"secret", "stage", "acme-crm", "--prompt-wrapping-token"}, exitUsage, "it is empty"},
		{"a file would be shown", nil, []string{"secret", "stage", "acme-crm", "--file", "-"}, exitUsage, "would show what you type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			x := newTerminal(t)
			x.prompted(f.operator(), test.answers, test.args...).want(test.status, test.want).without(canary)
			x.close()
			if strings.Contains(x.screen.String(), canary) {
				t.Errorf("the terminal showed it: %q", x.screen.String())
			}
			if test.status != exitDone {
				if n := f.count(); n != 0 {
					t.Errorf("%d requests were sent, want none", n)
				}
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			var input *pb.SecretInput
			switch request := f.requests[0].(type) {
			case *pb.StageSecretRequest:
				input = request.GetSecret()
			case *pb.RotateSecretRequest:
				input = request.GetSecret()
			}
			if input.GetClientSecret() != canary && input.GetWrappingToken() != "hvs."+canary {
				t.Error("what was typed is not what was sent")
			}
		})
	}
}

// TestInterruptedAtThePrompt leaves a terminal with echo.
func TestInterruptedAtThePrompt(t *testing.T) {
	f := newFake(t)
	x := newTerminal(t)
	o := f.operator()
	o.stdin = x.tty
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waited := make(chan struct{})
	o.errors = &buffer{wrote: func(all string) {
		if all == "New client secret: " {
			go func() { defer close(waited); x.hidden(); cancel() }()
		}
	}}
	o.runIn(ctx, "secret", "stage", "acme-crm").want(exitInterrupted, "interrupted")
	<-waited
	if !x.echoes() {
		t.Error("the terminal is left without echo")
	}
	x.types("\r") // ends the read that was left behind
	if n := f.count(); n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
}

// TestProgressAtATerminal writes over one line, no wider than the terminal, and takes
// it away in the end.
func TestProgressAtATerminal(t *testing.T) {
	f := newFake(t)
	o := f.operator()
	x := newTerminal(t)
	f.begin(func() {
		f.step(verifying, "verify", "", func(r *pb.Rotation) {
			r.VerifiedTokens, r.Attempts, r.Reason = 2, 1, "CLIENT_REJECTED\x1b[2J and more words"
		})
	})
	x.screen.wrote = func(all string) {
		if strings.Contains(all, "2 of 3 tokens") && !strings.Contains(all, "promote") {
			go f.step(promoted, "promote", "")
		}
	}
	if status := run(t.Context(), []string{"rotate", "acme-crm"}, o.environ, o.stdin, x.tty, &buffer{}); status != exitDone {
		t.Errorf("status %d, want 0", status)
	}
	x.close()
	saw := x.screen.String()
	const wipe = "\r\x1b[2K"
	for _, text := range []string{wipe + "verifying, 2 of 3 tokens, 1 failed trie", wipe + "20", "promoted        promote\r\n", wipe + "version 4 of clients/acme-crm is current"} {
		if !strings.Contains(saw, text) {
			t.Errorf("%q is not in %q", text, saw)
		}
	}
	if strings.Contains(saw, "\x1b[2J") {
		t.Errorf("the broker's text moved the cursor: %q", saw)
	}
}
