package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func TestGetToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) { n.Upstream.Parameters = map[string]string{"tenant": "t1"} })
		f.upstream.Script(brokertest.Step{Delay: 2 * time.Second})
		start := time.Now()
		token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		if err != nil {
			t.Fatalf("GetToken: %v", err)
		}
		if got, want := token.Access.RevealString(), "token-1"; got != want || len(warnings) != 0 {
			t.Errorf("token = %q with %v, want %q without warnings", got, warnings, want)
		}
		if token.Type != "Bearer" || token.SecretVersion != 1 || token.ID != token.Access.ID() || !slices.Equal(token.Scopes, []string{"read"}) {
			t.Errorf("token = %+v", token)
		}
		// Its life counts from when the request was sent.
		if got, want := token.IssueTime, start; !got.Equal(want) {
			t.Errorf("IssueTime = %v, want %v", got, want)
		}
		if got, want := token.ExpireTime, start.Add(time.Hour); !got.Equal(want) || token.ExpirySource != broker.ExpiryFromResponse {
			t.Errorf("ExpireTime = %v from %s, want %v", got, token.ExpirySource, want)
		}
		if got := token.RefreshAfter.Sub(start); got < 45*time.Minute+36*time.Second || got > 50*time.Minute+24*time.Second {
			t.Errorf("RefreshAfter = %v after the start, want 48 minutes and up to a fifth of 12 more or less", got)
		}
		r := f.upstream.Requests()[0]
		if r.Endpoint != endpoint || r.ClientID != "client-id-of-acme" || r.Secret.RevealString() != password || r.Authentication.Method != broker.ClientSecretBasic ||
			!slices.Equal(r.Scopes, []string{"read"}) || r.Audience != "aud-1" || !slices.Equal(r.Resources, []string{"https://api.example/a"}) || r.Parameters["tenant"] != "t1" {
			t.Errorf("request = %+v", r.TokenRequest)
		}
	})
}

func TestWarmTokenIsServedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		first := f.token(t, "acme")
		f.store.Reset()
		for range 100 {
			if got := f.token(t, "acme"); got != first {
				t.Fatalf("another token: %+v", got)
			}
		}
		if got := f.store.Calls(); len(got) != 0 {
			t.Errorf("warm requests read the store: %v", got)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestOneRequestForAll has 1,000 callers want one cold token, in waves, so that
// some join the request, some come as it ends, and some after.
func TestOneRequestForAll(t *testing.T) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond, time.Second} {
		t.Run(delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.Always(brokertest.Step{Delay: delay})
				tokens := make([]string, 1000)
				var group sync.WaitGroup
				for i := range tokens {
					group.Go(func() {
						time.Sleep(time.Duration(i%3) * 5 * time.Millisecond)
						token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
						if err != nil {
							t.Errorf("caller %d: %v", i, err)
							return
						}
						tokens[i] = token.Access.RevealString()
					})
				}
				group.Wait()
				if got, want := f.upstream.Count(), 1; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
				if got := slices.Compact(tokens); !slices.Equal(got, []string{"token-1"}) {
					t.Errorf("tokens = %q, want token-1 for all", got)
				}
			})
		})
	}
}

// TestACallerThatMissesTheFlight is the moment between looking into memory and
// asking, in which another caller's request ends, well or badly: it must not become
// a second one.
func TestACallerThatMissesTheFlight(t *testing.T) {
	const rounds = 200
	for _, want := range []broker.Reason{"", broker.ReasonClientRejected} {
		t.Run(string(want), func(t *testing.T) {
			f := newFixture(t)
			if want != "" {
				f.upstream.Always(brokertest.Step{Err: rejected(want)})
			}
			for round := range rounds {
				id := fmt.Sprintf("client-%d", round)
				f.create(t, id)
				start := make(chan struct{})
				var group sync.WaitGroup
				for range 8 {
					group.Go(func() {
						<-start
						_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: id})
						wantReason(t, "GetToken", err, want)
					})
				}
				close(start)
				group.Wait()
			}
			if got := f.upstream.Count(); got != rounds {
				t.Errorf("%d requests for %d tokens", got, rounds)
			}
		})
	}
}

func TestALeavingCallerCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{Delay: 5 * time.Second})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		type answer struct {
			token *broker.Token
			err   error
			after time.Duration
		}
		answers := make(chan answer, 2)
		start := time.Now()
		ask := func(ctx context.Context) {
			token, _, err := f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
			answers <- answer{token, err, time.Since(start)}
		}
		go ask(impatient)
		synctest.Wait()
		go ask(t.Context())

		first, second := <-answers, <-answers
		wantReason(t, "the impatient caller", first.err, broker.ReasonDeadlineExceeded)
		if got, want := first.after, time.Second; got != want {
			t.Errorf("the impatient caller waited %v, want %v", got, want)
		}
		if second.err != nil || second.after != 5*time.Second {
			t.Errorf("the other caller: %v after %v, want a token after 5s", second.err, second.after)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestTheOnlyCallerLeaves: the request goes on, and the next caller finds its token.
func TestTheOnlyCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Script(brokertest.Step{Delay: 5 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := f.GetToken(ctx, broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonDeadlineExceeded)
		time.Sleep(6 * time.Second)
		f.token(t, "acme")
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

func TestMinValidity(t *testing.T) {
	const lifetime = 10 * time.Minute
	tests := []struct {
		name        string
		policy      time.Duration
		query       *time.Duration
		age         time.Duration // of the cached token when it is asked for again
		wantNew     bool
		wantWarning bool
	}{
		{"default, long left", 0, nil, 7 * time.Minute, false, false},
		{"default, 10 s left", 0, nil, lifetime - 10*time.Second, true, false},
		{"none, the mandatory window begins", 0, in(0), lifetime - 30*time.Second, true, false},
		{"none, before the mandatory window", 0, in(0), lifetime - 31*time.Second, false, false},
		{"asked, enough left", 0, in(3 * time.Minute), 6 * time.Minute, false, false},
		{"asked, too little left", 0, in(3 * time.Minute), 7 * time.Minute, true, false},
		{"of the client, enough left", 3 * time.Minute, nil, 6 * time.Minute, false, false},
		{"of the client, too little left", 3 * time.Minute, nil, 7 * time.Minute, true, false},
		{"the query wins", 4 * time.Minute, in(time.Minute), 7 * time.Minute, false, false},
		{"a day is clamped to half of the life", 0, in(24 * time.Hour), 4 * time.Minute, false, true},
		{"a day, past half of the life", 0, in(24 * time.Hour), 5 * time.Minute, true, true},
		{"expired", 0, in(0), lifetime, true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme", func(n *broker.NewClient) { n.TokenPolicy.MinValidity = test.policy })
				f.upstream.SetLifetime(lifetime)
				first := f.token(t, "acme")
				time.Sleep(test.age)
				second, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", MinValidity: test.query})
				if err != nil {
					t.Fatalf("GetToken: %v", err)
				}
				if got := second != first; got != test.wantNew {
					t.Errorf("a new token = %t, want %t", got, test.wantNew)
				}
				if got := slices.Contains(warningsOf(warnings), broker.ReasonTokenShorterThanAsked); got != test.wantWarning {
					t.Errorf("warnings = %v, want TOKEN_SHORTER_THAN_ASKED: %t", warnings, test.wantWarning)
				}
			})
		})
	}
}

// TestATokenThatNeverSatisfies: a server whose tokens live shorter than is asked
// for is not asked again by each caller.
func TestATokenThatNeverSatisfies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.SetLifetime(4 * time.Second)
		start := time.Now()
		for time.Since(start) < time.Minute {
			_, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", MinValidity: in(time.Hour)})
			if err != nil {
				t.Fatalf("GetToken: %v", err)
			}
			if got, want := warningsOf(warnings), []broker.Reason{broker.ReasonTokenShorterThanAsked}; !slices.Equal(got, want) {
				t.Fatalf("warnings = %v, want %v", got, want)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got, most := f.upstream.Count(), 17; got > most {
			t.Errorf("%d requests in a minute for tokens that live 4s, want at most %d", got, most)
		}
	})
}

// TestAGreedyCallerCostsOneRequestPerHoldDown: a caller that wants more validity
// than a server gives, which hands out one token until it expires.
func TestAGreedyCallerCostsOneRequestPerHoldDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		expire := time.Now().Add(20 * time.Minute)
		f.upstream.Always(brokertest.Step{Delay: time.Second, Edit: func(r *broker.TokenResponse) {
			left := time.Until(expire)
			r.ExpiresIn = &left
		}})
		f.token(t, "acme")
		time.Sleep(11 * time.Minute)
		before, start := f.upstream.Count(), time.Now()
		for time.Since(start) < time.Minute {
			if _, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", MinValidity: in(24 * time.Hour)}); err != nil {
				t.Fatalf("GetToken: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got, most := f.upstream.Count()-before, 12; got > most {
			t.Errorf("%d requests in a minute, want at most %d", got, most)
		}
	})
}

func TestScopesThatWereNotGranted(t *testing.T) {
	narrow := func(scopes ...string) brokertest.Step {
		return brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = scopes }}
	}
	tests := []struct {
		name       string
		step       brokertest.Step
		requireAll bool
		want       broker.Reason
		warning    bool
		wantScopes []string
	}{
		{"answer does not say", brokertest.Step{}, true, "", false, []string{"read", "write"}},
		{"all", narrow("read", "write"), true, "", false, []string{"read", "write"}},
		{"more", narrow("extra", "read", "write"), true, "", false, []string{"extra", "read", "write"}},
		{"fewer", narrow("read"), false, "", true, []string{"read"}},
		{"fewer, all required", narrow("read"), true, broker.ReasonScopeNotGranted, false, nil},
		{"none at all", narrow([]string{}...), false, "", true, nil},
		{"others", narrow("other"), true, broker.ReasonScopeNotGranted, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme", func(n *broker.NewClient) { n.TokenPolicy.RequireAllScopes = test.requireAll })
				if test.name == "none at all" {
					test.step.Edit = func(r *broker.TokenResponse) { r.Scopes = []string{} }
				}
				f.upstream.Always(test.step)
				query := broker.TokenQuery{ClientID: "acme", Scopes: []string{"write", "read"}}
				for range 2 { // the second one is served from memory
					token, warnings, err := f.GetToken(t.Context(), query)
					wantReason(t, "GetToken", err, test.want)
					if got := slices.Contains(warningsOf(warnings), broker.ReasonScopesNarrowed); got != test.warning {
						t.Errorf("warnings = %v, want SCOPES_NARROWED: %t", warnings, test.warning)
					}
					if err == nil && !slices.Equal(token.Scopes, test.wantScopes) {
						t.Errorf("Scopes = %q, want %q", token.Scopes, test.wantScopes)
					}
				}
				if got, want := f.upstream.Count(), 1; got != want {
					t.Errorf("%d requests, want %d", got, want)
				}
			})
		})
	}
}

// TestTheSecretIsWiped: once it was sent, the value that was read for it is
// overwritten, whether it was taken or not.
func TestTheSecretIsWiped(t *testing.T) {
	for _, failing := range []bool{false, true} {
		memory, upstream := brokertest.NewMemory(), brokertest.NewUpstream()
		var seen []secret.Value
		f := open(t, memory, brokertest.NewFaulty(memory), upstream, func(cfg *broker.Config) {
			next := cfg.RequestToken
			cfg.RequestToken = func(ctx context.Context, req broker.TokenRequest) (broker.TokenResponse, error) {
				seen = append(seen, req.Secret)
				return next(ctx, req)
			}
		})
		f.create(t, "acme")
		if failing {
			upstream.Always(brokertest.Step{Err: rejected(broker.ReasonClientRejected)})
		}
		_, _, _ = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		if len(seen) != 1 || seen[0].RevealString() != strings.Repeat("\x00", len(password)) {
			t.Errorf("failing %t: the secret is still %q", failing, seen)
		}
	}
}
