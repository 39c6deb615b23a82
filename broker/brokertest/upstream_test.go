package brokertest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func tokenRequest(clientSecret string) broker.TokenRequest {
	return broker.TokenRequest{
		Endpoint: "https://as.example/token", Destinations: []string{"https://as.example"},
		ClientID: "id", Secret: secret.NewString(clientSecret),
	}
}

func TestUpstreamSecrets(t *testing.T) {
	u := brokertest.NewUpstream()
	u.Register("id", "old")
	u.Register("id", "new")
	ask := func(clientSecret string) broker.Reason {
		_, err := u.RequestToken(t.Context(), tokenRequest(clientSecret))
		return broker.ReasonOf(err)
	}
	for _, test := range []struct {
		secret string
		want   broker.Reason
	}{{"old", ""}, {"new", ""}, {"other", broker.ReasonClientRejected}, {"", broker.ReasonClientRejected}} {
		if got := ask(test.secret); got != test.want {
			t.Errorf("with secret %q: %q, want %q", test.secret, got, test.want)
		}
	}
	u.Withdraw("id", "old")
	if got, want := ask("old"), broker.ReasonClientRejected; got != want {
		t.Errorf("with a withdrawn secret: %q, want %q", got, want)
	}
	if got, want := u.Count(), 5; got != want {
		t.Errorf("Count = %d, want %d", got, want)
	}
}

func TestUpstreamIsBound(t *testing.T) {
	u := brokertest.NewUpstream()
	u.Register("id", "s")
	req := tokenRequest("s")
	req.Endpoint = "https://evil.example/token"
	_, err := u.RequestToken(t.Context(), req)
	if got, want := broker.ReasonOf(err), broker.ReasonDestinationNotBound; got != want {
		t.Errorf("reason = %q, want %q", got, want)
	}
	if got := u.Count(); got != 0 {
		t.Errorf("Count = %d: the refused request arrived", got)
	}
}

func TestUpstreamScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := brokertest.NewUpstream()
		u.Register("id", "s")
		refusal := &broker.Error{Reason: broker.ReasonUpstreamUnavailable}
		u.Script(
			brokertest.Step{Err: refusal},
			brokertest.Step{Delay: 3 * time.Second},
			brokertest.Step{Delay: time.Hour},
			brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = []string{"narrow"} }},
		)
		u.SetLifetime(time.Minute)
		want := []struct {
			reason broker.Reason
			token  string
			took   time.Duration
		}{
			{reason: broker.ReasonUpstreamUnavailable},
			{token: "token-1", took: 3 * time.Second},
			{reason: broker.ReasonUpstreamTimeout, took: 8 * time.Second},
			{token: "token-2"},
			{token: "token-3"},
		}
		for n, want := range want {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			start := time.Now()
			got, err := u.RequestToken(ctx, tokenRequest("s"))
			cancel()
			if broker.ReasonOf(err) != want.reason || got.AccessToken.RevealString() != want.token || time.Since(start) != want.took {
				t.Errorf("request %d: %q, %v after %v; want %+v", n, got.AccessToken.RevealString(), err, time.Since(start), want)
			}
			if err == nil && (*got.ExpiresIn != time.Minute || !got.SentTime.Equal(start) || got.TokenType != "Bearer") {
				t.Errorf("request %d: %+v", n, got)
			}
		}
		u.Always(brokertest.Step{Err: refusal})
		for range 2 {
			if _, err := u.RequestToken(t.Context(), tokenRequest("s")); err != refusal {
				t.Errorf("error = %v, want %v", err, refusal)
			}
		}
		u.Always(brokertest.Step{})
		u.OmitLifetime()
		got, err := u.RequestToken(t.Context(), tokenRequest("s"))
		if err != nil || got.ExpiresIn != nil {
			t.Errorf("expires_in = %v, error %v; want none", got.ExpiresIn, err)
		}
		if got, want := len(u.Requests()), 8; got != want {
			t.Errorf("Requests = %d, want %d", got, want)
		}
	})
}
