package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestFleetRefresherKilled kills the replica that replaces a token which the fleet
// has, as `kill -9` does, at every write and while it asks; also for a client that may
// have one token at a time. Meanwhile the others serve the old token at once. Whoever
// says that it is refused has the new one when the lease is over at the latest, and the
// server is asked no more often than that takes.
func TestFleetRefresherKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, sharedStore(t))
	single := func(c *pb.Client) { c.SingleActiveToken = true }
	kills := []struct {
		name     string
		write    int // as of TestFleetHolderKilled, after the first token
		kind     faultKind
		edits    []func(*pb.Client)
		requests int64 // the one for the first token among them
	}{
		{"refresh-lease-lost", 1, before, nil, 2},
		{"refresh-lease-written", 1, after, nil, 2},
		{"refresh-asking", 0, "", nil, 3},
		{"refresh-token-lost", 2, before, nil, 3},
		{"refresh-token-written", 2, after, nil, 2},
		{"refresh-asking-single", 0, "", []func(*pb.Client){single}, 3},
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var replaced [][3]string // client, its old token, its new one; guarded by mu
	for _, k := range kills {
		victim := f.a.node
		client := f.register(f.b, k.name, func(nth int64) {
			if k.write == 0 && nth == 2 {
				victim.Kill()
			}
		}, k.edits...)
		old, err := sameToken(<-askAll(t.Context(), client.name, f.replicas()...))
		if err != nil {
			t.Fatalf("%s: the first token: %v", k.name, err)
		}
		tried := inject(t, "kill -9 of the holder during a refresh, %s %s", k.name, k.kind)
		f.a.tap.arm(client.uid, &fault{nth: k.write, kind: k.kind, hit: victim.Kill})
		refuseUntilDead(t, victim, client.name, old)
		if _, struck := f.a.tap.disarm(client.uid); !struck && k.write > 0 {
			tried.survived(errors.New("it was not hit"))
			return
		}
		began := time.Now()
		err = f.servesOnly(client.name, old, f.b, f.c)
		if took := time.Since(began); err == nil && took > slack {
			err = fmt.Errorf("the token that the others have was served after %v", took)
		}
		f.restart(f.a)
		running.Go(func() {
			next, replaceErr := refuseUntilReplaced(t.Context(), f.b.node, client.name, old)
			mu.Lock()
			replaced = append(replaced, [3]string{client.name, old, next})
			mu.Unlock()
			tried.survived(errors.Join(err, replaceErr, f.adopts(client.name, old, next, f.b, f.c), client.wasAsked(k.requests), f.leaseIsFree(client)))
		})
	}
	running.Wait()
	for _, r := range replaced { // the replica that came back, which the next kill ended again
		if err := f.adopts(r[0], r[1], r[2], f.a); err != nil {
			t.Errorf("%s, at the end: %v", r[0], err)
		}
	}
	f.stop()
}

// refuse asks a replica and says that a token is refused.
func refuse(ctx context.Context, n *node, client, id string) (*pb.GetTokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseEnds+slack)
	defer cancel()
	return n.caller.tokens.GetToken(ctx, &pb.GetTokenRequest{Client: client, RejectedTokenId: id})
}

// refuseUntilDead makes a replica replace a token, which kills it. A token that is
// seconds old is not replaced yet.
func refuseUntilDead(t *testing.T, victim *node, client, id string) {
	t.Helper()
	eventually(t, 2*slack, "the refresh that kills", func() error {
		token, err := refuse(t.Context(), victim, client, id)
		select {
		case <-victim.Done():
			return nil
		default:
		}
		return fmt.Errorf("it answers with %q, %w", token.GetTokenId(), orNothing(err))
	})
}

// refuseUntilReplaced returns the id of the token that takes the place of one.
func refuseUntilReplaced(ctx context.Context, n *node, client, old string) (id string, err error) {
	err = within(leaseEnds+2*slack, func() error {
		token, err := refuse(ctx, n, client, old)
		if err == nil && token.GetTokenId() == old {
			err = errors.New("the refused token is served still")
		}
		id = token.GetTokenId()
		return err
	})
	return id, err
}

// adopts demands that replicas have one new token once they hear that the old one is
// refused.
func (f *fleet) adopts(client, old, want string, replicas ...*replica) error {
	var errs []error
	for _, r := range replicas {
		if got, err := refuseUntilReplaced(f.t.Context(), r.node, client, old); err != nil || got != want {
			errs = append(errs, fmt.Errorf("replica %s has token %s, want %s, %w", r.name, got, want, orNothing(err)))
		}
	}
	return errors.Join(errs...)
}
