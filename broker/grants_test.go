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

// bubble runs test with a process whose client's users refresh by kind.
func bubble(t *testing.T, kind brokertest.RefreshKind, test func(t *testing.T, w *grantWorld, p *process)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newGrantWorld(kind)
		p := w.process(t)
		p.createUsers(t)
		test(t, w, p)
	})
}

// refreshes counts the uses of refresh tokens.
func (w *grantWorld) refreshes() int {
	n := 0
	for _, r := range w.upstream.Requests() {
		if r.Grant.Type == broker.RefreshToken {
			n++
		}
	}
	return n
}

// TestAThousandCallersOfASubject cause one use of its refresh token, on three replicas
// together, also where they ask for two different tokens.
func TestAThousandCallersOfASubject(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		replicas := []*process{p, w.process(t), w.process(t)}
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				if _, _, err := replicas[i%3].GetToken(t.Context(), of("alice")); err != nil {
					t.Errorf("GetToken: %v", err)
				}
			})
		}
		group.Wait()
		if got := w.refreshes(); got != 1 {
			t.Errorf("%d uses of the refresh token, want 1", got)
		}
	})
}

// TestTokensOfOneGrantQueue: replicas that want tokens with different scopes of one grant
// use its refresh tokens one after the other.
func TestTokensOfOneGrantQueue(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		answer := w.upstream.Consent("alice")
		answer.Scopes = []string{"admin", "read", "write"}
		if _, err := p.StoreGranted(t.Context(), users, "alice", answer, "", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		var group sync.WaitGroup
		for _, scope := range []string{"read", "write", "admin"} {
			replica := w.process(t)
			for range 5 {
				group.Go(func() {
					q := of("alice")
					q.Scopes = []string{scope}
					token, _, err := replica.GetToken(t.Context(), q)
					if err != nil || !slices.Equal(token.Scopes, []string{scope}) {
						t.Errorf("GetToken of %s = %+v, %v", scope, token, err)
					}
				})
			}
		}
		group.Wait()
		if got := w.refreshes(); got != 3 || w.upstream.Reused() > 0 {
			t.Errorf("%d uses, %d of them wrong, want 3 and 0", got, w.upstream.Reused())
		}
		for _, r := range w.upstream.Requests() {
			if len(r.Scopes) != 1 {
				t.Errorf("sent the scopes %q, want the one that was asked for", r.Scopes)
			}
		}
	})
}

// TestSubjectsNeverShareTokens, whatever they are called.
func TestSubjectsNeverShareTokens(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		subjects := []string{"a", "b", "a b", "read", "", "users/4711", "users/471", "ä", strings.Repeat("x", 256), "token-of-a"}
		owner := map[string]string{}
		for round := range 2 {
			for i, subject := range subjects {
				if subject == "" {
					continue
				}
				if round == 0 {
					w.upstream.Consent(fmt.Sprint(i))
					if _, err := p.StoreGranted(t.Context(), users, subject, w.upstream.Consent(fmt.Sprint("user", i)), "", ""); err != nil {
						t.Fatal(err)
					}
				}
				for _, replica := range []*process{p, w.process(t)} {
					token, _, err := replica.GetToken(t.Context(), of(subject))
					if err != nil {
						t.Fatalf("%q: %v", subject, err)
					}
					if got, want := token.Access.RevealString(), fmt.Sprintf("token-of-user%d-", i); !strings.HasPrefix(got, want) {
						t.Errorf("%q got %s", subject, got)
					}
					if whose, known := owner[token.ID]; known && whose != subject {
						t.Errorf("%q got the token of %q", subject, whose)
					}
					owner[token.ID] = subject
				}
			}
			time.Sleep(11 * time.Minute) // and once more with refreshed ones
		}
		for _, subject := range []string{"users/4711", "token-of-a"} {
			if at := w.memory.Contains(subject); len(at) > 0 {
				t.Errorf("the subject %q can be read at %q", subject, at)
			}
		}
	})
}

// TestSubjectsAreChecked: needed where tokens are users', refused where they are nobody's.
func TestSubjectsAreChecked(t *testing.T) {
	tests := []struct {
		name    string
		grant   broker.GrantType
		query   broker.TokenQuery
		want    broker.Reason
		wantSub string
	}{
		{"none for a user's client", broker.AuthorizationCode, broker.TokenQuery{}, broker.ReasonInvalidRequest, "subject"},
		{"one for a client of its own", "", broker.TokenQuery{Subject: "alice"}, broker.ReasonInvalidRequest, "subject"},
		{"one for an exchange", broker.TokenExchange, broker.TokenQuery{Subject: "alice", SubjectToken: secret.NewString("t")}, broker.ReasonInvalidRequest, "subject"},
		{"too long", broker.DeviceCode, broker.TokenQuery{Subject: strings.Repeat("x", 257)}, broker.ReasonInvalidRequest, "subject"},
		{"a control character", broker.DeviceCode, broker.TokenQuery{Subject: "a\x00b"}, broker.ReasonInvalidRequest, "subject"},
		{"not UTF-8", broker.DeviceCode, broker.TokenQuery{Subject: "\xff"}, broker.ReasonInvalidRequest, "subject"},
		{"a subject token for another grant", "", broker.TokenQuery{SubjectToken: secret.NewString("t")}, broker.ReasonInvalidRequest, "subject_token"},
		{"no subject token", broker.TokenExchange, broker.TokenQuery{}, broker.ReasonInvalidRequest, "subject_token"},
		{"a subject token of a megabyte", broker.TokenExchange, broker.TokenQuery{SubjectToken: secret.NewString(strings.Repeat("x", 1<<20))}, broker.ReasonInvalidRequest, "subject_token"},
		{"a user who granted nothing", broker.RefreshToken, broker.TokenQuery{Subject: "alice"}, broker.ReasonAuthorizationRequired, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "acme", func(n *broker.NewClient) {
				u := &n.Upstream
				u.Grant, u.AuthorizationEndpoint, u.DeviceAuthorizationEndpoint = test.grant, origin+"/authorize", origin+"/device"
			})
			test.query.ClientID = "acme"
			_, _, err := f.GetToken(t.Context(), test.query)
			wantReason(t, "GetToken", err, test.want)
			if got := strings.Join(fieldsOf(err), " "); got != test.wantSub {
				t.Errorf("fields %q, want %q", got, test.wantSub)
			}
			if got := f.upstream.Count(); got != 0 {
				t.Errorf("%d requests, want none", got)
			}
		})
	}
}

// TestANewConsentEndsOldTokens on the replica that stored it, on one that follows the
// feed, and on one that does not.
func TestANewConsentEndsOldTokens(t *testing.T) {
	for _, feed := range []bool{true, false} {
		t.Run(fmt.Sprint("feed ", feed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newGrantWorld(rotating())
				withFeed := func(cfg *broker.Config) { cfg.Feed = feed }
				p, other := w.process(t, withFeed), w.process(t, withFeed)
				p.run(t)
				other.run(t)
				p.createUsers(t)
				if _, err := p.StoreGranted(t.Context(), users, "alice", w.upstream.Consent("alice"), "", ""); err != nil {
					t.Fatal(err)
				}
				before := p.tokenOf(t, "alice")
				if got := other.tokenOf(t, "alice").ID; got != before.ID {
					t.Errorf("the other replica serves %s, want the shared %s", got, before.ID)
				}
				if _, err := p.StoreGranted(t.Context(), users, "alice", w.upstream.Consent("alice"), "", ""); err != nil {
					t.Fatal(err)
				}
				if got := p.tokenOf(t, "alice").ID; got == before.ID {
					t.Errorf("the old token is served by the replica that stored the new grant")
				}
				time.Sleep(6 * time.Second)
				_, _, _ = other.GetToken(t.Context(), of("alice")) // without the feed this use has the grant read again
				synctest.Wait()
				if got, want := other.tokenOf(t, "alice").ID, p.tokenOf(t, "alice").ID; got != want {
					t.Errorf("the other replica serves %s, want the new %s; the old one is %s", got, want, before.ID)
				}
			})
		})
	}
}

// TestForcedRefreshes take the lease and are held down: they do not burn refresh tokens.
func TestForcedRefreshes(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		rejected := p.tokenOf(t, "alice")
		time.Sleep(6 * time.Second)
		var group sync.WaitGroup
		for _, replica := range []*process{p, w.process(t)} {
			for range 20 {
				group.Go(func() {
					q := of("alice")
					q.RejectedTokenID = rejected.ID
					token, _, err := replica.GetToken(t.Context(), q)
					if err != nil || token.ID == rejected.ID {
						t.Errorf("GetToken = %+v, %v, want another one", token, err)
					}
				})
			}
		}
		group.Wait()
		if got := w.refreshes(); got != 2 {
			t.Errorf("%d uses of refresh tokens, want 2", got)
		}
	})
}

// TestADeadGrantParksNobodyElse, and its cause is told again and again without asking.
func TestADeadGrantParksNobodyElse(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		w.consent(t, p, "bob")
		w.upstream.WithdrawConsent("alice")
		_, _, err := p.GetToken(t.Context(), of("alice"))
		wantReason(t, "alice", err, broker.ReasonRefreshTokenRejected)
		if broker.AsError(err).RetryAfter != 0 {
			t.Errorf("alice is told to come again: %v", broker.AsError(err).RetryAfter)
		}
		p.tokenOf(t, "bob")
		asked := w.refreshes()
		for _, replica := range []*process{p, w.process(t)} {
			for range 10 {
				_, _, err := replica.GetToken(t.Context(), of("alice"))
				wantReason(t, "alice again", err, broker.ReasonRefreshTokenRejected)
				time.Sleep(time.Minute)
			}
		}
		if got := w.refreshes(); got != asked {
			t.Errorf("%d more uses of a refresh token that was rejected", got-asked)
		}
		w.consent(t, p, "alice")
		p.tokenOf(t, "alice")
	})
}

// TestWhyAGrantGivesNoTokens: each cause has its name, and says since when.
func TestWhyAGrantGivesNoTokens(t *testing.T) {
	hour := time.Hour
	tests := []struct {
		name   string
		kind   brokertest.RefreshKind
		answer func(*broker.TokenResponse)
		then   func(t *testing.T, p *process)
		after  time.Duration
		want   broker.Reason
		detail string
	}{
		{name: "no refresh token", kind: rotating(), answer: func(r *broker.TokenResponse) { r.RefreshToken = secret.Value{} }, after: hour, want: broker.ReasonRefreshTokenMissing, detail: "10m0s after each consent"},
		{name: "it expired", kind: rotating(), answer: func(r *broker.TokenResponse) { r.RefreshExpiresIn = &hour }, after: hour, want: broker.ReasonRefreshTokenExpired},
		{name: "its declared life", kind: brokertest.RefreshKind{Declared: broker.RefreshPolicy{Lifetime: hour}}, after: hour, want: broker.ReasonRefreshTokenExpired},
		{name: "idle for too long", kind: brokertest.RefreshKind{Declared: broker.RefreshPolicy{IdleLifetime: hour}}, after: hour, want: broker.ReasonRefreshTokenExpired},
		{name: "another client_id", kind: rotating(), after: hour, want: broker.ReasonGrantOfOldClient, then: func(t *testing.T, p *process) {
			if _, err := p.UpdateClient(t.Context(), broker.ClientUpdate{ID: users, Edit: func(c *broker.Client) { c.Upstream.ClientID = "another" }}); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, test.kind, func(t *testing.T, w *grantWorld, p *process) {
				answer := w.upstream.Consent("alice")
				if test.answer != nil {
					test.answer(&answer)
				}
				if _, err := p.StoreGranted(t.Context(), users, "alice", answer, "", ""); err != nil {
					t.Fatal(err)
				}
				token, warnings, err := p.GetToken(t.Context(), of("alice"))
				if err != nil {
					t.Fatalf("GetToken while the first token lives: %v", err)
				}
				if got, want := slices.Contains(warningsOf(warnings), broker.ReasonRefreshTokenAbsent), test.want == broker.ReasonRefreshTokenMissing; got != want {
					t.Errorf("token %s with warnings %v", token.ID, warnings)
				}
				if test.then != nil {
					test.then(t, p)
				}
				time.Sleep(test.after)
				_, _, err = p.GetToken(t.Context(), of("alice"))
				wantReason(t, "GetToken", err, test.want)
				if !strings.Contains(broker.AsError(err).Detail, test.detail) {
					t.Errorf("detail %q, want %q in it", broker.AsError(err).Detail, test.detail)
				}
				if w.refreshes() != 0 {
					t.Errorf("a refresh token was sent")
				}
			})
		})
	}
}

// TestNobodyGetsATokenBeforeItsSuccessorIsStored: the store goes away while the refresh
// token is being used. Callers wait, or go; once the store is back, the token is there.
func TestNobodyGetsATokenBeforeItsSuccessorIsStored(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		p.upstream.Script(brokertest.Step{Edit: func(*broker.TokenResponse) {
			p.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
		}})
		_, _, err := p.GetToken(t.Context(), of("alice"))
		wantReason(t, "GetToken while the store is away", err, broker.ReasonStoreUnreachable)
		for range 10 {
			time.Sleep(time.Minute)
			limited, cancel := context.WithTimeout(t.Context(), time.Second)
			if token, _, err := p.GetToken(limited, of("alice")); err == nil {
				t.Errorf("got %s, whose successor is not stored", token.ID)
			}
			cancel()
		}
		p.store.Heal()
		time.Sleep(30 * time.Second)
		p.tokenOf(t, "alice")
		time.Sleep(20 * time.Minute)
		p.tokenOf(t, "alice")
		if w.upstream.Reused() > 0 || w.refreshes() > 3 {
			t.Errorf("%d uses, %d of them wrong", w.refreshes(), w.upstream.Reused())
		}
	})
}

// TestCloseStoresWhatItHas: a process that is told to stop while the store is away has
// the successor stored if the store comes back soon, and ends its request first.
func TestCloseStoresWhatItHas(t *testing.T) {
	for _, test := range []struct {
		name string
		away bool
	}{{"the store is away", true}, {"the request is under way", false}} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
				w.consent(t, p, "alice")
				step := brokertest.Step{Delay: 3 * time.Second}
				if test.away {
					step.Edit = func(*broker.TokenResponse) {
						p.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), brokertest.Any)
					}
				}
				w.upstream.Script(step)
				go func() { _, _, _ = p.GetToken(context.Background(), of("alice")) }()
				time.Sleep(2 * time.Second)
				if test.away {
					time.Sleep(time.Minute)
					time.AfterFunc(2*time.Second, p.store.Heal)
				}
				p.Close()
				next := w.process(t)
				next.tokenOf(t, "alice")
				time.Sleep(20 * time.Minute)
				next.tokenOf(t, "alice")
				if w.upstream.Reused() > 0 {
					t.Errorf("a refresh token was spent twice")
				}
			})
		})
	}
}
