package broker_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// jwt returns a token that looks like one; nobody verifies it here.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

func TestExpiry(t *testing.T) {
	const year = 365 * 24 * time.Hour
	answer := func(expiresIn *time.Duration, token string) brokertest.Step {
		return brokertest.Step{Edit: func(r *broker.TokenResponse) {
			r.ExpiresIn = expiresIn
			if token != "" {
				r.AccessToken = secret.NewString(token)
			}
		}}
	}
	// exp is a claim that lies so far from the start of the bubble's clock.
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	exp := func(d time.Duration) string { return jwt(fmt.Sprintf(`{"exp":%d}`, start.Add(d).Unix())) }
	tests := []struct {
		name    string
		step    brokertest.Step
		assumed time.Duration // of the client
		want    time.Duration // of life; 0 is TOKEN_EXPIRED
		source  broker.ExpirySource
	}{
		{"the answer says", answer(in(20*time.Minute), ""), time.Minute, 20 * time.Minute, broker.ExpiryFromResponse},
		{"the answer wins over a JWT", answer(in(20*time.Minute), exp(time.Hour)), time.Minute, 20 * time.Minute, broker.ExpiryFromResponse},
		{"the answer wins over a longer one", answer(in(2*time.Hour), exp(time.Hour)), 0, 2 * time.Hour, broker.ExpiryFromResponse},
		{"a second", answer(in(time.Second), ""), 0, time.Second, broker.ExpiryFromResponse},
		{"centuries", answer(in(290*year), ""), 0, year, broker.ExpiryFromResponse},
		{"expired in the answer", answer(in(0), ""), time.Minute, 0, ""},
		{"negative in the answer", answer(in(-time.Hour), ""), time.Minute, 0, ""},

		{"a JWT", answer(nil, exp(time.Hour)), time.Minute, time.Hour, broker.ExpiryFromJWT},
		{"a JWT with a fraction", answer(nil, jwt(fmt.Sprintf(`{"exp":%d.9}`, start.Add(time.Hour).Unix()))), 0, time.Hour, broker.ExpiryFromJWT},
		{"a JWT in scientific notation", answer(nil, jwt(`{"exp":1e30}`)), 0, year, broker.ExpiryFromJWT},
		{"a JWT that has expired", answer(nil, exp(-time.Second)), time.Minute, 0, ""},
		{"a JWT from before 1970", answer(nil, jwt(`{"exp":-1}`)), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"a JWT without exp", answer(nil, jwt(`{"sub":"x"}`)), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"a JWT with a text as exp", answer(nil, jwt(`{"exp":"1"}`)), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"a JWT with a number out of range", answer(nil, jwt(`{"exp":1e999}`)), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"three parts that are no JWT", answer(nil, "a.b.c"), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"two dots", answer(nil, ".."), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"a JWE of five parts", answer(nil, exp(time.Hour)+".x.y"), time.Minute, time.Minute, broker.ExpiryFromClient},

		{"the client's setting", answer(nil, ""), time.Minute, time.Minute, broker.ExpiryFromClient},
		{"nothing says", answer(nil, ""), 0, 5 * time.Minute, broker.ExpiryAssumed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "acme", func(n *broker.NewClient) { n.TokenPolicy.AssumedLifetime = test.assumed })
				f.upstream.Always(test.step)
				token, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
				if test.want == 0 {
					wantReason(t, "GetToken", err, broker.ReasonTokenExpired)
					return
				}
				if err != nil {
					t.Fatalf("GetToken: %v", err)
				}
				if got := token.ExpireTime.Sub(token.IssueTime); got != test.want || token.ExpirySource != test.source {
					t.Errorf("lives %v by %q, want %v by %q", got, token.ExpirySource, test.want, test.source)
				}
				if got, want := slices.Contains(warningsOf(warnings), broker.ReasonExpiryAssumed), test.source == broker.ExpiryAssumed; got != want {
					t.Errorf("warnings = %v, want EXPIRY_ASSUMED: %t", warnings, want)
				}
				nominal := min(test.want/5, time.Hour)
				if got := token.ExpireTime.Sub(token.RefreshAfter); got < nominal*8/10 || got > nominal*12/10 {
					t.Errorf("refreshed %v before it expires, want %v, a fifth more or less", got, nominal)
				}
			})
		})
	}
}

// TestAnExpiredAnswerIsAFailure: it is held down like any other, and not cached.
func TestAnExpiredAnswerIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.Always(brokertest.Step{Delay: 2 * time.Second})
		f.upstream.SetLifetime(time.Second) // it takes longer to arrive than it lives
		for range 4 {
			_, _, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme"})
			wantReason(t, "GetToken", err, broker.ReasonTokenExpired)
		}
		if got, want := f.upstream.Count(), 1; got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	})
}

// TestWarningsDoNotMix: callers that are warned of different things share a token
// but not a list.
func TestWarningsDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "acme")
		f.upstream.OmitLifetime()
		f.upstream.Always(brokertest.Step{Edit: func(r *broker.TokenResponse) { r.Scopes = []string{} }})
		own := []broker.Reason{broker.ReasonScopesNarrowed, broker.ReasonExpiryAssumed}
		tests := []struct {
			minValidity time.Duration
			want        []broker.Reason
		}{
			{time.Hour, append(slices.Clone(own), broker.ReasonTokenShorterThanAsked)},
			{time.Second, own},
			{time.Hour, append(slices.Clone(own), broker.ReasonTokenShorterThanAsked)},
			{time.Second, own},
		}
		for _, test := range tests {
			_, warnings, err := f.GetToken(t.Context(), broker.TokenQuery{ClientID: "acme", MinValidity: &test.minValidity})
			if got := warningsOf(warnings); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("min_validity %v: warnings = %v, %v, want %v", test.minValidity, got, err, test.want)
			}
			_ = append(warnings, broker.Warning{Reason: "MIXED"}) // a caller's own list must not reach the next
		}
	})
}
