package broker_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// TestWhatAFailedUseMeans: what is sent after a use of a refresh token that failed, and
// what becomes of the grant. The server never got the failed ones unless told otherwise.
func TestWhatAFailedUseMeans(t *testing.T) {
	failing := func(reasons ...broker.Reason) []brokertest.Step {
		var steps []brokertest.Step
		for _, reason := range reasons {
			steps = append(steps, brokertest.Step{Err: &broker.Error{Reason: reason, RetryAfter: time.Minute}})
		}
		return steps
	}
	lost := func(n int) []brokertest.Step {
		var steps []brokertest.Step
		for range n {
			steps = append(steps, brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamTimeout}})
		}
		return steps
	}
	grace := func(d time.Duration) brokertest.RefreshKind {
		return brokertest.RefreshKind{Declared: broker.RefreshPolicy{Rotation: broker.RotationAlways, Grace: d}, Rotates: true}
	}
	never := brokertest.RefreshKind{Declared: broker.RefreshPolicy{Rotation: broker.RotationNever}}
	undeclared := brokertest.RefreshKind{}
	tests := []struct {
		name    string
		kind    brokertest.RefreshKind
		earlier int // refreshes before
		steps   []brokertest.Step
		// want is what the first call is told, sends how many uses it caused; later what a
		// call five minutes later is told.
		want  broker.Reason
		sends int
		later broker.Reason
	}{
		{"no such host", rotating(), 0, failing(broker.ReasonUpstreamDNS), broker.ReasonUpstreamDNS, 1, ""},
		{"an answer of 503", rotating(), 0, failing(broker.ReasonUpstreamUnavailable), broker.ReasonUpstreamUnavailable, 1, ""},
		{"too many requests", rotating(), 0, failing(broker.ReasonUpstreamRateLimited), broker.ReasonUpstreamRateLimited, 1, ""},
		{"client rejected", rotating(), 0, failing(broker.ReasonClientRejected), broker.ReasonClientRejected, 1, ""},
		{"rejected", never, 0, failing(broker.ReasonGrantRejected), broker.ReasonRefreshTokenRejected, 1, broker.ReasonRefreshTokenRejected},
		{"reused by another", never, 0, failing(broker.ReasonRefreshTokenReused), broker.ReasonRefreshTokenReused, 1, broker.ReasonRefreshTokenReused},
		{"lost, rotating", rotating(), 0, lost(1), broker.ReasonRefreshAnswerLost, 1, broker.ReasonRefreshAnswerLost},
		{"broken off, rotating", rotating(), 0, failing(broker.ReasonUpstreamConnect), broker.ReasonRefreshAnswerLost, 1, broker.ReasonRefreshAnswerLost},
		{"unreadable, rotating", rotating(), 0, failing(broker.ReasonUpstreamMalformed), broker.ReasonRefreshAnswerLost, 1, broker.ReasonRefreshAnswerLost},
		{"lost, undeclared, first", undeclared, 0, lost(1), broker.ReasonRefreshAnswerLost, 1, broker.ReasonRefreshAnswerLost},
		{"lost, undeclared, seen to stay", undeclared, 1, lost(1), "", 2, ""},
		{"lost once, never rotates", never, 0, lost(1), "", 2, ""},
		{"lost thrice, never rotates", never, 0, lost(3), broker.ReasonUpstreamTimeout, 3, ""},
		{"lost once, grace", grace(time.Minute), 0, lost(1), "", 2, ""},
		{"lost thrice, grace", grace(time.Hour), 0, lost(3), broker.ReasonRefreshAnswerLost, 3, broker.ReasonRefreshAnswerLost},
		{"lost, then rejected, grace", grace(time.Minute), 0, append(lost(1), failing(broker.ReasonGrantRejected)...), broker.ReasonRefreshAnswerLost, 2, broker.ReasonRefreshAnswerLost},
		{"lost, then the host is gone, grace over", grace(time.Minute), 0, append(lost(1), failing(broker.ReasonUpstreamDNS)...), broker.ReasonUpstreamDNS, 2, broker.ReasonRefreshAnswerLost},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, test.kind, func(t *testing.T, w *grantWorld, p *process) {
				w.consent(t, p, "alice")
				for range test.earlier {
					p.tokenOf(t, "alice")
					time.Sleep(10 * time.Minute)
				}
				sent := w.refreshes()
				w.upstream.Script(test.steps...)
				_, _, err := p.GetToken(t.Context(), of("alice"))
				wantReason(t, "GetToken", err, test.want)
				if got := w.refreshes() - sent; got != test.sends {
					t.Errorf("%d uses, want %d", got, test.sends)
				}
				if len(keysUnder(w.memory, "upstream/")) > 0 { // credentials that are rejected are tried again after a while
					wantReason(t, "ResetUpstream", p.ResetUpstream(t.Context(), users), "")
				}
				time.Sleep(5 * time.Minute)
				_, _, err = p.GetToken(t.Context(), of("alice"))
				wantReason(t, "GetToken later", err, test.later)
				_, _, err = w.process(t).GetToken(t.Context(), of("alice"))
				wantReason(t, "another process", err, test.later)
			})
		})
	}
}

// TestTheRefreshTokenBefore is tried once where a server that grants grace takes the
// successor no more whose use had no answer.
func TestTheRefreshTokenBefore(t *testing.T) {
	kind := brokertest.RefreshKind{Declared: broker.RefreshPolicy{Rotation: broker.RotationAlways, Grace: time.Hour}, Rotates: true}
	bubble(t, kind, func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		p.tokenOf(t, "alice")
		time.Sleep(10 * time.Minute)
		w.upstream.Script(
			brokertest.Step{Err: &broker.Error{Reason: broker.ReasonUpstreamTimeout}},
			brokertest.Step{Err: &broker.Error{Reason: broker.ReasonGrantRejected}},
		)
		p.tokenOf(t, "alice")
		var sent []string
		for _, r := range w.upstream.Requests() {
			sent = append(sent, r.Grant.RefreshToken.RevealString())
		}
		if len(sent) != 4 || sent[1] != sent[2] || sent[3] != sent[0] {
			t.Errorf("sent %q, want the second one twice and then the first", sent)
		}
	})
}

// TestRefreshTokensGoWhereTheyAreBound and nowhere else.
func TestRefreshTokensGoWhereTheyAreBound(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		_, err := p.UpdateClient(t.Context(), broker.ClientUpdate{ID: users, Secret: input("a-new-one"), Edit: func(c *broker.Client) {
			c.Upstream.TokenEndpoint = "https://elsewhere.example/token"
		}})
		wantReason(t, "UpdateClient", err, "")
		_, _, err = p.GetToken(t.Context(), of("alice"))
		wantReason(t, "GetToken", err, broker.ReasonGrantOfOldClient)
		if got := w.refreshes(); got != 0 {
			t.Errorf("the refresh token was sent %d times", got)
		}
	})
}

// TestARefreshEndpoint of its own is where refresh tokens go.
func TestARefreshEndpoint(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		_, err := p.UpdateClient(t.Context(), broker.ClientUpdate{ID: users, Edit: func(c *broker.Client) { c.Upstream.RefreshEndpoint = origin + "/refresh" }})
		wantReason(t, "UpdateClient", err, "")
		w.consent(t, p, "alice")
		p.tokenOf(t, "alice")
		if got := w.upstream.Requests()[0]; got.Endpoint != origin+"/refresh" || got.Grant.RefreshToken.Equal(secret.Value{}) {
			t.Errorf("sent to %s", got.Endpoint)
		}
	})
}

// TestAJournalThatIsUnsure: what may have been journalled and was not sent is taken back,
// so that nobody takes it for a use.
func TestAJournalThatIsUnsure(t *testing.T) {
	bubble(t, rotating(), func(t *testing.T, w *grantWorld, p *process) {
		w.consent(t, p, "alice")
		written := false
		p.store.Always(brokertest.LoseAfter(), func(c brokertest.Call) bool {
			hit := brokertest.On(brokertest.OpWrite, "grants/")(c)
			written = written || hit
			return hit
		})
		p.store.Always(brokertest.Fail(broker.ReasonStoreUnreachable), func(c brokertest.Call) bool {
			return written && brokertest.On(brokertest.OpRead, "grants/")(c)
		})
		_, _, err := p.GetToken(t.Context(), of("alice"))
		if err == nil || w.refreshes() > 0 {
			t.Fatalf("GetToken: %v after %d uses, want none", err, w.refreshes())
		}
		p.store.Heal()
		time.Sleep(time.Minute)
		w.process(t).tokenOf(t, "alice")
	})
}
