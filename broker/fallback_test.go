package broker_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// fresh gets a token of a scope that nobody has asked for yet, or a new one.
func (p *process) fresh(t *testing.T) (*broker.Token, []broker.Warning, error) {
	t.Helper()
	held, _, err := p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	if err != nil {
		return nil, nil, err
	}
	time.Sleep(6 * time.Second) // or the one that is held counts as just had
	return p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", RejectedTokenID: held.ID})
}

// promotedThenRefused leads to a promoted rotation whose new secret the server has
// accepted for as long as it was verified, and refuses from then on.
func promotedThenRefused(t *testing.T, kind brokertest.ProviderKind, compromised bool, edits ...func(*broker.NewClient)) (*world, *process) {
	t.Helper()
	w := newWorld(kind)
	w.upstream.SetLifetime(time.Hour)
	p := w.process(t)
	p.createAcme(t, append([]func(*broker.NewClient){func(n *broker.NewClient) { n.Rotation.Overlap = 24 * time.Hour }}, edits...)...)
	p.run(t)
	if _, err := p.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", RequestID: "r", Compromised: compromised}); err != nil {
		t.Fatal(err)
	}
	for w.journal(t).PromoteTime.IsZero() {
		time.Sleep(time.Second)
	}
	current, _ := p.get(t, "acme").Staged(broker.Current)
	w.upstream.Withdraw(acmeID, w.valueOf(t, current.Number))
	return w, p
}

// TestARefusedSecretIsRolledBack where the provider takes both, on >= 3 refusals in >= 2
// attempts that lie 10 s apart, seen by two replicas; and its callers have tokens all the time.
func TestARefusedSecretIsRolledBack(t *testing.T) {
	for _, name := range []string{"overlapping", "key pair"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := promotedThenRefused(t, kindOf(t, name), false)
				replicas := []*process{p, w.process(t).run(t)}
				warned := 0
				for i := range 12 {
					token, warnings, err := replicas[i%2].fresh(t)
					if err != nil {
						t.Fatalf("call %d: %v", i, err)
					}
					if slices.Contains(warningsOf(warnings), broker.ReasonUsingPreviousSecret) {
						warned++
					}
					if token.SecretVersion != 1 {
						t.Errorf("call %d: a token of version %d", i, token.SecretVersion)
					}
				}
				if warned == 0 {
					t.Error("nobody was told that the previous secret is used")
				}
				r := p.rotation(t)
				if r.State != broker.RotationRolledBack || r.Reason != broker.ReasonClientRejected {
					t.Errorf("the rotation is %+v, want it rolled back", r)
				}
				w.wantWorking(t)
			})
		})
	}
}

// TestRefusalsAtOneMoment are one attempt, however many they are.
func TestRefusalsAtOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := promotedThenRefused(t, kindOf(t, "overlapping"), false)
		w.upstream.Always(brokertest.Step{Delay: time.Second})
		ask := func() {
			var group sync.WaitGroup
			for _, scopes := range [][]string{{"write"}, {"admin"}, {"read", "write"}, {"read", "admin"}} {
				group.Go(func() {
					q := broker.TokenQuery{ClientID: "acme", Scopes: scopes}
					held, _, err := p.GetToken(p.ctx, q)
					if err != nil {
						t.Errorf("GetToken: %v", err)
					}
					time.Sleep(12 * time.Second)
					if _, _, err = p.GetToken(p.ctx, broker.TokenQuery{ClientID: "acme", Scopes: scopes, RejectedTokenID: held.ID}); err != nil {
						t.Errorf("GetToken: %v", err)
					}
				})
			}
			time.Sleep(8 * time.Second)
			if r := p.rotation(t); r.State != broker.RotationPromoted {
				t.Errorf("the rotation is %s after refusals at one moment", r.State)
			}
			group.Wait()
		}
		ask()
		if r := p.rotation(t); r.State != broker.RotationRolledBack {
			t.Errorf("the rotation is %s after refusals at two moments", r.State)
		}
	})
}

// TestARefusedSecretIsNotRolledBack where that may do harm or is not proven.
func TestARefusedSecretIsNotRolledBack(t *testing.T) {
	tests := []struct {
		name        string
		kind        brokertest.ProviderKind
		compromised bool
		edit        func(*broker.NewClient)
		calls       int
		// served says that callers get tokens with the previous secret.
		served bool
	}{
		{"two refusals", kindOf(t, "overlapping"), false, nil, 2, true},
		{"before it can be known", kindOf(t, "overlapping"), false, func(n *broker.NewClient) { n.Rotation.Propagation = 10 * time.Minute }, 12, true},
		{"compromised", kindOf(t, "overlapping"), true, nil, 8, false},
		{"the provider has ended the other", kindOf(t, "activated, works before"), false, nil, 8, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := promotedThenRefused(t, test.kind, test.compromised, func(n *broker.NewClient) {
					if test.edit != nil {
						test.edit(n)
					}
				})
				for i := range test.calls {
					time.Sleep(6 * time.Second)
					_, _, err := p.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Scopes: []string{"read", "write"}[:1+i%2], Audience: fmt.Sprint("aud-", 1+i/2%2)})
					if test.served && err != nil {
						t.Errorf("call %d: %v", i, err)
					}
				}
				if current, _ := p.get(t, "acme").Staged(broker.Current); current.Number != 2 {
					t.Errorf("version %d is current, want 2: %+v", current.Number, p.rotation(t))
				}
				if test.compromised {
					if left := w.memory.Contains(password); len(left) > 0 {
						t.Errorf("the compromised secret is at %q", left)
					}
					for _, r := range w.upstream.Requests() {
						if r.Secret.RevealString() == password && r.Time.After(p.rotation(t).PromoteTime) {
							t.Error("the compromised secret was used after the new one was current")
						}
					}
				}
			})
		})
	}
}

// TestFallbackEndsWithASuccess: refusals before it count no more.
func TestFallbackEndsWithASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := promotedThenRefused(t, kindOf(t, "overlapping"), false)
		if _, _, err := p.fresh(t); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		if _, _, err := p.fresh(t); err != nil {
			t.Fatal(err)
		}
		w.upstream.Register(acmeID, w.valueOf(t, 2)) // it is known there at last
		time.Sleep(11 * time.Second)
		token, warnings, err := p.fresh(t)
		if err != nil || token.SecretVersion != 2 || len(warnings) > 0 {
			t.Errorf("token %+v, %v, %v, want one of version 2", token, warnings, err)
		}
		w.upstream.Withdraw(acmeID, w.valueOf(t, 2))
		for range 2 {
			time.Sleep(time.Second)
			if _, _, err := p.fresh(t); err != nil {
				t.Fatal(err)
			}
		}
		if r := p.rotation(t); r.State != broker.RotationPromoted {
			t.Errorf("the rotation is %+v, want it promoted", r)
		}
	})
}

// TestBridge: while a provider replaces the secret in place and takes its time to accept
// the new one, each of many callers of two replicas has a token that works.
func TestBridge(t *testing.T) {
	for _, name := range []string{"replaced, shows", "replaced, chosen", "activated", "activated, works before", "overlapping"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kind := kindOf(t, name)
				kind.Traits.Propagation = 75 * time.Second
				w := newWorld(kind)
				w.upstream.SetLifetime(4 * time.Minute)
				p := w.process(t)
				p.createAcme(t, func(n *broker.NewClient) { n.Rotation.Propagation = 5 * time.Minute })
				p.run(t)
				replicas := []*process{p, w.process(t).run(t)}
				var group sync.WaitGroup
				stop := make(chan struct{})
				for i := range 40 {
					group.Go(func() {
						q := broker.TokenQuery{ClientID: "acme", Scopes: [][]string{{"read"}, {"write"}, {"read", "write"}}[i%3]}
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Second + time.Duration(i)*7*time.Millisecond):
							}
							token, _, err := replicas[i%2].GetToken(p.ctx, q)
							if err != nil || !token.ExpireTime.After(time.Now()) {
								t.Errorf("at %s: caller %d: %v", time.Now().Format("04:05"), i, err)
							}
						}
					})
				}
				time.Sleep(170 * time.Second) // the tokens end before the new secret is accepted
				p.rotate(t)
				r := p.end(t)
				if r.State != broker.RotationCompleted {
					t.Errorf("the rotation is %+v", r)
				}
				close(stop)
				group.Wait()
				w.wantWorking(t)
			})
		})
	}
}

// TestVerificationKeepsTheLimits: a client whose tokens are limited is verified by one
// token, which counts, and which all share where it ends the one before.
func TestVerificationKeepsTheLimits(t *testing.T) {
	t.Run("budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(kindOf(t, "overlapping"))
			w.upstream.SetLifetime(time.Hour)
			p := w.process(t)
			p.createAcme(t, func(n *broker.NewClient) {
				n.Upstream.IssueBudget = broker.IssueBudget{Tokens: 2, Period: 10 * time.Minute}
			})
			p.run(t)
			q := broker.TokenQuery{ClientID: "acme", Scopes: []string{"write"}}
			if _, _, err := p.GetToken(t.Context(), q); err != nil { // spends the budget
				t.Fatal(err)
			}
			before := w.upstream.Count()
			p.rotate(t)
			time.Sleep(9 * time.Minute)
			if got := w.upstream.Count(); got != before {
				t.Errorf("%d requests beyond the budget", got-before)
			}
			p.until(t, broker.RotationPromoted)
			if got := w.upstream.Count() - before; got != 1 {
				t.Errorf("verified with %d requests, want 1", got)
			}
		})
	})
	t.Run("single active token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(kindOf(t, "overlapping"))
			w.upstream.SetLifetime(time.Hour)
			p := w.process(t)
			p.createAcme(t, func(n *broker.NewClient) {
				n.Upstream.SingleActiveToken, n.Upstream.AllowedAudiences = true, nil
			})
			p.run(t)
			p.rotate(t)
			p.until(t, broker.RotationPromoted)
			if got, want := p.token(t, "acme").SecretVersion, int64(2); got != want || w.upstream.Count() != 2 {
				t.Errorf("a token of version %d after %d requests, want the one that verified version %d", got, w.upstream.Count(), want)
			}
		})
	})
}

// TestRotateRefusesBadInput before anything is touched.
func TestRotateRefusesBadInput(t *testing.T) {
	tests := []struct {
		name string
		q    broker.RotationRequest
		want broker.Reason
	}{
		{"the same again", broker.RotationRequest{Secret: input(password)}, broker.ReasonSecretUnchanged},
		{"white space", broker.RotationRequest{Secret: input(" \n")}, broker.ReasonInvalidRequest},
		{"nothing to make one", broker.RotationRequest{}, broker.ReasonRotatorNotSet},
		{"what does not fit", broker.RotationRequest{Secret: input("-----BEGIN KEY-----")}, broker.ReasonSecretUnusable},
		{"a long request id", broker.RotationRequest{Secret: input("given"), RequestID: fmt.Sprintf("%200d", 1)}, broker.ReasonInvalidRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme")
			before := content(t, f.memory)
			test.q.ClientID = "acme"
			_, err := f.RotateSecret(t.Context(), test.q)
			wantReason(t, "RotateSecret", err, test.want)
			if got := content(t, f.memory); got != before {
				t.Errorf("the store changed to\n%s", got)
			}
		})
	}
	for name, stop := range map[broker.Reason]func(f *fixture) error{
		broker.ReasonClientDisabled: func(f *fixture) error { _, err := f.SetDisabled(f.ctx, "acme", true); return err },
		broker.ReasonClientDeleted:  func(f *fixture) error { _, err := f.DeleteClient(f.ctx, "acme", ""); return err },
	} {
		f := newFixture(t)
		f.ctx = t.Context()
		f.create(t, "acme")
		if err := stop(f); err != nil {
			t.Fatal(err)
		}
		_, err := f.RotateSecret(t.Context(), broker.RotationRequest{ClientID: "acme", Secret: input("given")})
		wantReason(t, "RotateSecret", err, name)
	}
}
