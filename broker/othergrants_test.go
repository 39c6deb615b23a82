package broker_test

import (
	"context"
	"encoding/base64"
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

func exchanging(text string) broker.TokenQuery {
	return broker.TokenQuery{ClientID: "acme", SubjectToken: secret.NewString(text)}
}

func withGrant(grant broker.GrantType) func(*broker.NewClient) {
	return func(n *broker.NewClient) { n.Upstream.Grant = grant }
}

// TestExchangedTokensAreNobodyElses: each call has a request and a token of its own, also
// with the same subject token at the same time, and nothing of it is stored.
func TestExchangedTokensAreNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", withGrant(broker.TokenExchange))
		f.upstream.Always(brokertest.Step{Delay: time.Second})
		var mu sync.Mutex
		got := map[string]bool{}
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				token, _, err := f.GetToken(t.Context(), exchanging(fmt.Sprint("subject-token-", i%2)))
				if err != nil {
					t.Errorf("GetToken: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				got[token.ID] = true
			})
		}
		group.Wait()
		if len(got) != 20 || f.upstream.Count() != 20 {
			t.Errorf("%d tokens by %d requests, want 20 by 20", len(got), f.upstream.Count())
		}
		if keys := keysUnder(f.memory, "tokens/"); len(keys) > 0 {
			t.Errorf("stored %q", keys)
		}
		for _, r := range f.upstream.Requests() {
			if g := r.Grant; g.Type != broker.TokenExchange || !strings.HasPrefix(g.SubjectToken.RevealString(), "subject-token-") || !strings.HasSuffix(g.SubjectTokenType, ":access_token") {
				t.Errorf("sent %+v", g)
			}
		}
	})
}

// TestARejectedSubjectToken blocks nobody else; a client whose credentials are rejected,
// or a server that is away, is left in peace.
func TestARejectedSubjectToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", withGrant(broker.TokenExchange))
		f.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonGrantRejected}})
		_, _, err := f.GetToken(t.Context(), exchanging("bad"))
		wantReason(t, "bad", err, broker.ReasonSubjectTokenRejected)
		if _, _, err := f.GetToken(t.Context(), exchanging("good")); err != nil {
			t.Errorf("good: %v", err)
		}
		f.upstream.Withdraw("client-id-of-acme", password)
		asked := f.upstream.Count()
		for i := range 5 {
			_, _, err := f.GetToken(t.Context(), exchanging(fmt.Sprint(i)))
			wantReason(t, "without credentials", err, broker.ReasonClientRejected)
		}
		if got := f.upstream.Count() - asked; got != 1 {
			t.Errorf("%d requests with rejected credentials, want 1", got)
		}
	})
}

// TestAnExchangeEndsWithItsCaller: nobody else waits for it.
func TestAnExchangeEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", withGrant(broker.TokenExchange))
		f.upstream.Always(brokertest.Step{Delay: 7 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, _, err := f.GetToken(ctx, exchanging("t"))
		wantReason(t, "GetToken", err, broker.ReasonDeadlineExceeded)
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it took %v after its caller had gone", took)
		}
	})
}

// TestAssertionsOfSubjects: the call's subject, or the client's, is what the assertion is
// about; subjects have tokens of their own.
func TestAssertionsOfSubjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme", func(n *broker.NewClient) {
			n.Upstream.Grant, n.Upstream.AssertionSubject = broker.JWTBearer, "admin@example.com"
			n.Upstream.Authentication.Method, n.Secret = broker.NoAuthentication, input("-----BEGIN a key")
		})
		for _, subject := range []string{"", "alice@example.com", "bob@example.com", "", "alice@example.com"} {
			if _, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Subject: subject}); err != nil {
				t.Fatalf("GetToken of %q: %v", subject, err)
			}
		}
		var sent []string
		for _, r := range f.upstream.Requests() {
			sent = append(sent, r.Grant.Subject)
			if r.Grant.Type != broker.JWTBearer || r.Secret.IsZero() {
				t.Errorf("sent %+v without a key", r.Grant)
			}
		}
		if want := []string{"admin@example.com", "alice@example.com", "bob@example.com"}; !slices.Equal(sent, want) {
			t.Errorf("assertions are about %q, want %q", sent, want)
		}
		f.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonGrantRejected}})
		_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Subject: "gone@example.com"})
		wantReason(t, "a subject that is refused", err, broker.ReasonGrantRejected)
		if _, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", Subject: "carol@example.com"}); err != nil {
			t.Errorf("the next subject: %v", err)
		}
	})
}

// TestPasswords are sent each time, to where they are bound, with a warning.
func TestPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := brokertest.NewMemory()
		f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
			cfg.Providers = brokertest.Profiles{"old": {Name: "old", GrantTypes: []broker.GrantType{broker.Password}}}
		})
		f.create(t, "acme", func(n *broker.NewClient) { n.Upstream.Grant, n.Upstream.Provider = broker.Password, "old" })
		if _, err := f.StoreGranted(t.Context(), "acme", "alice", broker.TokenResponse{}, "alice@example.com", "correct-horse"); err != nil {
			t.Fatal(err)
		}
		q := broker.TokenQuery{ClientID: "acme", Subject: "alice"}
		_, warnings, err := f.GetToken(t.Context(), q)
		if err != nil || !slices.Contains(warningsOf(warnings), broker.ReasonPasswordGrant) {
			t.Errorf("GetToken: %v, %v", warnings, err)
		}
		sent := f.upstream.Requests()[0].Grant
		if sent.Username != "alice@example.com" || sent.UserPassword.RevealString() != "correct-horse" {
			t.Errorf("sent %q and a password", sent.Username)
		}
		for _, text := range []string{"correct-horse", "alice@example.com"} {
			if at := f.memory.Contains(text); len(at) > 0 {
				t.Errorf("%q can be read at %q", text, at)
			}
		}
		time.Sleep(time.Hour)
		f.upstream.Script(brokertest.Step{Err: &broker.Error{Reason: broker.ReasonGrantRejected}})
		_, _, err = f.GetToken(t.Context(), q)
		wantReason(t, "a password that is refused", err, broker.ReasonPasswordRejected)
		time.Sleep(time.Minute)
		if _, _, err = f.GetToken(t.Context(), q); err != nil {
			t.Errorf("a minute later: %v; the client must not be parked", err)
		}
	})
}

// TestAPublicClient has no secret and needs none.
func TestAPublicClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGrantWorld(rotating())
		p := w.process(t)
		p.createUsers(t, func(n *broker.NewClient) {
			n.Upstream.Authentication.Method, n.Secret, n.Rotation = broker.NoAuthentication, broker.SecretInput{}, broker.RotationSettings{}
		})
		w.consent(t, p, "alice")
		token := p.tokenOf(t, "alice")
		if sent := w.upstream.Requests()[0]; token.SecretVersion != 0 || !sent.Secret.IsZero() || !slices.Equal(sent.Destinations, []string{origin}) {
			t.Errorf("sent a secret %t to %q", !sent.Secret.IsZero(), sent.Destinations)
		}
		report, err := p.CheckLookup(t.Context(), broker.LookupCheck{
			ClientID: users, Depth: broker.DepthToken, Permitted: broker.DepthToken, Query: broker.TokenQuery{Subject: "alice"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if cause, failed := report.RootCause(); failed {
			t.Errorf("CheckLookup: %+v", cause)
		}
		if got, want := w.process(t).tokenOf(t, "alice").ID, token.ID; got != want {
			t.Errorf("another replica has %s, want the shared %s", got, want)
		}
	})
}

// introspecting is an authorization server that is asked about tokens.
type introspecting struct {
	broker.AuthorizationServer
	answers []broker.Introspection
	err     error
	asked   int
}

func (s *introspecting) Introspect(_ context.Context, req broker.IntrospectionRequest) (broker.Introspection, error) {
	s.asked++
	if s.err != nil {
		return broker.Introspection{}, s.err
	}
	return s.answers[min(s.asked, len(s.answers))-1], nil
}

// TestTheLadderOfExpiry: from what the answer says down to what is assumed.
func TestTheLadderOfExpiry(t *testing.T) {
	jwt := func(exp time.Time) secret.Value {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return secret.NewString(part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, exp.Unix())) + ".c2ln")
	}
	minutes := func(n int) *time.Duration { return in(time.Duration(n) * time.Minute) }
	active := broker.Introspection{Active: true}
	tests := []struct {
		name   string
		edit   func(*broker.TokenResponse)
		told   []broker.Introspection
		err    error
		policy time.Duration
		want   int // minutes
		source broker.ExpirySource
		asked  int
		reason broker.Reason
	}{
		{name: "the answer", edit: func(r *broker.TokenResponse) { r.ExpiresIn, r.Declared = minutes(7), minutes(9) }, want: 7, source: broker.ExpiryFromResponse},
		{name: "the token itself", edit: func(r *broker.TokenResponse) {
			r.AccessToken, r.Declared = jwt(time.Now().Add(8*time.Minute)), minutes(9)
		}, want: 8, source: broker.ExpiryFromJWT},
		{name: "declared only", edit: func(r *broker.TokenResponse) {
			r.AccessToken, r.ExpiresIn, r.Declared, r.DeclaredOnly = jwt(time.Now().Add(8*time.Minute)), minutes(7), minutes(9), true
		}, want: 9, source: broker.ExpiryFromProvider},
		{name: "introspection", edit: func(r *broker.TokenResponse) { r.Declared = minutes(9) }, told: []broker.Introspection{{Active: true, ExpireTime: time.Now().Add(11 * time.Minute)}}, want: 11, source: broker.ExpiryFromIntrospection, asked: 1},
		{name: "introspection that fails", edit: func(r *broker.TokenResponse) { r.Declared = minutes(9) }, err: &broker.Error{Reason: broker.ReasonUpstreamUnavailable}, want: 9, source: broker.ExpiryFromProvider, asked: 1},
		{name: "introspection that does not know", told: []broker.Introspection{active}, policy: 12 * time.Minute, want: 12, source: broker.ExpiryFromClient, asked: 1},
		{name: "nobody knows", told: []broker.Introspection{active}, want: 5, source: broker.ExpiryAssumed, asked: 1},
		{name: "inactive once", told: []broker.Introspection{{}, active}, want: 5, source: broker.ExpiryAssumed, asked: 2},
		{name: "inactive", told: []broker.Introspection{{}}, asked: 2, reason: broker.ReasonTokenInactive},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for i := range test.told { // times of the bubble
					if !test.told[i].ExpireTime.IsZero() {
						test.told[i].ExpireTime = time.Now().Add(time.Duration(test.want) * time.Minute)
					}
				}
				server := &introspecting{answers: test.told, err: test.err}
				memory := brokertest.NewMemory()
				f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) { cfg.AuthorizationServer = server })
				f.create(t, "acme", func(n *broker.NewClient) {
					n.Upstream.IntrospectionEndpoint, n.TokenPolicy.AssumedLifetime = origin+"/introspect", test.policy
				})
				f.upstream.OmitLifetime()
				f.upstream.Always(brokertest.Step{Edit: test.edit})
				token, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				wantReason(t, "GetToken", err, test.reason)
				if server.asked != test.asked {
					t.Errorf("introspected %d times, want %d", server.asked, test.asked)
				}
				if err != nil {
					return
				}
				if got, want := token.ExpireTime.Sub(token.IssueTime).Round(time.Minute), time.Duration(test.want)*time.Minute; got != want || token.ExpirySource != test.source {
					t.Errorf("lives %v (%s), want %v (%s)", got, token.ExpirySource, want, test.source)
				}
			})
		})
	}
}
