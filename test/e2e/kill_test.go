package e2e_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestKilledBeforeEveryWrite kills the server, as `kill -9` does, at every write of every
// operation that changes a client, before Vault has the write. A new process then finds a
// state that makes sense, and the same call ends the work.
func TestKilledBeforeEveryWrite(t *testing.T) {
	t.Parallel()
	killedAtEveryWrite(t, before)
}

// TestKilledAfterEveryWrite does so once Vault has the write, and before the server has the
// answer. It is a test of its own, since the parts of a test that wait begin last of all.
func TestKilledAfterEveryWrite(t *testing.T) {
	t.Parallel()
	killedAtEveryWrite(t, after)
}

func killedAtEveryWrite(t *testing.T, kind faultKind) {
	t.Helper()
	k := newKilling(t)
	tried, orphans := 0, 0
	for _, o := range operations() {
		for nth := 1; nth <= o.writes; nth++ {
			id := fmt.Sprintf("%s-%d", o.name, nth)
			left, err := k.try(t, o, id, &fault{nth: nth, kind: kind})
			if err != nil {
				t.Errorf("%s, killed at write %d of %d %s: %v", o.name, nth, o.writes, kind, err)
			}
			tried++
			orphans += left
		}
	}
	k.node.stop(t)
	t.Logf("killed %d times %s; %d values were left that no record names", tried, kind, orphans)
}

// killing is a server behind a tap, started anew after each kill.
type killing struct {
	site  *site
	store *vaultStore
	tap   *tap
	up    *upstream
	node  *node
}

func newKilling(t *testing.T) *killing {
	t.Helper()
	store := sharedStore(t)
	k := &killing{store: store, tap: newTap(t, store.Addr()), up: newUpstream(t, firstSecret, secondSecret)}
	k.site = newSite(t, store.config(k.tap.URL), k.up.ca)
	k.node = k.site.start(t, program(t))
	return k
}

// try runs one operation into one fault, restarts, looks, and repeats.
func (k *killing) try(t *testing.T, o operation, id string, f *fault) (orphans int, err error) {
	t.Helper()
	ctx := t.Context()
	call, err := o.prepare(ctx, k.node, k.up.TokenEndpoint(), id)
	if err != nil {
		return 0, fmt.Errorf("prepare: %w", err)
	}
	f.hit = k.node.Kill
	k.tap.arm(id, f)
	err = call(ctx, k.node)
	if writes, struck := k.tap.disarm(id); !struck {
		return 0, fmt.Errorf("it ended after %d writes: %w", writes, orNothing(err))
	}
	if status.Code(err) != codes.Unavailable {
		return 0, fmt.Errorf("the call that lost its server: %w", orNothing(err))
	}
	k.node = k.site.start(t, program(t))
	if orphans, err = checkState(ctx, k.node, k.store, id); err != nil {
		return 0, fmt.Errorf("after the restart: %w", err)
	}
	if err := k.repeat(ctx, call); err != nil && reasonOf(err) != o.repeated {
		return 0, fmt.Errorf("the repetition: %w", err)
	}
	if err := o.checkDone(ctx, k.node, k.store, id); err != nil {
		return 0, fmt.Errorf("after the repetition: %w", err)
	}
	// Once more changes nothing.
	if err := call(ctx, k.node); err != nil && reasonOf(err) != o.repeated && o.name != "verify" {
		return 0, fmt.Errorf("the second repetition: %w", err)
	}
	if err := o.checkDone(ctx, k.node, k.store, id); err != nil {
		return 0, fmt.Errorf("after the second repetition: %w", err)
	}
	left, err := checkState(ctx, k.node, k.store, id)
	if err != nil {
		return 0, fmt.Errorf("at the end: %w", err)
	}
	if left > orphans || left > 1 {
		return left, fmt.Errorf("%d values that no record names, after %d", left, orphans)
	}
	return left, nil
}

// repeat makes a call that may have to wait until the lease of the server that was killed
// ends.
func (k *killing) repeat(ctx context.Context, call func(context.Context, *node) error) error {
	err := call(ctx, k.node)
	if reasonOf(err) != "ROTATION_UNDER_WAY" {
		return err
	}
	var last error
	_ = within(rotationLeaseEnds+slack, func() error {
		if last = call(ctx, k.node); reasonOf(last) == "ROTATION_UNDER_WAY" {
			return last
		}
		return nil
	})
	return last
}

// TestWritesAreCounted keeps the tests of faults honest: an operation that came to
// write more often would have writes at which nothing was tried.
func TestWritesAreCounted(t *testing.T) {
	t.Parallel()
	k := newKilling(t)
	for _, o := range operations() {
		call, err := o.prepare(t.Context(), k.node, k.up.TokenEndpoint(), o.name)
		if err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
		k.tap.arm(o.name, &fault{})
		if err := call(t.Context(), k.node); err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
		if got, _ := k.tap.disarm(o.name); got != o.writes {
			t.Errorf("%s writes %d times, the tests of faults know of %d", o.name, got, o.writes)
		}
		if err := o.checkDone(t.Context(), k.node, k.store, o.name); err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
	}
	k.node.stop(t)
}

// TestKilledAtTheFirstWriteOfAll kills a server while it makes an empty store its
// own.
func TestKilledAtTheFirstWriteOfAll(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultKind{before, after} {
		t.Run(string(kind), func(t *testing.T) {
			store := sharedStore(t)
			tap, up := newTap(t, store.Addr()), newUpstream(t, firstSecret)
			s := newSite(t, store.config(tap.URL), up.ca)
			killed := make(chan *node, 1)
			tap.arm("meta", &fault{nth: 1, kind: kind, hit: func() { (<-killed).Kill() }})
			n := s.launch(t, program(t))
			killed <- n
			<-n.Done()
			if _, struck := tap.disarm("meta"); !struck {
				t.Fatal("the store's own record was not written")
			}
			n = s.start(t, program(t))
			if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("a", up.TokenEndpoint()), Secret: secretInput(firstSecret)}); err != nil {
				t.Error(err)
			}
			if _, err := checkState(t.Context(), n, store, "a"); err != nil {
				t.Error(err)
			}
			n.stop(t)
		})
	}
}
