package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// providerCall is a request to a provider in the middle of a rotation.
type providerCall struct {
	rotator, what string
	// nth is its number in a rotation, from 1; acted says that the provider has acted
	// on it when the replica dies.
	nth   int
	acted bool
}

func (c providerCall) String() string {
	return fmt.Sprintf("request %d of %s, %s, acted on: %t", c.nth, c.rotator, c.what, c.acted)
}

// makes reports whether it makes a secret, ends whether it is about ending one.
func (c providerCall) makes() bool {
	return strings.HasSuffix(c.what, "addPassword") || strings.HasSuffix(c.what, "rotate-secret")
}

func (c providerCall) ends() bool {
	return strings.HasSuffix(c.what, "removePassword") || strings.HasPrefix(c.what, "GET ")
}

// TestFleetKilledAtProvider kills the replica that rotates while it waits for the
// provider: at the requests that make a secret, and at each request of a rotation where
// all faults are asked for. Another replica ends it, and the provider has no secret that
// nobody knows. A replica that is asked to end takes the answer with it into the store.
func TestFleetKilledAtProvider(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	f.up.SetTokenLifetime(3 * time.Second)
	p := newProvider(t, f.up, f.a.node)
	var calls []providerCall
	for _, rotator := range []string{"auth0", "entra"} {
		all, err := f.callsOf(p.add(f.a.node, rotator, rotator+"-counted"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a rotation at %s: %v", rotator, all)
		for i, what := range all {
			for _, acted := range []bool{false, true} {
				calls = append(calls, providerCall{rotator, what, i + 1, acted})
			}
		}
	}
	if !allFaults() {
		calls = slices.DeleteFunc(calls, func(c providerCall) bool { return !c.makes() })
	}
	f.killedAt(p, syscall.SIGTERM, slices.DeleteFunc(slices.Clone(calls), func(c providerCall) bool { return !c.makes() }))
	f.killedAt(p, syscall.SIGKILL, slices.DeleteFunc(slices.Clone(calls), providerCall.ends))
	if last := slices.DeleteFunc(slices.Clone(calls), func(c providerCall) bool { return !c.ends() }); len(last) > 0 {
		f.killedAt(p, syscall.SIGKILL, last)
	}
	f.stop()
}

// callsOf lists the requests of a rotation which replaces a secret that the provider
// made, of a client that has a live token.
func (f *fleet) callsOf(m *managed) ([]string, error) {
	if err := f.readied(m); err != nil {
		return nil, err
	}
	m.gate.freeze(0, false)
	err := f.rotated(f.b, m, "counted")
	return m.gate.thaw(), err
}

// readied gives a client a secret that the provider made, and a live token.
func (f *fleet) readied(m *managed) error {
	if err := f.rotated(f.a, m, "first"); err != nil {
		return err
	}
	_, err := f.b.token(m.t.Context(), m.name)
	return err
}

// rotated is one rotation from its beginning to its end.
func (f *fleet) rotated(by *replica, m *managed, requestID string) error {
	if _, err := by.operator.rotations.RotateSecret(f.t.Context(), &pb.RotateSecretRequest{Client: m.name, RequestId: requestID}); err != nil {
		return fmt.Errorf("RotateSecret %s: %w", m.name, err)
	}
	return f.completes(by, m)
}

func (f *fleet) completes(by *replica, m *managed) error {
	last, err := watchToEnd(f.t.Context(), by, m.name)
	if err == nil && last.GetState() != completed {
		err = fmt.Errorf("%s ended as %v %s (%s), events %v", m.name, last.GetState(), last.GetReason(), last.GetDetail(), last.GetEvents())
	}
	return err
}

// killedAt begins a rotation for each call, ends the replica by a signal when all of them
// wait for the provider, and demands that the others end them.
func (f *fleet) killedAt(p *provider, signal syscall.Signal, calls []providerCall) {
	f.t.Helper()
	clients, frozen := make([]*managed, len(calls)), make([]<-chan struct{}, len(calls))
	problems := make([]error, len(calls))
	each := func(do func(i int) error) {
		var group sync.WaitGroup
		for i := range calls {
			group.Go(func() { problems[i] = errors.Join(problems[i], do(i)) })
		}
		group.Wait()
	}
	for i, call := range calls {
		clients[i] = p.add(f.a.node, call.rotator, fmt.Sprintf("%s-%d-%t-%d", call.rotator, call.nth, call.acted, signal))
	}
	each(func(i int) error { return f.readied(clients[i]) })
	each(func(i int) error {
		frozen[i] = clients[i].gate.freeze(calls[i].nth, calls[i].acted)
		_, err := f.b.operator.rotations.RotateSecret(f.t.Context(), &pb.RotateSecretRequest{Client: clients[i].name, RequestId: "second"})
		return err
	})
	each(func(i int) error { return within30s(f.t.Context(), frozen[i]) })
	if err := errors.Join(problems...); err != nil {
		f.t.Fatalf("before the kill: %v", err)
	}
	tried := make([]*injected, len(calls))
	for i, call := range calls {
		tried[i] = inject(f.t, "%v of the replica that rotates, at %v", signal, call)
	}
	ended := make(chan error, 1)
	if signal == syscall.SIGKILL {
		f.b.Kill()
		ended <- nil
	} else {
		go func() { ended <- f.b.end(signal, 20*time.Second) }()
		time.Sleep(time.Second) // it waits for the provider, and nobody else is at work
	}
	each(func(i int) error {
		clients[i].gate.thaw()
		return nil
	})
	err := <-ended
	each(func(i int) error {
		err := errors.Join(err, f.completes(f.a, clients[i]))
		if err == nil {
			err = errors.Join(f.c.newTokenOf(f.t.Context(), clients[i].name, 3), clients[i].hasOnly(f.t.Context(), f.c.node, 3))
		}
		tried[i].survived(err)
		return nil
	})
	f.restart(f.b)
}

// within30s waits for a channel to be closed.
func within30s(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the provider was not asked so often")
	case <-ctx.Done():
		return ctx.Err()
	}
}
