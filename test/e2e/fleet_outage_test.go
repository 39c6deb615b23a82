package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/authserver"
	"github.com/tokenbroker/tokenbroker/internal/devpki"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// warmCalls asks every replica for a warm token all the time, until it is stopped.
type warmCalls struct {
	stop   context.CancelFunc
	group  sync.WaitGroup
	made   atomic.Int64
	mu     sync.Mutex // guards failed
	failed []error
}

// keepAsking starts the calls; each must be answered with token within two seconds.
func (f *fleet) keepAsking(client, token string) *warmCalls {
	ctx, stop := context.WithCancel(f.t.Context())
	w := &warmCalls{stop: stop}
	for _, r := range f.replicas() {
		w.group.Go(func() {
			for pause(ctx, 10*time.Millisecond) {
				call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				got, err := r.token(call, client)
				cancel()
				w.made.Add(1)
				if err == nil && got.GetTokenId() != token {
					err = fmt.Errorf("token %s, want %s", got.GetTokenId(), token)
				}
				if err != nil {
					w.mu.Lock()
					w.failed = append(w.failed, fmt.Errorf("a warm call to replica %s: %w", r.name, err))
					w.mu.Unlock()
				}
			}
		})
	}
	return w
}

// sinceLast returns what failed since it was last called, and demands that calls were made.
func (w *warmCalls) sinceLast() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	made, failed := w.made.Swap(0), w.failed
	w.failed = nil
	switch {
	case made == 0:
		return errors.New("no warm call was made")
	case len(failed) > 0:
		return fmt.Errorf("%d of %d warm calls failed, first: %w", len(failed), made, failed[0])
	}
	return nil
}

func (w *warmCalls) end() {
	w.stop()
	w.group.Wait()
}

// cold asks a replica for a token that nobody has asked for before.
func (f *fleet) cold(asked *atomic.Int64, r *replica) error {
	request := &pb.GetTokenRequest{Client: coldClient}
	number := asked.Add(1)
	for i, resource := range resources() {
		if number>>i&1 == 1 {
			request.Resources = append(request.Resources, resource)
		}
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*leaseEnds)
	defer cancel()
	_, err := r.caller.tokens.GetToken(ctx, request)
	return err
}

// TestFleetWithoutVault kills, partitions and seals the Vault of a fleet. No warm call
// fails meanwhile; the servers get well by themselves; a sealed Vault stops new tokens.
func TestFleetWithoutVault(t *testing.T) {
	t.Parallel()
	f := newFleet(t, ownStore(t))
	client := newClient("cold", f.up.TokenEndpoint())
	client.AllowedResources = resources()
	if _, err := f.b.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: client, Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	warm, token := f.warmed("warm")
	calls := f.keepAsking(warm.name, token)
	defer calls.end()
	var asked atomic.Int64
	recovered := func() error {
		var problems []error
		for _, r := range f.replicas() {
			problems = append(problems, within(30*time.Second, func() error { return f.cold(&asked, r) }))
		}
		for _, r := range f.replicas() { // and not from what it has in memory
			cause, err := r.rootCause(t.Context(), coldClient)
			if cause != "" || err != nil {
				problems = append(problems, fmt.Errorf("replica %s, the lookup: %s, %w", r.name, cause, orNothing(err)))
			}
		}
		return errors.Join(append(problems, calls.sinceLast())...)
	}
	// away makes each of replicas find out, by a call that needs Vault.
	away := func(reason string, replicas ...*replica) error {
		var problems []error
		for _, r := range replicas {
			problems = append(problems, within(30*time.Second, func() error {
				cause, err := r.rootCause(t.Context(), coldClient)
				if err != nil || cause != reason {
					return fmt.Errorf("replica %s: the lookup fails by %q, %w; want %s", r.name, cause, orNothing(err), reason)
				}
				return nil
			}))
		}
		return errors.Join(problems...)
	}
	if err := recovered(); err != nil {
		t.Fatalf("before any fault: %v", err)
	}

	tried := inject(t, "kill -9 of Vault")
	f.store.Stop()
	err := away("STORE_UNREACHABLE", f.replicas()...)
	f.store.Restart()
	tried.survived(errors.Join(err, recovered()))

	for _, apart := range []struct {
		name     string
		kind     partition
		lasts    time.Duration // after it was noticed; 8 s is longer than records are used unseen
		replicas []*replica
	}{
		{"one replica cut off from Vault", refused, 0, []*replica{f.a}},
		{"one replica and Vault hear nothing of each other", silent, 0, []*replica{f.b}},
		{"all replicas cut off from Vault", refused, 8 * time.Second, f.replicas()},
	} {
		tried := inject(t, "partition: %s", apart.name)
		for _, r := range apart.replicas {
			r.tap.part(apart.kind)
		}
		err := away("STORE_UNREACHABLE", apart.replicas...)
		pause(t.Context(), apart.lasts)
		for _, r := range apart.replicas {
			r.tap.part(whole)
		}
		tried.survived(errors.Join(err, recovered()))
	}

	tried = inject(t, "Vault sealed")
	f.store.Seal()
	before := f.up.Requests()
	var problems []error
	for _, r := range f.replicas() {
		problems = append(problems, hasReason("a cold token of replica "+r.name, f.cold(&asked, r), "STORE_SEALED"))
	}
	if got := f.up.Requests(); got != before {
		problems = append(problems, fmt.Errorf("%d tokens were asked for with a sealed Vault", got-before))
	}
	problems = append(problems, calls.sinceLast())
	f.store.Unseal()
	tried.survived(errors.Join(append(problems, recovered())...))

	tried = inject(t, "kill -9 of Vault, which comes back sealed")
	f.store.Stop()
	f.store.RestartSealed()
	err = away("STORE_SEALED", f.replicas()...)
	f.store.Unseal()
	tried.survived(errors.Join(err, recovered(), warm.wasAsked(1)))
	calls.end()
	f.stop()
}

// TestFleetWithoutUpstream takes the authorization server away until its tokens have
// expired, and brings it back.
func TestFleetWithoutUpstream(t *testing.T) {
	t.Parallel()
	ca, err := devpki.New("away")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := ca.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	config := authserver.Config{TokenLifetime: 6 * time.Second, Clients: []authserver.Client{{ID: appID, Scopes: []string{"read"}, Secrets: []secret.Value{secret.NewString(firstSecret)}}}}
	begin := func(address string) *authserver.Running {
		server, err := authserver.Start(t.Context(), address, config, pair)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	server := begin(harness.UnusedAddress(t))
	endpoint := server.TokenEndpoint()
	f := newFleet(t, sharedStore(t), ca.PEM())
	const name = "clients/short"
	if _, err := f.b.operator.clients.CreateClient(t.Context(), &pb.CreateClientRequest{Client: newClient("short", endpoint), Secret: secretInput(firstSecret)}); err != nil {
		t.Fatal(err)
	}
	away := 12 * time.Second
	if allFaults() {
		away = time.Minute // until the hold-down has grown to its bound
	}
	answers := <-askAll(t.Context(), name, f.replicas()...)
	if _, err := sameToken(answers); err != nil {
		t.Fatal(err)
	}
	expires := answers[0].token.GetExpireTime().AsTime()
	tried := inject(t, "the authorization server away for %v, its tokens live for %v", away, config.TokenLifetime)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	problem := f.whileAway(name, expires, time.Now().Add(away))
	returned := time.Now()
	server = begin(endpoint[len("https://") : len(endpoint)-len(authserver.TokenPath)])
	var well sync.WaitGroup
	problems := make([]error, 3)
	for i, r := range f.replicas() {
		well.Go(func() {
			problems[i] = within(30*time.Second, func() error { _, err := r.token(t.Context(), name); return err })
		})
	}
	well.Wait()
	t.Logf("good again %v after the server's return, which was asked %d times by then", time.Since(returned).Round(10*time.Millisecond), server.Requests())
	tried.survived(errors.Join(append(problems, problem)...))
	f.stop()
}

// whileAway asks all replicas until a time: while the token lives it is served, and
// after that each answer says that it is worth trying again, and when.
func (f *fleet) whileAway(client string, expires, until time.Time) error {
	refusals := map[string]int{}
	for time.Now().Before(until) && pause(f.t.Context(), 50*time.Millisecond) {
		for _, r := range f.replicas() {
			_, err := r.token(f.t.Context(), client)
			switch {
			case err == nil && time.Now().After(expires.Add(time.Second)):
				return fmt.Errorf("replica %s serves a token that has expired at %v", r.name, expires)
			case err == nil:
				continue
			case time.Now().Before(expires):
				return fmt.Errorf("replica %s fails %v before its token expires: %w", r.name, time.Until(expires), err)
			}
			if code := status.Code(err); code != codes.Unavailable || retryDelay(err) <= 0 {
				return fmt.Errorf("replica %s without authorization server: code %v, RetryInfo %v, %w; want Unavailable with RetryInfo", r.name, code, retryDelay(err), err)
			}
			refusals[r.name]++
		}
	}
	if len(refusals) != 3 {
		return fmt.Errorf("refused calls by replica %v: the token had to expire on each", refusals)
	}
	return nil
}
