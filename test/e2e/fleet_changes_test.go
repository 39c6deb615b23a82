package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// change is what somebody does to a client on one replica, and how the others are
// seen to know.
type change struct {
	name string
	do   func(ctx context.Context, n *node, client string) error
	// inForce reports whether what a replica answers is of after the change; was is
	// the token of before.
	inForce func(was string, got *pb.GetTokenResponse, err error) bool
}

func changes() []change {
	disable := func(ctx context.Context, n *node, client string) error {
		_, err := n.operator.clients.DisableClient(ctx, &pb.DisableClientRequest{Name: client})
		return err
	}
	promote := func(ctx context.Context, n *node, client string) error {
		_, err := n.operator.rotations.PromoteSecret(ctx, &pb.PromoteSecretRequest{Client: client, SecretVersion: 2, AllowUnverified: true, DropTokens: true})
		return err
	}
	revoke := func(ctx context.Context, n *node, client string) error {
		_, err := n.operator.tokens.RevokeTokens(ctx, &pb.RevokeTokensRequest{Client: client})
		return err
	}
	refused := func(_ string, _ *pb.GetTokenResponse, err error) bool { return reasonOf(err) == "CLIENT_DISABLED" }
	newSecret := func(_ string, got *pb.GetTokenResponse, err error) bool {
		return err == nil && got.GetSecretVersion() == 2
	}
	another := func(was string, got *pb.GetTokenResponse, err error) bool {
		return err == nil && got.GetTokenId() != was
	}
	return []change{{"disable", disable, refused}, {"promote-and-drop", promote, newSecret}, {"revoke", revoke, another}}
}

// warmed makes a client with a pending second secret whose token all replicas have.
// It is made on B, so that A has nothing to announce about it.
func (f *fleet) warmed(id string) (client *registered, token string) {
	f.t.Helper()
	client = f.register(f.b, id, nil)
	if _, err := f.b.operator.rotations.StageSecret(f.t.Context(), &pb.StageSecretRequest{Client: client.name, Secret: secretInput(secondSecret)}); err != nil {
		f.t.Fatal(err)
	}
	token, err := sameToken(<-askAll(f.t.Context(), client.name, f.replicas()...))
	if err = errors.Join(err, client.wasAsked(1)); err != nil {
		f.t.Fatalf("%s: %v", id, err)
	}
	return client, token
}

// notices demands that no call to a replica that begins later than noticedWithin
// after the change is answered as before it.
func (c change) notices(ctx context.Context, r *replica, client, was string, changed time.Time) error {
	for {
		began := time.Now()
		got, err := r.token(ctx, client)
		switch {
		case c.inForce(was, got, err):
			return nil
		case err != nil:
			return fmt.Errorf("replica %s: %w", r.name, err)
		case began.Sub(changed) > noticedWithin:
			return fmt.Errorf("replica %s still served the old token %v after the change", r.name, began.Sub(changed))
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// everywhere is notices for many replicas at once.
func (c change) everywhere(ctx context.Context, client, was string, changed time.Time, replicas ...*replica) error {
	problems := make([]error, len(replicas))
	var group sync.WaitGroup
	for i, r := range replicas {
		group.Go(func() { problems[i] = c.notices(ctx, r, client, was, changed) })
	}
	group.Wait()
	return errors.Join(problems...)
}

// TestFleetChanges shows that what is done on one replica is in force on the others
// within two seconds, that a watch on another one hears of it, and that a replica
// which is started anew finds its tokens warm.
func TestFleetChanges(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	for _, c := range changes() {
		client, was := f.warmed("change-" + c.name)
		if err := c.do(t.Context(), f.a.node, client.name); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		changed := time.Now()
		if err := c.everywhere(t.Context(), client.name, was, changed, f.replicas()...); err != nil {
			t.Errorf("%s on A: %v", c.name, err)
		}
		t.Logf("%s on A: in force everywhere after %v", c.name, time.Since(changed).Round(10*time.Millisecond))
		if c.name == "disable" {
			continue
		}
		if err := errors.Join(f.servesOnly(client.name, "", f.replicas()...), client.wasAsked(2)); err != nil {
			t.Errorf("%s on A: %v", c.name, err)
		}
	}
	f.watched(changes()[1])
	f.restarted()
	f.killedBeforeTelling()
	f.stop()
}

// watched makes a change on B while a watch on A listens.
func (f *fleet) watched(promote change) {
	f.t.Helper()
	client, was := f.warmed("watched")
	ctx, cancel := context.WithTimeout(f.t.Context(), leaseEnds)
	defer cancel()
	watch, err := f.a.caller.tokens.WatchToken(ctx, &pb.WatchTokenRequest{Client: client.name})
	if err != nil {
		f.t.Fatal(err)
	}
	first, err := watch.Recv()
	if err != nil || first.GetToken().GetTokenId() != was {
		f.t.Fatalf("the watch on A begins with token %s, %v; want %s", first.GetToken().GetTokenId(), err, was)
	}
	if err := promote.do(ctx, f.b.node, client.name); err != nil {
		f.t.Fatal(err)
	}
	changed := time.Now()
	next, err := watch.Recv()
	took := time.Since(changed)
	switch {
	case err != nil:
		f.t.Errorf("the watch on A after a promotion on B: %v", err)
	case next.GetToken().GetSecretVersion() != 2 || next.GetToken().GetTokenId() == was:
		f.t.Errorf("the watch on A sends token %s of secret version %d, want one of version 2", next.GetToken().GetTokenId(), next.GetToken().GetSecretVersion())
	case took > noticedWithin+slack:
		f.t.Errorf("the watch on A heard of a promotion on B after %v", took)
	}
	err = promote.everywhere(ctx, client.name, was, changed, f.replicas()...)
	if err := errors.Join(err, f.servesOnly(client.name, next.GetToken().GetTokenId(), f.replicas()...)); err != nil {
		f.t.Errorf("after the watch on A: %v", err)
	}
	f.t.Logf("the watch on A had the new token %v after the promotion on B", took.Round(10*time.Millisecond))
}

// restarted ends a replica in peace and by force; what it had is warm when it comes back.
func (f *fleet) restarted() {
	f.t.Helper()
	client, was := f.warmed("restarted")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		tried := inject(f.t, "%v of a replica with warm tokens", signal)
		var err error
		if signal == syscall.SIGTERM {
			err = f.c.end(signal, 15*time.Second)
		}
		f.restart(f.c)
		tried.survived(errors.Join(err, f.servesOnly(client.name, was, f.replicas()...), client.wasAsked(1)))
	}
}

// killedBeforeTelling kills A when Vault has a change of its, and when it is about to
// tell the others that the change has come: they have been told before it.
func (f *fleet) killedBeforeTelling() {
	f.t.Helper()
	for _, c := range changes()[:2] {
		for _, point := range []string{"committed", "telling"} {
			client, was := f.warmed(c.name + "-" + point)
			victim, changed := f.a.node, time.Now()
			dies := &fault{nth: 1, kind: after, hit: func() { changed = time.Now(); victim.Kill() }}
			tried := inject(f.t, "kill -9 after %s was stored, its second announcement unsent (%s)", c.name, point)
			if point == "committed" {
				f.a.tap.arm(client.id, dies)
			} else {
				// The feed is the whole fleet's: what A writes to it before the change
				// takes more than one write when another replica writes too.
				dies.kind = before
				f.a.tap.arm(client.id, &fault{nth: 1, kind: seen, hit: func() { f.a.tap.arm("feed", dies) }})
			}
			err := c.do(f.t.Context(), victim, client.name) // its answer may come before the announcement
			select {
			case <-victim.Done():
				err = nil
			case <-time.After(slack):
				err = fmt.Errorf("it was not hit: %w", orNothing(err))
				victim.Kill()
			}
			if _, stored := f.a.tap.disarm(client.id); err == nil && !stored {
				err = errors.New("it ended before the change was stored")
			}
			if _, struck := f.a.tap.disarm("feed"); err == nil && point == "telling" && !struck {
				err = errors.New("it ended before it was about to tell")
			}
			err = errors.Join(err, c.everywhere(f.t.Context(), client.name, was, changed, f.b, f.c))
			f.restart(f.a)
			if err == nil {
				err = c.everywhere(f.t.Context(), client.name, was, changed, f.a)
			}
			tried.survived(err)
		}
	}
}
