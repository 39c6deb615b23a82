package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// referred is what the client "acme" of a referring fixture refers to.
var referred = broker.SecretReference{Mount: "team", Path: "oauth/acme", Field: "client_secret"}

// referring is a fixture whose client refers to a secret of owner.
type referring struct {
	*fixture
	owner *brokertest.References
}

// newReferring returns one whose client has got no token yet. The owner's version 1 is
// "owned 1", which the provider takes.
func newReferring(t *testing.T) *referring {
	t.Helper()
	memory := brokertest.NewMemory()
	f := openReferring(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), brokertest.NewReferences())
	f.change("owned 1")
	f.createReferring(t)
	return f
}

func openReferring(t *testing.T, memory *brokertest.Memory, store *brokertest.Faulty, upstream *brokertest.Upstream, owner *brokertest.References) *referring {
	t.Helper()
	return &referring{open(t, memory, store, upstream, func(cfg *broker.Config) { cfg.References, cfg.KeepSecret = owner, time.Hour }), owner}
}

func (f *referring) another(t *testing.T) *referring {
	t.Helper()
	return openReferring(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, f.owner)
}

func (f *referring) createReferring(t *testing.T) {
	t.Helper()
	n := newClient("acme")
	n.Secret = broker.SecretInput{Reference: referred}
	if _, err := f.CreateClient(t.Context(), n); err != nil {
		t.Fatalf("CreateClient: %v", err)
	}
}

// change has the owner write a secret that the provider takes.
func (f *referring) change(text string) {
	f.upstream.Register("client-id-of-acme", text)
	f.owner.Put(referred.Mount, referred.Path, map[string]any{referred.Field: text})
}

// wantCurrent checks that the current version is the owner's of that number, that
// stages are as they should be, and that no value of the owner's is in our store.
func (f *referring) wantCurrent(t *testing.T, ownerVersion int64, wantStages string) {
	t.Helper()
	c := f.get(t, "acme")
	current, ok := c.Staged(broker.Current)
	if !ok || current.OwnerVersion != ownerVersion || current.Reference != referred {
		t.Errorf("current is version %d of %s, want version %d of %s", current.OwnerVersion, current.Reference, ownerVersion, referred)
	}
	if got := stages(c); got != wantStages {
		t.Errorf("stages = %q, want %q", got, wantStages)
	}
	if keys := f.memory.Contains("owned "); len(keys) != 0 { // no random id has a space
		t.Errorf("a value of the owner's is at %q", keys)
	}
}

// asked counts the requests to the authorization server with that secret.
func (f *referring) asked(text string) int {
	n := 0
	for _, r := range f.upstream.Requests() {
		if r.Secret.RevealString() == text {
			n++
		}
	}
	return n
}

func TestFollowsOnEveryMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		f.wantCurrent(t, 1, "1 current")
		f.wantTokenWith(t, "owned 1")

		f.change("owned 2")
		wantReason(t, "a token of another kind", f.ask(t, "write"), "")
		f.wantCurrent(t, 2, "1 previous, 2 current")
		if c := f.get(t, "acme"); c.Secrets[1].VerifyTime.IsZero() || c.Secrets[1].PromoteTime.IsZero() {
			t.Errorf("version 2 was not verified and promoted: %+v", c.Secrets[1])
		}
		f.change("owned 3")
		time.Sleep(brokertest.DefaultLifetime)
		token := f.token(t, "acme")
		f.wantCurrent(t, 3, "2 previous, 3 current")
		if n := f.asked("owned 3"); n != 1 || token.SecretVersion != 3 {
			t.Errorf("the provider was asked %d times with what is new, want once: the token that proves it is the one that is served", n)
		}
		if looks, _ := f.owner.Calls(); looks != 3 {
			t.Errorf("the owner was looked at %d times, want once for each mint", looks)
		}
	})
}

// TestFollowsForever: what is left behind needs no room.
func TestFollowsForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		for n := range int64(20) {
			f.change(fmt.Sprintf("owned %d", n+2))
			time.Sleep(brokertest.DefaultLifetime)
			f.token(t, "acme")
			f.wantCurrent(t, n+2, fmt.Sprintf("%d previous, %d current", n+1, n+2))
		}
	})
}

func TestFollowsWhileUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		f.run(t)
		f.token(t, "acme")
		time.Sleep(2 * time.Minute)
		if looks, _ := f.owner.Calls(); looks != 1 {
			t.Errorf("the owner of a secret that nobody uses was looked at %d times", looks)
		}
		f.token(t, "acme") // warm
		f.change("owned 2")
		time.Sleep(30 * time.Second)
		f.wantCurrent(t, 2, "1 previous, 2 current")
	})
}

// TestFollowFails has what keeps a change of the owner's from being taken over.
func TestFollowFails(t *testing.T) {
	put := func(fields map[string]any) func(*testing.T, *referring) {
		return func(_ *testing.T, f *referring) { f.owner.Put(referred.Mount, referred.Path, fields) }
	}
	tests := []struct {
		name string
		// spoil changes what the owner has.
		spoil func(t *testing.T, f *referring)
		want  broker.Reason
		most  int // looks in 10 min of a mint each second
		// mend is what lets it go on, as version wanted of the owner.
		mend   func(t *testing.T, f *referring)
		wanted int64
	}{
		{"refused by the provider", put(map[string]any{referred.Field: "owned, but wrong"}), broker.ReasonClientRejected, 5, func(_ *testing.T, f *referring) {
			f.upstream.Register("client-id-of-acme", "owned, but wrong")
		}, 2},
		{"replaced before it worked", put(map[string]any{referred.Field: "owned, but wrong"}), broker.ReasonClientRejected, 5, func(_ *testing.T, f *referring) { f.change("owned 3") }, 3},
		{"not text", put(map[string]any{referred.Field: 7}), broker.ReasonReferenceUnreadable, 12, func(_ *testing.T, f *referring) { f.change("owned 3") }, 3},
		{"white space", put(map[string]any{referred.Field: " \n"}), broker.ReasonReferenceUnreadable, 12, func(_ *testing.T, f *referring) { f.change("owned 3") }, 3},
		{"a key", put(map[string]any{referred.Field: "-----BEGIN PRIVATE KEY-----"}), broker.ReasonSecretUnusable, 12, func(_ *testing.T, f *referring) { f.change("owned 3") }, 3},
		{"deleted", func(_ *testing.T, f *referring) {
			f.change("owned 2")
			f.owner.Delete(referred.Mount, referred.Path, 2)
		}, broker.ReasonReferenceUnreadable, 12, func(_ *testing.T, f *referring) { f.change("owned 3") }, 3},
		{"another version is pending", func(t *testing.T, f *referring) {
			f.stage(t, "acme", "staged by hand")
			f.change("owned 2")
		}, broker.ReasonSecretWrongStage, 12, func(t *testing.T, f *referring) {
			wantReason(t, "RetireSecret", f.RetireSecret(t.Context(), "acme", 2), "")
		}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newReferring(t)
				f.upstream.SetLifetime(time.Second)
				f.token(t, "acme")
				before, _ := f.owner.Calls()
				test.spoil(t, f)
				for range 600 {
					time.Sleep(time.Second)
					f.wantTokenWith(t, "owned 1") // nobody notices
				}
				looks, _ := f.owner.Calls()
				if looks -= before; looks > test.most {
					t.Errorf("the owner was looked at %d times in 10 min, want %d at most", looks, test.most)
				}
				if log := f.log.String(); !strings.Contains(log, "secret does not follow its owner") || !strings.Contains(log, string(test.want)) {
					t.Errorf("the log does not tell %s:\n%s", test.want, log)
				}
				if strings.Contains(f.log.String(), "owned") {
					t.Error("the log has the secret")
				}
				report, err := f.CheckLookup(t.Context(), broker.LookupCheck{ClientID: "acme", Depth: broker.DepthSecret, Permitted: broker.DepthAPI})
				wantReason(t, "CheckLookup", err, "")
				if last := report.Stages[len(report.Stages)-1]; last.Outcome != broker.OutcomeWarned || last.Reason != test.want {
					t.Errorf("the check says %s, %s; want a warning of %s", last.Outcome, last.Reason, test.want)
				}
				test.mend(t, f)
				time.Sleep(time.Hour)
				f.token(t, "acme")
				if current, _ := f.get(t, "acme").Staged(broker.Current); current.OwnerVersion != test.wanted {
					t.Errorf("afterwards current is version %d of the owner's, want %d", current.OwnerVersion, test.wanted)
				}
			})
		})
	}
}

// TestFollowsInAnOutage: with everything away, the secret that was read last still
// gets tokens, and the change is taken over as soon as it can be seen.
func TestFollowsInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		f.token(t, "acme")
		away := &broker.Error{Reason: broker.ReasonStoreUnreachable}
		f.change("owned 2")
		f.owner.Refuse(away)
		f.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		time.Sleep(brokertest.DefaultLifetime - 10*time.Minute)
		wantReason(t, "GetToken", f.ask(t, "write"), "")
		f.owner.Refuse(nil)
		f.store.Heal()
		time.Sleep(time.Hour)
		f.wantTokenWith(t, "owned 2")
		f.wantCurrent(t, 2, "1 previous, 2 current")
	})
}

// TestFollowsOnce: of many replicas that see the change at once, one tries it.
func TestFollowsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		replicas := []*referring{f, f.another(t), f.another(t)}
		f.change("owned 2")
		f.upstream.Always(brokertest.Step{Delay: time.Second})
		var wait sync.WaitGroup
		for _, replica := range replicas {
			wait.Go(func() { wantReason(t, "GetToken", replica.ask(t), "") })
		}
		wait.Wait()
		if n := f.asked("owned 2"); n != 1 {
			t.Errorf("the provider was asked %d times with what is new, want once", n)
		}
		f.wantCurrent(t, 2, "1 previous, 2 current")
	})
}

// TestFollowsWithFewTokens: the token that proves the new secret is the one that all
// have from then on, where each one counts.
func TestFollowsWithFewTokens(t *testing.T) {
	for name, limit := range map[string]func(*broker.Upstream){
		"single active": func(u *broker.Upstream) { u.SingleActiveToken = true },
		"budget":        func(u *broker.Upstream) { u.IssueBudget = broker.IssueBudget{Tokens: 2, Period: 24 * time.Hour} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newReferring(t)
				_, err := f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) {
					c.Upstream.AllowedAudiences = nil
					limit(&c.Upstream)
				}})
				wantReason(t, "UpdateClient", err, "")
				f.token(t, "acme")
				f.change("owned 2")
				time.Sleep(brokertest.DefaultLifetime)
				first, second := f.token(t, "acme"), f.another(t).token(t, "acme")
				if n := f.asked("owned 2"); n != 1 || first.ID != second.ID {
					t.Errorf("%d tokens were got with the new secret, want one for all", n)
				}
				f.wantCurrent(t, 2, "1 previous, 2 current")
			})
		})
	}
}

// TestRolledBackIsNotFollowed: who rolls back has a reason.
func TestRolledBackIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		f.change("owned 2")
		f.token(t, "acme")
		key := keyUnder(t, f.memory, "clients/")
		f.memory.Put(key, strings.NewReplacer(`"stage":"current",`, "", `"stage":"previous"`, `"stage":"current"`).Replace(recordOf(t, f.memory, key)))
		time.Sleep(brokertest.DefaultLifetime)
		f.wantTokenWith(t, "owned 1")
		f.wantCurrent(t, 1, "1 current, 2 unlabelled")
		f.change("owned 3")
		time.Sleep(brokertest.DefaultLifetime)
		f.wantTokenWith(t, "owned 3")
	})
}

// TestFollowingBindsNothingAnew: a client goes elsewhere only as any other does.
func TestFollowingBindsNothingAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		move := broker.ClientUpdate{ID: "acme", Edit: func(c *broker.Client) { c.Upstream.TokenEndpoint = "https://thief.example/token" }}
		_, err := f.UpdateClient(t.Context(), move)
		wantReason(t, "UpdateClient", err, broker.ReasonDestinationNotBound)

		key := keyUnder(t, f.memory, "clients/") // by hand, behind our back
		f.memory.Put(key, strings.Replace(recordOf(t, f.memory, key), endpoint, "https://thief.example/token", 1))
		f.change("owned 2")
		_, _, err = f.another(t).GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
		wantReason(t, "GetToken", err, broker.ReasonDestinationNotBound)
		f.wantCurrent(t, 1, "1 current")
		if n := len(f.upstream.Requests()); n != 0 {
			t.Errorf("%d requests left", n)
		}

		f.memory.Put(key, strings.Replace(recordOf(t, f.memory, key), "https://thief.example/token", endpoint, 1))
		move.MayRetarget = func(*broker.Client) bool { return true }
		if _, err := f.UpdateClient(t.Context(), move); err != nil {
			t.Fatalf("UpdateClient by who may: %v", err)
		}
		f.wantCurrent(t, 2-1, "1 previous, 2 current")
	})
}

func TestRetiringAReferenceDestroysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newReferring(t)
		f.change("owned 2")
		f.token(t, "acme")
		wantReason(t, "RetireSecret", f.RetireSecret(t.Context(), "acme", 1), "")
		f.wantCurrent(t, 2, "2 current")
		for n := range int64(2) {
			if _, err := f.owner.Read(t.Context(), referred, n+1); err != nil {
				t.Errorf("the owner's version %d: %v", n+1, err)
			}
		}
	})
}

// TestReferenceChangedBehindItsOwner: a version that begins anew under an old number
// is not taken for the one that was staged.
func TestReferenceChangedBehindItsOwner(t *testing.T) {
	f := newReferring(t)
	again := brokertest.NewReferences()
	again.Put(referred.Mount, referred.Path, map[string]any{referred.Field: "another"})
	other := openReferring(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, again)
	_, _, err := other.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken", err, broker.ReasonSecretChangedOutside)
	unconfigured := open(t, f.memory, brokertest.NewFaulty(f.memory), f.upstream, nil)
	_, _, err = unconfigured.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
	wantReason(t, "GetToken without references", err, broker.ReasonReferenceNotAllowed)
}

// TestFollowingSurvivesEachFault of the store, and of the process.
func TestFollowingSurvivesEachFault(t *testing.T) {
	var memory *brokertest.Memory
	brokertest.EachFaultOn(t, func(*testing.T) broker.Store {
		memory = brokertest.NewMemory()
		return memory
	}, func(t *testing.T, run *brokertest.Run) {
		synctest.Test(t, func(t *testing.T) {
			f := openReferring(t, memory, run.Store, brokertest.NewUpstream(), brokertest.NewReferences())
			f.change("owned 1")
			f.createReferring(t)
			f.token(t, "acme")
			f.change("owned 2")
			time.Sleep(brokertest.DefaultLifetime)
			dying := openReferring(t, memory, run.Store, f.upstream, f.owner)
			run.Start()
			_, _, err := dying.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			run.Stop()
			if run.Clean() && err != nil {
				t.Errorf("GetToken: %v", err)
			}
			next := f.another(t)
			if _, ok := next.get(t, "acme").Staged(broker.Current); !ok {
				t.Fatal("there is no current version")
			}
			wantReason(t, "GetToken at once", next.ask(t), "")
			for range 2 { // the first one sees that somebody was at it
				time.Sleep(brokertest.DefaultLifetime)
				next.token(t, "acme")
			}
			next.wantCurrent(t, 2, "1 previous, 2 current")
			next.wantTokenWith(t, "owned 2")
		})
	})
}
