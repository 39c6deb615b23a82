package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestWindowsHaveJitter: replicas and clients that begin together do not come back
// together.
func TestWindowsHaveJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []time.Duration
		for range 20 {
			f := newFixture(t)
			f.create(t, "acme")
			token := f.token(t, "acme")
			all = append(all, token.ExpireTime.Sub(token.RefreshAfter))
		}
		f := newFixture(t)
		for i := range 20 {
			f.create(t, fmt.Sprint("client-", i))
			token := f.token(t, fmt.Sprint("client-", i))
			all = append(all, token.ExpireTime.Sub(token.RefreshAfter))
		}
		slices.Sort(all)
		if got := len(slices.Compact(slices.Clone(all))); got != len(all) {
			t.Errorf("%d different windows of %d", got, len(all))
		}
		if first, last := all[0], all[len(all)-1]; first < 576*time.Second || last > 864*time.Second || last-first < 144*time.Second {
			t.Errorf("windows from %v to %v, want them spread over 12m±20%%", first, last)
		}
	})
}

// TestTheServersWish: refresh_in moves the window, and a refresh never comes before it.
func TestTheServersWish(t *testing.T) {
	tests := []struct {
		name      string
		refreshIn time.Duration
		from, to  time.Duration // of RefreshAfter
	}{
		{"half", 12 * time.Hour, 12 * time.Hour, 14*time.Hour + 24*time.Minute},
		{"close to the end", 24*time.Hour - time.Second, 24*time.Hour - 30*time.Second, 24*time.Hour - 30*time.Second},
		{"beyond the end", 25 * time.Hour, 22*time.Hour + 48*time.Minute, 23*time.Hour + 12*time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.SetLifetime(24 * time.Hour)
				f.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.RefreshIn = &test.refreshIn }})
				token := f.token(t, "acme")
				if got := token.RefreshAfter.Sub(token.IssueTime); got < test.from || got > test.to {
					t.Errorf("refreshed after %v, want between %v and %v", got, test.from, test.to)
				}
			})
		})
	}
}

// TestASkewedServer: the exp of a JWT is by the server's clock, which its Date tells.
func TestASkewedServer(t *testing.T) {
	tests := []struct {
		name   string
		ahead  time.Duration // of the server's clock
		took   time.Duration
		noDate bool
		want   time.Duration // of life; 0 is TOKEN_EXPIRED
	}{
		{"true", 0, 0, false, time.Hour},
		{"true, and slow", 0, 5 * time.Second, false, time.Hour + 5*time.Second},
		{"ten minutes ahead", 10 * time.Minute, 0, false, time.Hour - time.Second},
		{"ten minutes behind", -10 * time.Minute, 0, false, time.Hour - time.Second},
		{"two hours behind", -2 * time.Hour, 0, false, time.Hour - time.Second},
		{"two hours behind, which nobody tells", -2 * time.Hour, 0, true, 0},
		{"years behind: no clock, a broken Date", -5 * 365 * 24 * time.Hour, 0, false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.Always(brokertest.Step{Delay: test.took, Edit: func(r *broker.TokenResponse) {
					r.ServerTime = time.Now().Add(test.ahead)
					r.ExpiresIn, r.AccessToken = nil, secret.NewString(jwt(fmt.Sprintf(`{"exp":%d}`, r.ServerTime.Add(time.Hour).Unix())))
					if test.noDate {
						r.ServerTime = time.Time{}
					}
				}})
				token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				if test.want == 0 {
					wantReason(t, "GetToken", err, broker.ReasonTokenExpired)
					return
				}
				if err != nil {
					t.Fatalf("GetToken: %v", err)
				}
				if got := token.ExpireTime.Sub(token.IssueTime); got != test.want {
					t.Errorf("lives %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestAnOutageOfTheServer walks callers that come ten times a second through one:
// nobody fails while the token lives, nobody waits before its last 30 s and nobody
// longer than 2 s after, all are told when to come back, and all is well within 30 s.
func TestAnOutageOfTheServer(t *testing.T) {
	for _, down := range []brokertest.Step{
		{Err: rejected(broker.ReasonUpstreamUnavailable)},
		{Err: rejected(broker.ReasonUpstreamConnect), Delay: 50 * time.Millisecond},
		{Delay: time.Hour}, // hangs
	} {
		t.Run(fmt.Sprint(broker.ReasonOf(down.Err), down.Delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				token := f.token(t, "acme")
				time.Sleep(time.Until(token.RefreshAfter) - time.Minute)
				f.upstream.Always(down)
				before := f.upstream.Count()
				for token.ExpireTime.After(time.Now().Add(time.Second)) {
					called, mandatory := time.Now(), time.Until(token.ExpireTime) <= 30*time.Second
					got, _ := f.served(t)
					if waited := time.Since(called); got != "token-1" || !mandatory && waited > 0 || waited > 2*time.Second {
						t.Fatalf("%v before it expires: %q after %v", time.Until(token.ExpireTime), got, waited)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if got, most := f.upstream.Count()-before, 30; got > most {
					t.Errorf("%d requests to a server that is down, want at most %d", got, most)
				}
				time.Sleep(10 * time.Minute)
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				if err == nil {
					t.Fatal("an expired token was served")
				}
				if wait := broker.AsError(err).RetryAfter; wait <= 0 || wait > 30*time.Second {
					t.Errorf("told to come back after %v, want some time up to 30s", wait)
				}
				f.upstream.Always(brokertest.Step{})
				time.Sleep(30 * time.Second)
				f.served(t)
			})
		})
	}
}

// TestAnEndpointThatIsDown: what one mint found out the mints of other clients need
// not find out for themselves, and one of them finds out when it is over.
func TestAnEndpointThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		const clients = 100
		for i := range clients {
			f.create(t, fmt.Sprint("client-", i))
		}
		ask := func(want broker.Reason) {
			done := make(chan struct{})
			for i := range clients {
				go func() {
					defer func() { done <- struct{}{} }()
					_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: fmt.Sprint("client-", i)})
					wantReason(t, "GetToken", err, want)
				}()
			}
			for range clients {
				<-done
			}
		}
		f.upstream.Always(brokertest.Step{Delay: 10 * time.Millisecond, Err: rejected(broker.ReasonUpstreamUnavailable)})
		ask(broker.ReasonUpstreamUnavailable)
		if got, most := f.upstream.Count(), 40; got > most { // 32 may be under way at once
			t.Errorf("%d requests for %d clients, want at most %d", got, clients, most)
		}
		for range 6 {
			before := f.upstream.Count()
			time.Sleep(10 * time.Second)
			ask(broker.ReasonUpstreamUnavailable)
			if got := f.upstream.Count() - before; got > 3 {
				t.Errorf("%d requests in 10s, want a trial or two", got)
			}
		}
		f.upstream.Always(brokertest.Step{Delay: 10 * time.Millisecond})
		time.Sleep(30 * time.Second)
		ask("")
	})
}

// TestMintsHaveALimit: at one endpoint, and in all.
func TestMintsHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
		f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) { cfg.Mints, cfg.MintsPerEndpoint = 3, 2 })
		done := make(chan error)
		upstream.Always(brokertest.Step{Delay: time.Second})
		for i := range 9 {
			id := fmt.Sprint("client-", i)
			f.create(t, id, func(n *broker.NewClient) { n.Upstream.TokenEndpoint = fmt.Sprintf("https://as-%d.example/token", i%3) })
			go func() {
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: id})
				done <- err
			}()
		}
		for range 9 {
			wantReason(t, "GetToken", <-done, "")
		}
		perSecond := map[time.Duration]int{}
		start := upstream.Requests()[0].Time
		for _, at := range since(start, upstream.Requests()) {
			perSecond[at]++
		}
		if len(perSecond) != 3 || perSecond[0] != 3 {
			t.Errorf("requests per second: %v, want 3 in each of 3", perSecond)
		}
	})
}
