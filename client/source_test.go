package client_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/client"
)

// TestFailuresAreNotRepeated: callers without a token come as fast as they like; the
// broker is asked as fast as it said.
func TestFailuresAreNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.set(func() {
			f.fail = fault(codes.FailedPrecondition, client.ReasonClientDisabled, client.RecoveryFixClient, 20*time.Second)
		})
		source := f.connect(t).Source(acme)
		for range 190 {
			_, err := source.Get(t.Context())
			var e *client.Error
			if !errors.As(err, &e) || e.Reason != client.ReasonClientDisabled || e.RetryAfter <= 0 || e.RetryAfter > 20*time.Second {
				t.Fatalf("got %v (%+v)", err, e)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if f.asked() != 1 {
			t.Errorf("asked %d times, want once in 20 s", f.asked())
		}
		f.set(func() { f.fail = nil })
		time.Sleep(time.Second)
		must[*client.Token](t)(source.Get(t.Context()))
	})
}

// TestUnavailableIsRepeated: by gRPC, which follows the broker's pushback.
func TestUnavailableIsRepeated(t *testing.T) {
	for _, c := range []struct {
		name     string
		code     codes.Code
		pushback string
		asked    int
		least    time.Duration
	}{
		{"unavailable", codes.Unavailable, "", 3, 0},
		{"pushback", codes.Unavailable, "4000", 3, 8 * time.Second},
		{"pushback that forbids", codes.Unavailable, "-1", 1, 0},
		{"another code", codes.FailedPrecondition, "", 1, 0},
		{"rate limited", codes.ResourceExhausted, "", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.set(func() {
					f.fail, f.pushback = fault(c.code, client.ReasonStoreUnreachable, client.RecoveryFixStore, 7*time.Second), c.pushback
				})
				started := time.Now()
				_, err := f.connect(t).Token(t.Context(), acme)
				var e *client.Error
				if !errors.As(err, &e) || e.Code != c.code || e.RetryAfter != 7*time.Second {
					t.Errorf("got %v", err)
				}
				if took := time.Since(started); f.asked() != c.asked || took < c.least {
					t.Errorf("asked %d times in %v, want %d in at least %v", f.asked(), took, c.asked, c.least)
				}
			})
		})
	}
}

// TestSlowBroker: a refresh that takes long holds nobody up.
func TestSlowBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		source := f.connect(t).Source(acme)
		must[*client.Token](t)(source.Get(t.Context()))
		f.set(func() { f.delay = 20 * time.Second })
		time.Sleep(50 * time.Minute)
		for range 100 {
			started := time.Now()
			must[*client.Token](t)(source.Get(t.Context()))
			if took := time.Since(started); took != 0 {
				t.Fatalf("a caller waited %v", took)
			}
			time.Sleep(time.Second)
		}
		if token := must[*client.Token](t)(source.Get(t.Context())); token.Access.Reveal() != canary+"-2" {
			t.Error("the token was not replaced")
		}
	})
}

// TestRejectedByMany: a thousand requests that the API refuses at once are one report.
func TestRejectedByMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		source := f.connect(t).Source(acme)
		first := must[*client.Token](t)(source.Get(t.Context()))
		reject := func() {
			ended := make(chan error)
			for range 1000 {
				go func() { ended <- source.Reject(t.Context(), first.ID) }()
			}
			for range 1000 {
				if err := <-ended; err != nil {
					t.Errorf("reject: %v", err)
				}
			}
		}
		if reject(); f.asked() != 2 || f.mints() != 1 {
			t.Errorf("a new token: asked %d times, %d tokens; want 2 and the same one", f.asked(), f.mints())
		}
		time.Sleep(10 * time.Second)
		if reject(); f.asked() != 3 || f.mints() != 2 {
			t.Errorf("asked %d times, %d tokens; want 3 and 2", f.asked(), f.mints())
		}
		if last := f.requests[2]; last.GetRejectedTokenId() != first.ID {
			t.Errorf("reported %q, want %q", last.GetRejectedTokenId(), first.ID)
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		source := f.connect(t).Source(client.Request{Client: "clients/acme", Watch: true})
		synctest.Wait()
		for n := range 5 {
			if got, want := must[*client.Token](t)(source.Get(t.Context())).Access.Reveal(), fmt.Sprintf("%s-%d", canary, n+1); got != want {
				t.Errorf("token %d is not the newest", n)
			}
			f.push()
			synctest.Wait()
		}
		time.Sleep(10 * time.Hour)
		must[*client.Token](t)(source.Get(t.Context()))
		if f.asked() != 0 || f.streams != 1 {
			t.Errorf("asked %d times on %d streams, want 0 and 1", f.asked(), f.streams)
		}
	})
}

// TestWatchEnds: a stream that cannot be had is asked for ever more rarely, and the
// source asks by itself.
func TestWatchEnds(t *testing.T) {
	for _, c := range []struct {
		name        string
		end         error
		least, most int // streams in an hour
	}{
		{"unimplemented", fault(codes.Unimplemented, "", "", 0), 12, 25},
		{"not allowed", fault(codes.PermissionDenied, client.ReasonCallerNotAllowed, client.RecoveryFixCaller, 0), 12, 25},
		{"disabled", fault(codes.FailedPrecondition, client.ReasonClientDisabled, client.RecoveryFixClient, 0), 60, 130},
		{"asked to wait", fault(codes.ResourceExhausted, client.ReasonTooManyRequests, client.RecoveryWait, 4*time.Minute), 14, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.set(func() { f.watchEnd = c.end })
				source := f.connect(t).Source(client.Request{Client: "clients/acme", Watch: true})
				first := must[*client.Token](t)(source.Get(t.Context()))
				for range 60 {
					time.Sleep(time.Minute)
					must[*client.Token](t)(source.Get(t.Context()))
				}
				if got := f.get(func() int { return f.streams }); got < c.least || got > c.most {
					t.Errorf("%d streams in an hour, want %d to %d", got, c.least, c.most)
				}
				if token := must[*client.Token](t)(source.Get(t.Context())); token.ID == first.ID {
					t.Error("the source did not ask by itself")
				}
				f.set(func() { f.watchEnd = nil })
				time.Sleep(10 * time.Minute)
				f.push()
				synctest.Wait()
				asked := f.asked()
				if token := must[*client.Token](t)(source.Get(t.Context())); token.Access.Reveal() != f.current.GetAccessToken() || f.asked() != asked {
					t.Error("the stream was not opened again")
				}
			})
		})
	}
}

// TestSourceClose: what the source began is over when Close returns; others go on.
func TestSourceClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.set(func() { f.delay, f.watchEnd = time.Second, fault(codes.Unimplemented, "", "", 0) })
		c := f.connect(t)
		source, other := c.Source(client.Request{Client: "clients/acme", Watch: true}), c.Source(acme)
		ended := make(chan error)
		go func() { _, err := source.Get(t.Context()); ended <- err }()
		go func() { _, err := other.Get(t.Context()); ended <- err }()
		time.Sleep(time.Millisecond)
		source.Close()
		source.Close()
		if err := <-ended; !errors.Is(err, client.ErrClosed) {
			t.Errorf("closed source: %v, want ErrClosed", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}
