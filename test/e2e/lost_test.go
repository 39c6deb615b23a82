package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestLostAnswers breaks the connection to Vault at every write of every operation,
// in each way in which an answer can be lost, and never kills the server. The call
// succeeds, or says STORE_ANSWER_LOST where there was no way to find out; it never
// says that somebody else wrote. A repetition ends the work.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	tap, up := newTap(t, store.Addr()), newUpstream(t, firstSecret, secondSecret)
	settings := store.config(tap.URL)
	settings["vault"].(map[string]any)["timeout"] = "4s" // what a late write has to outlast
	n := newSite(t, settings, up.ca).start(t, program(t))
	l := &losing{store: store, tap: tap, up: up, node: n, lost: map[faultKind]int{}}

	// The faults of different clients are apart, so that their waits can overlap.
	var running sync.WaitGroup
	slots := make(chan struct{}, 12)
	tried := 0
	for _, o := range operations() {
		for nth := 1; nth <= o.writes; nth++ {
			for i, kind := range []faultKind{before, after, blind, late} {
				tried++
				running.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					id := fmt.Sprintf("%s-%d-%d", o.name, nth, i)
					if err := l.try(t.Context(), o, id, &fault{nth: nth, kind: kind}); err != nil {
						t.Errorf("%s, write %d of %d lost %s: %v", o.name, nth, o.writes, kind, err)
					}
				})
			}
		}
	}
	running.Wait()
	n.stop(t)
	t.Logf("lost %d answers; the calls that said so: %v", tried, l.lost)
}

// losing is a server behind a tap.
type losing struct {
	store *vaultStore
	tap   *tap
	up    *upstream
	node  *node

	mu   sync.Mutex // guards lost
	lost map[faultKind]int
}

// try runs one operation into one fault, looks, and repeats.
func (l *losing) try(ctx context.Context, o operation, id string, f *fault) error {
	call, err := o.prepare(ctx, l.node, l.up.TokenEndpoint(), id)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	l.tap.arm(id, f)
	began := time.Now()
	err = call(ctx, l.node)
	took := time.Since(began)
	// A late write that nobody sends again lands now, before the repetition.
	if f.kind == late && err != nil {
		f.release(l.tap)
	}
	writes, struck := l.tap.disarm(id)
	if !struck {
		return fmt.Errorf("it ended after %d writes: %w", writes, orNothing(err))
	}
	switch reason := reasonOf(err); {
	case reason == "" && f.kind != blind:
	case reason == "STORE_ANSWER_LOST" && (f.kind == blind || o.isDestroy(f.nth)):
		if status.Code(err) != codes.Unavailable {
			return fmt.Errorf("the code is %v, want Unavailable", status.Code(err))
		}
		l.mu.Lock()
		l.lost[f.kind]++
		l.mu.Unlock()
	default:
		return fmt.Errorf("the call: %w", orNothing(err))
	}
	if took > 20*time.Second {
		return fmt.Errorf("the call took %v", took)
	}
	if err == nil {
		if err := o.checkDone(ctx, l.node, l.store, id); err != nil {
			return fmt.Errorf("after success: %w", err)
		}
	}
	if _, err := checkState(ctx, l.node, l.store, id); err != nil {
		return err
	}
	if err := call(ctx, l.node); err != nil && reasonOf(err) != o.repeated {
		return fmt.Errorf("the repetition: %w", err)
	}
	if err := o.checkDone(ctx, l.node, l.store, id); err != nil {
		return fmt.Errorf("after the repetition: %w", err)
	}
	orphans, err := checkState(ctx, l.node, l.store, id)
	if err == nil && orphans > 0 && f.kind != blind {
		err = errors.New("a value is left that no record names")
	}
	return err
}

// isDestroy reports whether the nth write is KV's destroy, which has no
// check-and-set and so no way to find out whose it was.
func (o operation) isDestroy(nth int) bool { return strings.HasPrefix(o.name, "retire") && nth == 2 }

// release lets a late write go and waits until it has reached Vault.
func (f *fault) release(p *tap) {
	p.mu.Lock()
	if !f.struck {
		p.mu.Unlock()
		return
	}
	select {
	case <-f.next:
	default:
		close(f.next)
	}
	p.mu.Unlock()
	<-f.landed
}
