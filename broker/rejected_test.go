package broker_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// report gets a token for acme and says that the one of that id was refused.
func (f *fixture) report(t *testing.T, id string) (*broker.Token, []broker.Reason) {
	t.Helper()
	token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", RejectedTokenID: id})
	if err != nil {
		t.Fatalf("GetToken: %v", err)
	}
	return token, warningsOf(warnings)
}

// TestARejectedTokenIsReplacedOnce: by however many it is reported, and whenever.
func TestARejectedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		dead := f.token(t, "acme")
		time.Sleep(time.Minute)
		f.upstream.Always(brokertest.Step{Delay: 100 * time.Millisecond})
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if token, warnings := f.report(t, dead.ID); token.ID == dead.ID || len(warnings) > 0 {
					t.Errorf("caller %d got %s with %v, want another token", i, token.ID, warnings)
				}
			})
		}
		group.Wait()
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		time.Sleep(10 * time.Minute)
		f.report(t, dead.ID)
		f.report(t, "0123456789abcdef")
		if got, want := f.upstream.Count(), 2; got != want {
			t.Errorf("%d requests after reports of tokens that nobody holds, want %d", got, want)
		}
	})
}

// TestARejectedTokenThatStays: the server gives the same one again, or does not
// answer. It is asked once per hold-down, and callers are told.
func TestARejectedTokenThatStays(t *testing.T) {
	same := brokertest.Step{Edit: func(r *broker.TokenResponse) { r.AccessToken = input("the-only-token").Value }}
	for name, step := range map[string]brokertest.Step{"same token": same, "no answer": {Err: rejected(broker.ReasonUpstreamRateLimited)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.upstream.Script(same)
				dead := f.token(t, "acme")
				time.Sleep(time.Minute)
				f.upstream.Always(step)
				start := time.Now()
				for time.Since(start) < time.Minute {
					token, warnings := f.report(t, dead.ID)
					if token.ID != dead.ID || !slices.Contains(warnings, broker.ReasonTokenRejected) {
						t.Fatalf("got %s with %v, want the same token and TOKEN_REJECTED", token.ID, warnings)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if got, most := f.upstream.Count()-1, 12; got < 2 || got > most {
					t.Errorf("%d requests in a minute, want 2 to %d", got, most)
				}
				f.upstream.Always(brokertest.Step{})
				time.Sleep(time.Minute)
				if token, _ := f.report(t, dead.ID); token.ID == dead.ID {
					t.Error("the rejected token is served although there is another one")
				}
			})
		})
	}
}

// TestAFreshTokenIsNotReplaced: a report of a token that was had a moment ago waits.
func TestAFreshTokenIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		dead := f.token(t, "acme")
		if token, warnings := f.report(t, dead.ID); token != dead || !slices.Equal(warnings, []broker.Reason{broker.ReasonTokenRejected}) {
			t.Errorf("got %s with %v, want the same token and TOKEN_REJECTED", token.ID, warnings)
		}
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", RejectedTokenID: string(make([]byte, 65))})
		wantReason(t, "GetToken with a long id", err, broker.ReasonInvalidRequest)
	})
}
