package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// TestIssueBudget: replicas together ask for no more than the budget in any period,
// whoever is refused is told when it frees, and nobody loses a token that is good.
func TestIssueBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		const tokens, period = 5, 20 * time.Minute
		f.upstream.SetLifetime(3 * time.Minute)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.IssueBudget = broker.IssueBudget{Tokens: tokens, Period: period}
		})
		replicas := []*fixture{f, f.replica(t), f.replica(t)}
		start, refused := time.Now(), 0
		for i := 0; time.Since(start) < 3*time.Hour; i++ {
			err := replicas[i%3].ask(t, []string{"read", "write"}[i%2])
			if err != nil {
				wantReason(t, "GetToken", err, broker.ReasonIssuanceBudgetSpent)
				if wait := broker.AsError(err).RetryAfter; wait <= 0 || wait > period {
					t.Fatalf("RetryAfter = %v", wait)
				}
				refused++
			}
			time.Sleep(time.Second)
		}
		times := since(start, f.upstream.Requests())
		for i := tokens; i < len(times); i++ {
			if within := times[i] - times[i-tokens]; within < period {
				t.Errorf("%d requests within %v", tokens+1, within)
			}
		}
		if got, least := len(times), 9*tokens-2; got < least || refused == 0 {
			t.Errorf("%d requests and %d refusals in 9 periods, want at least %d", got, refused, least)
		}
	})
}

// TestConsentsCountForTheBudget, but are never refused for it.
func TestConsentsCountForTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newConsents(t)
		w.upstream.SetLifetime(10 * time.Minute)
		w.register(t, "app", broker.AuthorizationCode, func(n *broker.NewClient) {
			n.Upstream.IssueBudget = broker.IssueBudget{Tokens: 2, Period: time.Hour}
		})
		w.granted(t, "app")
		w.granted(t, "app")
		time.Sleep(10 * time.Minute)
		q := broker.TokenQuery{ClientID: "app", Subject: subject}
		_, _, err := w.GetToken(t.Context(), q)
		wantReason(t, "the third token of the hour", err, broker.ReasonIssuanceBudgetSpent)
		w.granted(t, "app")
		if _, _, err := w.GetToken(t.Context(), q); err != nil {
			t.Errorf("the token that came with a consent: %v", err)
		}
	})
}

// TestTheTimeWhenABudgetFrees is told to the second, and true.
func TestTheTimeWhenABudgetFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) { n.Upstream.IssueBudget = broker.IssueBudget{Tokens: 1, Period: time.Hour} })
		wantReason(t, "GetToken", f.ask(t), "")
		time.Sleep(10 * time.Minute)
		err := f.ask(t, "write")
		wantReason(t, "GetToken", err, broker.ReasonIssuanceBudgetSpent)
		if got, want := broker.AsError(err).RetryAfter, 50*time.Minute; got != want {
			t.Errorf("RetryAfter = %v, want %v", got, want)
		}
		time.Sleep(40 * time.Minute)
		if got, want := broker.AsError(f.ask(t, "write")).RetryAfter, 10*time.Minute; got != want {
			t.Errorf("RetryAfter = %v, want %v", got, want)
		}
		time.Sleep(10 * time.Minute)
		wantReason(t, "GetToken", f.ask(t, "write"), "")
	})
}

// TestARefusalSpendsNothing, and what may have been answered does.
func TestARefusalSpendsNothing(t *testing.T) {
	for reason, want := range map[broker.Reason]broker.Reason{
		broker.ReasonScopeRejected:       "",
		broker.ReasonUpstreamTimeout:     broker.ReasonIssuanceBudgetSpent,
		broker.ReasonUpstreamUnavailable: broker.ReasonIssuanceBudgetSpent,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme", func(n *broker.NewClient) { n.Upstream.IssueBudget = broker.IssueBudget{Tokens: 1, Period: time.Hour} })
			f.upstream.Script(brokertest.Step{Err: rejected(reason)})
			wantReason(t, "GetToken", f.ask(t, "admin"), reason)
			if got := f.upstream.Count(); got != 1 {
				t.Errorf("%s: %d requests, want one, which may have been answered", reason, got)
			}
			wantReason(t, "GetToken after "+string(reason), f.ask(t), want)
		})
	}
}

// TestMaxLiveTokens: no request while as many live as may.
func TestMaxLiveTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.MaxLiveTokens, n.Upstream.AllowedAudiences = 2, []string{"aud-2", "aud-3"}
		})
		ask := func(audience string) error {
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Audience: audience})
			return err
		}
		wantReason(t, "aud-1", ask("aud-1"), "")
		time.Sleep(20 * time.Minute)
		wantReason(t, "aud-2", ask("aud-2"), "")
		err := ask("aud-3")
		wantReason(t, "aud-3", err, broker.ReasonLiveTokensSpent)
		if got, want := broker.AsError(err).RetryAfter, 40*time.Minute; got != want {
			t.Errorf("RetryAfter = %v, want %v", got, want)
		}
		for _, scope := range []string{"write", "admin"} { // united: no token of their own
			wantReason(t, scope, f.ask(t, scope), "")
		}
		if got, want := f.upstream.Requests()[0].Scopes, []string{"admin", "read", "write"}; !slices.Equal(got, want) {
			t.Errorf("asked for %q, want %q", got, want)
		}
		time.Sleep(40 * time.Minute)
		wantReason(t, "aud-3 when one has expired", ask("aud-3"), "")
		if got, want := f.upstream.Count(), 3; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestSingleActiveToken: one token for all scopes, kept to its end.
func TestSingleActiveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.SingleActiveToken, n.Upstream.AllowedAudiences = true, nil
		})
		start := time.Now()
		for i := 0; time.Since(start) < 3*time.Hour-time.Minute; i++ {
			token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{
				ClientID: "acme", Scopes: []string{[]string{"read", "write", "admin"}[i%3]}, MinValidity: in(time.Duration(i%2) * time.Hour),
			})
			if err != nil {
				t.Fatalf("GetToken: %v", err)
			}
			if want := fmt.Sprint("token-", f.upstream.Count()); token.Access.RevealString() != want {
				t.Fatalf("after %v: %s with %v, which %s has ended", time.Since(start), token.Access.RevealString(), warningsOf(warnings), want)
			}
			time.Sleep(2 * time.Second)
		}
		times := since(start, f.upstream.Requests())
		if len(times) != 3 || times[1] < time.Hour-10*time.Second || times[2]-times[1] < time.Hour-10*time.Second {
			t.Errorf("requests at %v, want each token asked for in the last 10s of the one before", times)
		}
	})
}

// TestVerifyingEndsTheSingleToken, so the one that verifying got takes its place.
func TestVerifyingEndsTheSingleToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.SingleActiveToken, n.Upstream.AllowedAudiences = true, nil
		})
		other := f.replica(t)
		dead := f.token(t, "acme")
		other.token(t, "acme")
		f.stage(t, "acme", "next-secret")
		time.Sleep(time.Minute)
		_, _, err := f.VerifySecret(t.Context(), "acme", 0)
		wantReason(t, "VerifySecret", err, "")
		f.wantServed(t, "token-2")
		if token, _ := other.report(t, dead.ID); token.Access.RevealString() != "token-2" {
			t.Errorf("the other replica serves %s, want token-2", token.Access.RevealString())
		}
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}
