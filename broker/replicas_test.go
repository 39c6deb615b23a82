package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// stops are the changes after which a warm token must no longer be served.
var stops = []struct {
	name string
	do   func(t *testing.T, f *fixture) error
	want broker.Reason // "" if another token is served
}{
	{"disable", func(t *testing.T, f *fixture) error {
		_, err := f.SetDisabled(t.Context(), "acme", true)
		return err
	}, broker.ReasonClientDisabled},
	{"delete", func(t *testing.T, f *fixture) error {
		_, err := f.DeleteClient(t.Context(), "acme", "")
		return err
	}, broker.ReasonClientDeleted},
	{"promote and drop tokens", func(t *testing.T, f *fixture) error {
		_, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", AllowUnverified: true, DropTokens: true})
		return err
	}, ""},
}

func TestStopsAtOnceOnThisReplica(t *testing.T) {
	for _, stop := range stops {
		t.Run(stop.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			f.stage(t, "acme", "next-secret")
			before := f.token(t, "acme")
			wantReason(t, stop.name, stop.do(t, f), "")
			after, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, stop.want)
			if after == before {
				t.Error("the old token is still served")
			}
		})
	}
}

// TestStopsSoonOnAnotherReplica: a change is noticed on the second use after 5 s,
// because the first one is answered from memory while the record is read again.
func TestStopsSoonOnAnotherReplica(t *testing.T) {
	for _, stop := range stops {
		t.Run(stop.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.stage(t, "acme", "next-secret")
				other := f.replica(t)
				before := other.token(t, "acme")
				wantReason(t, stop.name, stop.do(t, f), "")
				time.Sleep(5*time.Second + time.Millisecond)
				if got := other.token(t, "acme"); got != before {
					t.Errorf("the first use after 5s waited for the store: %v", got)
				}
				synctest.Wait()
				after, _, err := other.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken", err, stop.want)
				if after == before {
					t.Error("the old token is still served")
				}
			})
		})
	}
}

// TestStopsDuringAMint: a client that is stopped while a token is asked for.
func TestStopsDuringAMint(t *testing.T) {
	for _, stop := range stops {
		t.Run(stop.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.stage(t, "acme", "next-secret")
				f.upstream.Script(brokertest.Step{Delay: 3 * time.Second})
				type answer struct {
					token *broker.Token
					err   error
				}
				first := make(chan answer, 1)
				go func() {
					token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					first <- answer{token, err}
				}()
				time.Sleep(time.Second)
				wantReason(t, stop.name, stop.do(t, f), "")
				_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken after the stop", err, stop.want)
				a := <-first
				if stop.want == "" && (a.err != nil || a.token.SecretVersion != 2) {
					t.Errorf("the first caller got %+v, %v, want a token of the new secret", a.token, a.err)
				}
				_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken when the request has ended", err, stop.want)
			})
		})
	}
}

// TestDroppedTokensStayDropped: raising the floor for what is current already, and
// a promotion that keeps the tokens.
func TestDroppedTokensStayDropped(t *testing.T) {
	f := newFixture(t)
	f.create(t, "acme")
	first := f.token(t, "acme")
	f.stage(t, "acme", "next-secret")
	c := f.promote(t, "acme")
	if c.MinSecretVersion != 0 || f.token(t, "acme") != first {
		t.Errorf("a promotion raised the floor to %d", c.MinSecretVersion)
	}
	for range 2 { // twice is once
		c, err := f.PromoteSecret(t.Context(), broker.Promotion{ClientID: "acme", Number: 2, DropTokens: true})
		if err != nil || c.MinSecretVersion != 2 {
			t.Fatalf("PromoteSecret = %+v, %v, want floor 2", c, err)
		}
	}
	second := f.token(t, "acme")
	if second == first || second.SecretVersion != 2 {
		t.Errorf("token of version %d, want a new one of version 2", second.SecretVersion)
	}
	f.stage(t, "acme", "third-secret")
	if c := f.promote(t, "acme"); c.MinSecretVersion != 2 {
		t.Errorf("a promotion moved the floor to %d, want 2", c.MinSecretVersion)
	}
	if got := f.token(t, "acme"); got != second {
		t.Errorf("token %+v, want the one of version 2", got)
	}
}

// TestChangesArriveOnAnotherReplica: also after a revalidation that failed.
func TestChangesArriveOnAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		other := f.replica(t)
		other.token(t, "acme")
		_, err := f.SetDisabled(t.Context(), "acme", true)
		wantReason(t, "SetDisabled", err, "")
		other.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		for range 60 {
			time.Sleep(time.Second)
			other.token(t, "acme") // a store that is down takes no warm token away
		}
		synctest.Wait()
		other.store.Heal()
		time.Sleep(6 * time.Second)
		other.token(t, "acme")
		synctest.Wait()
		_, _, err = other.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
	})
}

// TestARestoredBackup: revisions that run backwards are the truth all the same.
func TestARestoredBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		_, err := f.SetDisabled(t.Context(), "acme", true)
		wantReason(t, "SetDisabled", err, "")
		key := keyUnder(t, f.memory, "clients/")
		backup := recordOf(t, f.memory, key)
		for _, disabled := range []bool{false, true, false} {
			_, err := f.SetDisabled(t.Context(), "acme", disabled)
			wantReason(t, "SetDisabled", err, "")
		}
		f.token(t, "acme")
		f.memory.Remove(key, broker.AbsentNeverExisted)
		f.memory.Put(key, backup) // revision 1, in which it is disabled

		time.Sleep(6 * time.Second)
		f.token(t, "acme")
		synctest.Wait()
		_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
	})
}

// TestALateReadDoesNotUndoAChange: a read of the record that began before a change
// on this replica ends after it.
func TestALateReadDoesNotUndoAChange(t *testing.T) {
	for _, fault := range []brokertest.Fault{brokertest.LoseAfter(), brokertest.After(func(brokertest.Call) {})} {
		t.Run(fault.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme")
				f.token(t, "acme")
				time.Sleep(6 * time.Second)
				read := fault.After
				fault.After = func(ctx context.Context, c brokertest.Call) error { // the answer is 12 s under way
					time.Sleep(12 * time.Second)
					return read(ctx, c)
				}
				f.store.Once(fault, brokertest.On(brokertest.OpRead, "clients/"))
				f.token(t, "acme") // begins to read the record again
				synctest.Wait()
				_, err := f.SetDisabled(t.Context(), "acme", true)
				wantReason(t, "SetDisabled", err, "")
				for range 14 { // the last ones would like to read the record again, and join that read
					_, _, err = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
					wantReason(t, "GetToken", err, broker.ReasonClientDisabled)
					time.Sleep(time.Second)
				}
				// And the next change by another replica is still noticed.
				_, err = f.replica(t).SetDisabled(t.Context(), "acme", false)
				wantReason(t, "SetDisabled", err, "")
				time.Sleep(6 * time.Second)
				_, _, _ = f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				synctest.Wait()
				f.token(t, "acme")
			})
		})
	}
}

// TestMoreClientsThanFitIntoMemory: what is pushed out is read again; nobody is
// told that a client does not exist.
func TestMoreClientsThanFitIntoMemory(t *testing.T) {
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.CachedClients, cfg.CachedTokens = 4, 4
	})
	for i := range 100 {
		f.create(t, fmt.Sprint("client-", i))
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 100 {
				for _, j := range []int{0, 1, 2, 3, i} { // the first four are used most
					if _, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: fmt.Sprint("client-", j)}); err != nil {
						t.Errorf("GetToken: %v", err)
					}
				}
			}
		})
	}
	group.Wait()
}
