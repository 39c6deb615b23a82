package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestRotationUnderLoad changes the secret again and again while 20 callers get
// tokens that live for three seconds, so that minting never stops. Not one call fails.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	store := sharedStore(t)
	up := newUpstream(t, "secret 1")
	up.SetTokenLifetime(3 * time.Second)
	n := newSite(t, store.config(store.Addr()), up.ca).start(t, program(t))
	const name = "clients/loaded"
	client := newClient("loaded", up.TokenEndpoint())
	client.AllowedScopes = []string{"write"}
	if _, err := n.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput("secret 1")}); err != nil {
		t.Fatal(err)
	}

	load := newLoad(t, n, name, 20)
	before := up.Requests()
	const rotations = 6
	for i := 2; i <= rotations+1; i++ {
		old, next := secret.NewString(fmt.Sprintf("secret %d", i-1)), fmt.Sprintf("secret %d", i)
		if err := up.AddSecret(appID, secret.NewString(next)); err != nil {
			t.Fatal(err)
		}
		rotate(t, n, name, next)
		// Retiring at once is the hard case: a mint under way may have read the record
		// that names the old version.
		if _, err := n.operator.rotations.RetireSecret(t.Context(), &pb.RetireSecretRequest{Client: name, SecretVersion: int64(i - 1)}); err != nil {
			t.Fatal(err)
		}
		// The provider's own removal comes after what is under way upstream.
		eventually(t, 20*time.Second, "tokens of the new secret", func() error {
			if lowest := load.lowest(); lowest < int64(i) {
				return fmt.Errorf("some are of version %d", lowest)
			}
			return nil
		})
		if err := up.RemoveSecret(appID, old); err != nil {
			t.Fatal(err)
		}
	}
	calls, minted := load.stop(), up.Requests()-before
	if t.Failed() {
		return
	}
	list, err := n.operator.rotations.ListSecretVersions(t.Context(), &pb.ListSecretVersionsRequest{Client: name})
	if err != nil || len(list.GetSecretVersions()) != 1 {
		t.Errorf("ListSecretVersions: %d versions, %v; want one", len(list.GetSecretVersions()), err)
	}
	// Two keys expire each second at most, whatever the number of callers.
	if took := time.Since(load.began).Seconds(); float64(minted) > 3*took+2*rotations+2 {
		t.Errorf("%d token requests in %.1f s for 2 keys: callers do not share", minted, took)
	}
	t.Logf("%d rotations, %d calls without a failure, %d token requests", rotations, calls, minted)
	n.stop(t)
}

// load is callers that ask as fast as they are answered.
type load struct {
	began   time.Time
	cancel  context.CancelFunc
	running sync.WaitGroup
	calls   atomic.Int64
	latest  []atomic.Int64 // by caller: the secret version of its last token
}

func newLoad(t *testing.T, n *node, client string, callers int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{began: time.Now(), cancel: cancel, latest: make([]atomic.Int64, callers)}
	t.Cleanup(func() { l.stop() })
	for i := range callers {
		request := &pb.GetTokenRequest{Client: client, MinValidity: durationpb.New(100 * time.Millisecond)}
		if i%2 == 1 {
			request.Scopes = []string{"write"}
		}
		l.running.Go(func() {
			for ctx.Err() == nil {
				got, err := n.caller.tokens.GetToken(ctx, request)
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Errorf("caller %d: %v", i, err)
					return
				}
				if left := got.GetExpireTime().AsTime().Sub(got.GetServerTime().AsTime()); left < -time.Second { // a loaded machine takes its time
					t.Errorf("caller %d: got a token that expired %v ago", i, -left)
				}
				l.latest[i].Store(got.GetSecretVersion())
				l.calls.Add(1)
				time.Sleep(2 * time.Millisecond) // the test's own CPU is not what is tested
			}
		})
	}
	return l
}

// stop ends the load and returns how many calls were answered.
func (l *load) stop() int64 {
	l.cancel()
	l.running.Wait()
	return l.calls.Load()
}

// lowest is the lowest secret version that any caller was given last.
func (l *load) lowest() int64 {
	lowest := l.latest[0].Load()
	for i := range l.latest {
		lowest = min(lowest, l.latest[i].Load())
	}
	return lowest
}
