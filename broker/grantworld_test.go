package broker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// users is the client whose tokens are had by what users granted.
const users = "users"

// grantWorld is a store and an authorization server with users, which several processes
// share.
type grantWorld struct {
	kind     brokertest.RefreshKind
	memory   *brokertest.Memory
	upstream *brokertest.Upstream
}

func newGrantWorld(kind brokertest.RefreshKind) *grantWorld {
	w := &grantWorld{kind: kind, memory: brokertest.NewMemory(), upstream: brokertest.NewUpstream()}
	w.upstream.TreatRefresh(kind)
	w.upstream.SetLifetime(10 * time.Minute)
	return w
}

// process starts a Broker, which can be killed.
func (w *grantWorld) process(t *testing.T, edits ...func(*broker.Config)) *process {
	t.Helper()
	store := brokertest.NewFaulty(w.memory)
	l := &line{store: store, count: map[string]int{}}
	f := open(t, w.memory, store, w.upstream, func(cfg *broker.Config) {
		cfg.RequestToken = func(ctx context.Context, req broker.TokenRequest) (answer broker.TokenResponse, err error) {
			err = l.call(ctx, "token", func() error {
				answer, err = w.upstream.RequestToken(ctx, req)
				return err
			})
			return answer, err
		}
		cfg.Providers = brokertest.Profiles{"fake": {Name: "fake", Refresh: w.kind.Declared}}
		for _, edit := range edits {
			edit(cfg)
		}
	})
	f.stopRun = func() {}
	return (&process{fixture: f, line: l}).stoppable(t)
}

// createUsers registers the client users.
func (p *process) createUsers(t *testing.T, edits ...func(*broker.NewClient)) {
	t.Helper()
	p.create(t, users, func(n *broker.NewClient) {
		n.Upstream.Grant, n.Upstream.Provider = broker.RefreshToken, "fake"
		for _, edit := range edits {
			edit(n)
		}
	})
}

// consent has a user consent, without its first access token where that is not what
// refreshes.
func (w *grantWorld) consent(t *testing.T, p *process, subject string) {
	t.Helper()
	answer := w.upstream.Consent(subject)
	if _, err := p.StoreGranted(t.Context(), users, subject, answer, "", ""); err != nil {
		t.Fatalf("StoreGranted(%s): %v", subject, err)
	}
	time.Sleep(10 * time.Minute) // the first token ends
}

func of(subject string) broker.TokenQuery {
	return broker.TokenQuery{ClientID: users, Subject: subject}
}

// tokenOf gets a token of a subject.
func (p *process) tokenOf(t *testing.T, subject string) *broker.Token {
	t.Helper()
	token, warnings, err := p.GetToken(t.Context(), of(subject))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("GetToken(%s): %v, %v", subject, warnings, err)
	}
	if got, want := token.Access.RevealString(), "token-of-"+subject+"-"; !strings.HasPrefix(got, want) {
		t.Fatalf("GetToken(%s) = %s, want one of %s", subject, got, want)
	}
	return token
}

// wantNoPlainTokens checks that no refresh token lies in the store, or was logged, as it is.
func (w *grantWorld) wantNoPlainTokens(t *testing.T, processes ...*process) {
	t.Helper()
	for _, token := range w.upstream.RefreshTokens() {
		if at := w.memory.Contains(token); len(at) > 0 {
			t.Errorf("the refresh token %s lies at %q", token, at)
		}
		for _, p := range processes {
			if strings.Contains(p.log.String(), token) {
				t.Errorf("the refresh token %s was logged", token)
			}
		}
	}
}

// rotating is the strictest kind: a use replaces the refresh token, and another use of it
// ends the grant.
func rotating() brokertest.RefreshKind { return brokertest.RefreshKinds()[0] }
