package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/client"
)

var acme = client.Request{Client: "clients/acme"}

// stage is a subject and a client of it whose calls of GetToken are counted.
type stage struct {
	subject
	client *client.Client
	calls  atomic.Int32
}

func (s *stage) count(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	s.calls.Add(1)
	return invoke(ctx, method, req, reply, conn, options...)
}

// cases are what holds for the package whichever broker it speaks to.
var cases = []struct {
	name string
	run  func(*testing.T, *stage)
}{
	{"a token is told whole", tokenIsWhole},
	{"errors are told apart", errorsAreTold},
	{"a thousand callers of a cold source ask once", herd},
	{"a warm source asks nobody, then once in the background", refresh},
	{"a broker that is away is not missed before the token expires", away},
	{"a watched source never serves an expired token", watched},
	{"a refused token is replaced", refused},
	{"a caller that leaves cancels nothing", leave},
	{"close ends a call", closeEnds},
}

func TestConformance(t *testing.T) {
	for name, start := range map[string]func(*testing.T) subject{"fake": fakeSubject, "real": realSubject} {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &stage{subject: start(t)}
					s.client = connect(t, s.dial, client.WithDialOptions(grpc.WithChainUnaryInterceptor(s.count)))
					c.run(t, s)
				})
			})
		}
	}
}

func tokenIsWhole(t *testing.T, s *stage) {
	request := client.Request{Client: "clients/acme", Scopes: []string{"read"}, MinValidity: time.Minute}
	token := must[*client.Token](t)(s.client.Token(t.Context(), request))
	sum := sha256.Sum256([]byte(token.Access.Reveal()))
	if got, want := token.ID, hex.EncodeToString(sum[:8]); got != want {
		t.Errorf("id %q, want %q", got, want)
	}
	if token.Type != "Bearer" || !slices.Equal(token.Scopes, []string{"read"}) || token.SecretVersion != 1 || len(token.Warnings) != 0 {
		t.Errorf("token %+v", token)
	}
	if life := token.ExpireTime.Sub(token.IssueTime); life != time.Hour {
		t.Errorf("lives for %v, want an hour", life)
	}
	if !token.RefreshAfter.After(token.IssueTime) || !token.RefreshAfter.Before(token.ExpireTime) {
		t.Errorf("refresh after %v is not between %v and %v", token.RefreshAfter, token.IssueTime, token.ExpireTime)
	}
	again := must[*client.Token](t)(s.client.Token(t.Context(), request))
	if again.ID != token.ID {
		t.Errorf("asking again brought %s, want %s", again.ID, token.ID)
	}
}

func errorsAreTold(t *testing.T, s *stage) {
	for _, c := range []struct {
		name    string
		request client.Request
		reason  client.Reason
		code    codes.Code
	}{
		{"unknown client", client.Request{Client: "clients/nobody"}, client.ReasonClientNotFound, codes.NotFound},
		{"malformed name", client.Request{Client: "acme"}, client.ReasonInvalidRequest, codes.InvalidArgument},
		{"scope", client.Request{Client: "clients/acme", Scopes: []string{"admin"}}, client.ReasonScopeNotAllowed, codes.PermissionDenied},
		{"same scope twice", client.Request{Client: "clients/acme", Scopes: []string{"read", "read"}}, client.ReasonInvalidRequest, codes.InvalidArgument},
		{"min_validity", client.Request{Client: "clients/acme", MinValidity: 25 * time.Hour}, client.ReasonInvalidRequest, codes.InvalidArgument},
	} {
		_, direct := s.client.Token(t.Context(), c.request)
		source := s.client.Source(c.request)
		_, sourced := source.Token()
		for _, err := range []error{direct, sourced} {
			var e *client.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %v, want an *Error", c.name, err)
				continue
			}
			if e.Reason != c.reason || e.Code != c.code || e.Recovery != client.RecoveryFixCaller || e.RequestID == "" || e.Message == "" {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
	}
}

// everybody takes a token in many goroutines and returns the ids they got.
func everybody(t *testing.T, source *client.Source) map[string]bool {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 1000 {
		group.Go(func() {
			token, err := source.Get(t.Context())
			if err != nil {
				t.Errorf("get: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[token.ID] = true
		})
	}
	group.Wait()
	synctest.Wait() // what was begun in the background
	return ids
}

func herd(t *testing.T, s *stage) {
	s.setDelay(time.Second)
	ids := everybody(t, s.client.Source(acme))
	if len(ids) != 1 || s.calls.Load() != 1 || s.minted() != 1 {
		t.Errorf("%d tokens by %d calls and %d requests upstream, want 1 each", len(ids), s.calls.Load(), s.minted())
	}
}

func refresh(t *testing.T, s *stage) {
	source := s.client.Source(acme)
	first := must[*client.Token](t)(source.Get(t.Context()))
	time.Sleep(time.Until(first.RefreshAfter) - time.Second)
	if everybody(t, source); s.calls.Load() != 1 {
		t.Fatalf("%d calls before refresh_after, want 1", s.calls.Load())
	}
	time.Sleep(2 * time.Second)
	if ids := everybody(t, source); s.calls.Load() != 2 || !ids[first.ID] {
		t.Fatalf("%d calls after refresh_after, want 2; old token served: %v", s.calls.Load(), ids[first.ID])
	}
	time.Sleep(3 * time.Second) // the broker served the old one once more while it got the new one
	everybody(t, source)
	token := must[*client.Token](t)(source.Get(t.Context()))
	if token.ID == first.ID || s.calls.Load() != 3 || s.minted() != 2 {
		t.Errorf("new token: %v, %d calls, %d requests upstream; want a new one, 3, 2", token.ID != first.ID, s.calls.Load(), s.minted())
	}
}

func away(t *testing.T, s *stage) {
	source := s.client.Source(acme)
	first := must[*client.Token](t)(source.Get(t.Context()))
	s.down()
	for time.Now().Before(first.ExpireTime.Add(-time.Minute)) {
		time.Sleep(30 * time.Second)
		if token, err := source.Get(t.Context()); err != nil || token.ID != first.ID {
			t.Fatalf("at %v before expiry: %v", time.Until(first.ExpireTime), err)
		}
	}
	time.Sleep(time.Minute)
	_, err := source.Get(t.Context())
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.Unavailable && e.Code != codes.DeadlineExceeded {
		t.Errorf("after expiry: %v, want that the broker is away", err)
	}
}

func watched(t *testing.T, s *stage) {
	source := s.client.Source(client.Request{Client: "clients/acme", Watch: true})
	for range 300 {
		token := must[*client.Token](t)(source.Get(t.Context()))
		if left := time.Until(token.ExpireTime); left <= 0 {
			t.Fatalf("a token that expired %v ago was served", -left)
		}
		time.Sleep(time.Minute)
	}
	if most := 300/48 + 2; s.minted() > most {
		t.Errorf("%d requests upstream, want at most %d", s.minted(), most)
	}
}

func refused(t *testing.T, s *stage) {
	source := s.client.Source(acme)
	first := must[*client.Token](t)(source.Get(t.Context()))
	time.Sleep(time.Minute)
	if err := source.Reject(t.Context(), "0123456789abcdef"); err != nil || s.calls.Load() != 1 {
		t.Errorf("rejecting another token: %v, %d calls; want none", err, s.calls.Load()-1)
	}
	if err := source.Reject(t.Context(), first.ID); err != nil {
		t.Fatalf("reject: %v", err)
	}
	if token := must[*client.Token](t)(source.Get(t.Context())); token.ID == first.ID || s.minted() != 2 {
		t.Errorf("token replaced: %v, %d requests upstream, want 2", token.ID != first.ID, s.minted())
	}
}

func leave(t *testing.T, s *stage) {
	s.setDelay(3 * time.Second)
	source := s.client.Source(acme)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := source.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	must[*client.Token](t)(source.Get(t.Context()))
	if s.calls.Load() != 1 || s.minted() != 1 {
		t.Errorf("%d calls, %d requests upstream; want 1 each", s.calls.Load(), s.minted())
	}
}

func closeEnds(t *testing.T, s *stage) {
	s.setDelay(5 * time.Second)
	source := s.client.Source(acme)
	ended := make(chan error, 2)
	go func() { _, err := source.Token(); ended <- err }()
	go func() { _, err := s.client.Token(t.Context(), acme); ended <- err }()
	time.Sleep(time.Second)
	if err := s.client.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	_, after := source.Token()
	for _, err := range []error{<-ended, <-ended, after, source.Reject(t.Context(), "x")} {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
	if _, err := s.client.Source(acme).Token(); !errors.Is(err, client.ErrClosed) {
		t.Errorf("source of a closed client: %v, want ErrClosed", err)
	}
}
