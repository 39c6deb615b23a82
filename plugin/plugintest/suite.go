package plugintest

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestRotator checks that a rotator keeps every promise of RotatorService. It runs one
// subtest for each. start returns a running rotator with a client that has exactly one
// secret, and registers its own clean-up with t.Cleanup; the rotator may be the same
// one each time. The suite uses real time and real connections.
func TestRotator(t *testing.T, start func(t *testing.T) Subject) {
	tests := []struct {
		name string
		test func(r *run)
	}{
		{"create", testCreate},
		{"create again", testCreateAgain},
		{"create at the same time", testCreateAtOnce},
		{"create after a restart", testCreateAfterRestart},
		{"another token, another secret", testAnotherToken},
		{"recover what never was", testRecoverNothing},
		{"recover what was answered", testRecoverAnswered},
		{"recover after a lost answer", func(r *run) { testLostAnswer(r, false) }},
		{"recover after a lost answer and a restart", func(r *run) { testLostAnswer(r, true) }},
		{"recover after a lost request", testLostRequest},
		{"activate", testActivate},
		{"finish the replaced secret", testFinishReplaced},
		{"finish the new secret", testFinishNew},
		{"finish what nobody knows", testFinishUnknown},
		{"test a secret", testTest},
		{"another rotator than configured", testDescription},
		{"no token", testNoToken},
		{"an unknown client", testUnknownClient},
		{"strangers", testStrangers},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(newRun(t, start(t))) })
	}
}

// wantCreated checks what the provider takes once a secret was made.
func (r *run) wantCreated(made broker.CreatedSecret) {
	r.Helper()
	if made.Value.IsZero() || made.Value.RevealString() == r.Client.Secret {
		r.Fatal("Create made no new secret")
	}
	switch r.Config.Shape {
	case broker.ShapeOverlapping:
		r.wantAccepted("new", made.Value.RevealString(), true)
		r.wantAccepted("present", r.Client.Secret, true)
		r.wantCount(2)
	case broker.ShapeActivated:
		r.wantAccepted("new", made.Value.RevealString(), r.Config.WorksBeforeActivation)
		r.wantAccepted("present", r.Client.Secret, true)
	case broker.ShapeReplaced:
		r.wantAccepted("new", made.Value.RevealString(), true)
		r.wantAccepted("replaced", r.Client.Secret, false)
		r.wantCount(1)
	}
}

// wantUntouched checks that the provider is as it was.
func (r *run) wantUntouched() {
	r.Helper()
	r.wantAccepted("present", r.Client.Secret, true)
	r.wantCount(1)
}

func (r *run) wantSame(made, again broker.CreatedSecret) {
	r.Helper()
	if !made.Value.Equal(again.Value) || made.Handle != again.Handle {
		r.Error("a repetition answered another secret or handle")
	}
}

func testCreate(r *run) {
	r.wantCreated(r.create(r.begin(newToken())))
}

// testCreateAgain takes a rotator that cannot show a secret again, if it says so.
func testCreateAgain(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	again, err := r.rotator.Create(r.Context(), call)
	r.clean(err)
	if err == nil {
		r.wantSame(made, r.noted(call, again))
		r.wantCreated(made)
		return
	}
	var unsent *broker.UnsentError
	if errors.As(err, &unsent) {
		r.Fatalf("a repetition was refused as if nothing had happened: %v", err)
	}
	if settled, lost := r.settle(call); !lost {
		r.wantCreated(settled)
	}
}

func testCreateAtOnce(r *run) {
	call := r.begin(newToken())
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			made, err := r.rotator.Create(r.Context(), call)
			r.clean(err)
			if err == nil {
				r.noted(call, made)
			}
		})
	}
	all.Wait()
	if made, lost := r.settle(call); !lost {
		r.wantCreated(made)
	}
}

func testCreateAfterRestart(r *run) {
	if r.Restart == nil {
		r.Skip("the subject cannot be restarted")
	}
	call := r.begin(newToken())
	made := r.create(call)
	r.Restart(r.T)
	again, err := r.rotator.Create(r.Context(), call)
	r.clean(err)
	if err == nil {
		r.wantSame(made, r.noted(call, again))
		r.wantCreated(made)
		return
	}
	if settled, lost := r.settle(call); !lost { // as if the answer was lost, or it was refused as ALREADY_EXISTS
		r.wantCreated(settled)
	}
}

func testAnotherToken(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	r.wantCreated(made)
	if r.Config.Shape != broker.ShapeReplaced { // makes room at providers that take two
		if err := r.rotator.Revoke(r.Context(), r.call(call.Token, made)); err != nil {
			r.Fatalf("Revoke: %v", err)
		}
	} else {
		r.Client.Secret, r.Client.Handle = made.Value.RevealString(), made.Handle
	}
	second := r.create(r.begin(newToken()))
	if second.Value.Equal(made.Value) {
		r.Error("another rotation got the same secret")
	}
	r.wantCreated(second)
}

func testRecoverNothing(r *run) {
	call := r.begin(newToken())
	for range 2 {
		found, err := r.rotator.Recover(r.Context(), call)
		r.clean(err)
		if err != nil || found.Outcome != broker.CreateNotDone {
			r.Fatalf("Recover = %s, %v, want %s", found.Outcome, err, broker.CreateNotDone)
		}
	}
	r.wantUntouched()
	r.wantCreated(r.create(call))
}

func testRecoverAnswered(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	found, err := r.rotator.Recover(r.Context(), call)
	r.clean(err)
	switch {
	case err != nil:
		r.Fatalf("Recover: %v", err)
	case found.Outcome == broker.CreateDone:
		r.wantSame(made, r.noted(call, found.Created))
		r.wantCreated(made)
	case found.Outcome == broker.CreateNotDone:
		r.wantAccepted("removed", made.Value.RevealString(), false)
		r.wantUntouched()
	case found.Outcome != broker.CreateLost || r.Config.Shape != broker.ShapeReplaced:
		r.Errorf("Recover says %s", found.Outcome)
	}
}

func testLostAnswer(r *run, restart bool) {
	if restart && r.Restart == nil {
		r.Skip("the subject cannot be restarted")
	}
	call := r.begin(newToken())
	r.wire.loseAnswer("CreateSecret")
	_, err := r.rotator.Create(r.Context(), call)
	r.clean(err)
	var unsent *broker.UnsentError
	if err == nil || errors.As(err, &unsent) {
		r.Fatalf("Create whose answer was lost: %v, want an error of unknown outcome", err)
	}
	if restart {
		r.Restart(r.T)
	}
	made, lost := r.settle(call)
	if lost {
		r.wantAccepted("replaced", r.Client.Secret, false)
		return
	}
	r.wantCreated(made)
}

func testLostRequest(r *run) {
	call := r.begin(newToken())
	r.wire.loseRequest("CreateSecret")
	_, err := r.rotator.Create(r.Context(), call)
	r.wantRefused("Create that was not sent", err, broker.ReasonUpstreamConnect)
	r.wantUntouched()
	made, lost := r.settle(call)
	if lost {
		r.Fatal("Recover says lost of what never was")
	}
	r.wantCreated(made)
}

func testActivate(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	done := r.call(call.Token, made)
	if r.Config.Shape != broker.ShapeActivated {
		if err := r.rotator.Activate(r.Context(), done); err != nil {
			r.Errorf("Activate: %v, want nil of the shape %s", err, r.Config.Shape)
		}
		r.wantCreated(made)
		return
	}
	r.wire.loseAnswer("SetSecret")
	if err := r.rotator.Activate(r.Context(), done); err == nil {
		r.Fatal("Activate succeeded although its answer was lost")
	}
	for range 2 {
		if err := r.rotator.Activate(r.Context(), done); err != nil {
			r.Fatalf("Activate again: %v", err)
		}
	}
	r.wantAccepted("new", made.Value.RevealString(), true)
	r.wantAccepted("replaced", r.Client.Secret, false)
}

func testFinishReplaced(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	if err := r.rotator.Activate(r.Context(), r.call(call.Token, made)); err != nil {
		r.Fatalf("Activate: %v", err)
	}
	replaced := r.call(call.Token, broker.CreatedSecret{Value: secret.NewString(r.Client.Secret), Handle: r.Client.Handle})
	r.wire.loseAnswer("FinishSecret")
	if err := r.rotator.Revoke(r.Context(), replaced); err == nil {
		r.Fatal("Revoke succeeded although its answer was lost")
	}
	for range 2 {
		if err := r.rotator.Revoke(r.Context(), replaced); err != nil {
			r.Fatalf("Revoke again: %v", err)
		}
	}
	r.wantAccepted("replaced", r.Client.Secret, false)
	r.wantAccepted("new", made.Value.RevealString(), true)
	r.wantCount(1)
}

func testFinishNew(r *run) {
	if r.Config.Shape == broker.ShapeReplaced {
		r.Skip("there is no way back where the provider replaces the secret")
	}
	call := r.begin(newToken())
	made := r.create(call)
	for range 2 {
		if err := r.rotator.Revoke(r.Context(), r.call(call.Token, made)); err != nil {
			r.Fatalf("Revoke: %v", err)
		}
	}
	r.wantAccepted("given up", made.Value.RevealString(), false)
	r.wantUntouched()
}

func testFinishUnknown(r *run) {
	invented := broker.CreatedSecret{Value: secret.NewString("invented-" + newToken())}
	for _, handle := range []string{"", newToken()} {
		invented.Handle = handle
		if err := r.rotator.Revoke(r.Context(), r.call(newToken(), invented)); err != nil {
			r.clean(err)
			r.Errorf("Revoke of what nobody knows: %v", err)
		}
	}
	r.wantUntouched()
}

func testTest(r *run) {
	call := r.begin(newToken())
	made := r.create(call)
	r.wantCreated(made)
	if r.Config.Shape != broker.ShapeActivated || r.Config.WorksBeforeActivation {
		if err := r.rotator.TestSecret(r.Context(), r.call(call.Token, made)); err != nil {
			r.clean(err)
			r.Errorf("TestSecret of a secret that works: %v", err)
		}
	}
	invented := broker.CreatedSecret{Value: secret.NewString("invented-" + newToken()), Handle: newToken()}
	if err := r.rotator.TestSecret(r.Context(), r.call(call.Token, invented)); err != nil && broker.ReasonOf(err) != broker.ReasonClientRejected {
		r.clean(err)
		r.Errorf("TestSecret of an invented secret: %v, want nil or %s", err, broker.ReasonClientRejected)
	}
	r.wantCreated(made)
}

func testDescription(r *run) {
	other := r.Config
	other.Propagation += time.Second
	_, err := r.dial(other).Create(r.Context(), r.begin(newToken()))
	r.wantRefused("Create with another configuration", err, broker.ReasonRotatorRefused)
	if err != nil && !strings.Contains(err.Error(), "propagation") {
		r.Errorf("the error does not say what differs: %v", err)
	}
	r.wantUntouched()
}

func testNoToken(r *run) {
	_, err := r.rotator.Create(r.Context(), r.begin(""))
	r.wantRefused("Create without a token", err, broker.ReasonRotatorRefused)
	_, err = r.rotator.Recover(r.Context(), r.begin(""))
	r.wantRefused("Recover without a token", err, broker.ReasonRotatorRefused)
	r.wantUntouched()
}

func testUnknownClient(r *run) {
	call := r.begin(newToken())
	call.ClientID = "nobody-" + newToken()
	_, err := r.rotator.Create(r.Context(), call)
	r.wantRefused("Create for an unknown client", err, broker.ReasonRotatorRefused)
	r.wantUntouched()
}
