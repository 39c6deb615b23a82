package rotator_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// oddAnswer is an answer as no document shows it, or one that refuses.
type oddAnswer struct {
	name   string
	answer func(w http.ResponseWriter, member string)
	reason broker.Reason
	text   string
	retry  time.Duration
}

func say(status int, body string, headers ...string) func(http.ResponseWriter, string) {
	return func(w http.ResponseWriter, member string) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "MEMBER", member))
	}
}

// oddAnswers to any request.
var oddAnswers = []oddAnswer{
	{name: "401", answer: say(401, `{"error":"invalid_token"}`), reason: broker.ReasonRotatorUnauthorized, text: "invalid_token"},
	{name: "401 of a page", answer: say(401, `<html>`), reason: broker.ReasonRotatorUnauthorized},
	{name: "403", answer: say(403, `{"error":{"code":"Authorization_RequestDenied","message":"Insufficient privileges"}}`), reason: broker.ReasonRotatorUnauthorized, text: "Authorization_RequestDenied: Insufficient privileges"},
	{name: "403, empty", answer: say(403, ""), reason: broker.ReasonRotatorUnauthorized},
	{name: "403 of a firewall", answer: say(403, "<html>blocked canary-current-7f3a9c"), reason: broker.ReasonUpstreamRefused, text: "an HTML or XML page"},
	{name: "400", answer: say(400, `{"errorCode":"E0000001","errorSummary":"Api validation failed"}`), reason: broker.ReasonRotatorRefused, text: "E0000001: Api validation failed"},
	{name: "400 that echoes", answer: say(400, `{"error":"canary-current-7f3a9c+/=","message":"bad nary-current-7","errorMessage":"canary-curren"}`), reason: broker.ReasonRotatorRefused, text: "withheld"},
	{name: "400 with a secret of its own", answer: say(400, `{"error":"bad","message":"kept canary-fresh-1","client_secret":"canary-fresh-1"}`), reason: broker.ReasonRotatorRefused, text: "bad: (withheld"},
	{name: "400 with odd errors", answer: say(400, `{"error":[1],"code":7,"message":{"a":"canary"}}`), reason: broker.ReasonRotatorRefused, text: "a JSON object"},
	{name: "409", answer: say(409, `{}`), reason: broker.ReasonRotatorRefused},
	{name: "429", answer: say(429, `{}`, "Retry-After", "7"), reason: broker.ReasonUpstreamRateLimited, retry: 7 * time.Second},
	{name: "429 until", answer: say(429, `{}`, "X-Rate-Limit-Reset", "1767225605", "Date", "Thu, 01 Jan 2026 00:00:00 GMT"), reason: broker.ReasonUpstreamRateLimited, retry: 5 * time.Second},
	{name: "429 until the end of time", answer: say(429, `{}`, "X-RateLimit-Reset", strconv.Itoa(1<<62)), reason: broker.ReasonUpstreamRateLimited, retry: time.Hour},
	{name: "429 since long", answer: say(429, `{}`, "X-RateLimit-Reset", "5"), reason: broker.ReasonUpstreamRateLimited},
	{name: "500 of a page", answer: say(500, "<html>canary-made-7f3a9c"), reason: broker.ReasonUpstreamUnavailable},
	{name: "503", answer: say(503, `{}`, "Retry-After", "3"), reason: broker.ReasonUpstreamUnavailable, retry: 3 * time.Second},
	{name: "408", answer: say(408, ""), reason: broker.ReasonUpstreamUnavailable},
	{name: "202", answer: say(202, `{}`), reason: broker.ReasonUpstreamMalformed, text: "answered 202"},
	{name: "204", answer: func(w http.ResponseWriter, _ string) { w.WriteHeader(204) }, reason: broker.ReasonUpstreamMalformed, text: "answered 204"},
	{name: "304", answer: func(w http.ResponseWriter, _ string) { w.WriteHeader(304) }, reason: broker.ReasonUpstreamMalformed},
	{name: "nothing", answer: say(200, ""), reason: broker.ReasonUpstreamMalformed, text: "an empty body"},
	{name: "a page", answer: say(200, "<!doctype html>canary-made-7f3a9c"), reason: broker.ReasonUpstreamMalformed, text: "an HTML or XML page"},
	{name: "null", answer: say(200, "null"), reason: broker.ReasonUpstreamMalformed},
	{name: "a string", answer: say(200, `"canary-made-7f3a9c"`), reason: broker.ReasonUpstreamMalformed},
	{name: "cut off", answer: say(200, `{"id":"a","keyId":"x","MEMBER":"canary-made-7f3a9c"`), reason: broker.ReasonUpstreamMalformed},
	{name: "two objects", answer: say(200, `{"MEMBER":"canary-made-7f3a9c"}{}`), reason: broker.ReasonUpstreamMalformed},
	{name: "a member twice", answer: say(200, `{"MEMBER":"canary-made-7f3a9c","MEMBER":"canary-made-7f3a9d"}`), reason: broker.ReasonUpstreamMalformed},
	{name: "too much", answer: func(w http.ResponseWriter, _ string) { _, _ = io.WriteString(w, strings.Repeat("canary ", 1<<18)) }, reason: broker.ReasonUpstreamMalformed, text: "over 1 MiB"},
	{name: "too deep", answer: say(200, strings.Repeat(`{"a":`, 200_000)), reason: broker.ReasonUpstreamMalformed},
	{name: "a broken body", answer: func(w http.ResponseWriter, _ string) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"canary`)
		panic(http.ErrAbortHandler)
	}, reason: broker.ReasonUpstreamConnect},
	{name: "no answer", answer: func(http.ResponseWriter, string) { panic(http.ErrAbortHandler) }, reason: broker.ReasonUpstreamConnect},
}

// badSecrets are answers to the request that makes a secret, with one that is none.
// Okta's is chosen by the broker.
var badSecrets = []oddAnswer{
	{name: "no secret", answer: say(200, `{"keyId":"`+clientID+`"}`)},
	{name: "an empty one", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":""}`)},
	{name: "null for one", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":null}`)},
	{name: "a number", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":12345678901234567890}`)},
	{name: "another case", answer: say(200, `{"keyId":"`+clientID+`","Client_Secret":"canary-7f3a9c","VALUE":"canary-7f3a9c","SecretText":"canary-7f3a9c"}`)},
	{name: "masked", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":"**********"}`)},
	{name: "a line break", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":"canary-7f3a9c\n"}`)},
	{name: "a key", answer: say(200, `{"keyId":"`+clientID+`","MEMBER":"-----BEGIN canary-7f3a9c"}`)},
	{name: "a huge one", answer: func(w http.ResponseWriter, member string) {
		respond(w, 200, object{"keyId": clientID, member: strings.Repeat("canary-7f3a9c", 10_000)})
	}},
}

func TestOddAnswersToCreate(t *testing.T) {
	for _, role := range roles {
		odd := oddAnswers
		if role.name != "okta" {
			for _, bad := range badSecrets {
				bad.reason = broker.ReasonUpstreamMalformed
				odd = append(odd[:len(odd):len(odd)], bad)
			}
		}
		for _, test := range odd {
			t.Run(role.name+"/"+test.name, func(t *testing.T) {
				s, call := role.start(t)
				s.when(role.creates, func(w http.ResponseWriter, _ func()) { test.answer(w, role.member) })
				got, err := role.rotator(s).Create(t.Context(), call)
				e := want(t, err, test.reason, false, test.text)
				if e.RetryAfter != test.retry {
					t.Errorf("wait %s, want %s", e.RetryAfter, test.retry)
				}
				if !got.Value.IsZero() || got.Handle != "" {
					t.Error("there is a secret beside the error")
				}
				if n := s.count(role.creates); n != 1 {
					t.Errorf("%d %s, want 1", n, role.creates)
				}
			})
		}
	}
}

func TestOddAnswersToReads(t *testing.T) {
	for _, role := range roles {
		for _, test := range oddAnswers {
			t.Run(role.name+"/"+test.name, func(t *testing.T) {
				s, call := role.start(t)
				s.when(http.MethodGet, func(w http.ResponseWriter, _ func()) { test.answer(w, role.member) })
				found, err := role.rotator(s).Recover(t.Context(), call)
				if role.name == "rfc7592" && strings.HasPrefix(test.name, "401") {
					wantOutcome(t, found, err, broker.CreateLost)
					return
				}
				e := wantReason(t, err, test.reason, test.text)
				if e.RetryAfter != test.retry {
					t.Errorf("wait %s, want %s", e.RetryAfter, test.retry)
				}
				if found.Outcome != "" {
					t.Errorf("there is an outcome beside the error: %s", found.Outcome)
				}
				if n := s.count(role.creates); n != 0 {
					t.Errorf("%d %s, want none", n, role.creates)
				}
			})
		}
	}
}

// wantReason is want for errors of which it does not matter whether they are marked.
func wantReason(t *testing.T, err error, reason broker.Reason, text string) *broker.Error {
	t.Helper()
	return want(t, err, reason, isUnsent(err), text)
}

func TestLostAnswers(t *testing.T) {
	outcomes := map[string]broker.CreateOutcome{
		"auth0": broker.CreateDone, "keycloak": broker.CreateDone, "entra": broker.CreateNotDone, "okta": broker.CreateDone, "rfc7592": broker.CreateDone,
	}
	for _, role := range roles {
		t.Run(role.name, func(t *testing.T) {
			s, call := role.start(t)
			r := role.rotator(s)
			s.lose(role.creates)
			_, err := r.Create(t.Context(), call)
			want(t, err, broker.ReasonUpstreamConnect, false, "broke")
			if n := s.count(role.creates); n != 1 {
				t.Errorf("%d %s, want 1: what may have been done is not repeated", n, role.creates)
			}
			s.heal()
			found, err := r.Recover(t.Context(), call)
			wantOutcome(t, found, err, outcomes[role.name])
			if found.Outcome == broker.CreateDone && found.Created.Value.IsZero() && found.Created.Handle == "" {
				t.Error("Recover found it done and returns nothing")
			}
		})
	}
}

func TestSlowAnswers(t *testing.T) {
	for _, role := range roles {
		t.Run(role.name, func(t *testing.T) {
			s, call := role.start(t)
			ended := make(chan struct{})
			defer close(ended)
			ctx, cancel := context.WithCancel(t.Context())
			s.when(role.creates, func(_ http.ResponseWriter, act func()) {
				act()
				cancel()
				<-ended
			})
			_, err := role.rotator(s).Create(ctx, call)
			want(t, err, broker.ReasonDeadlineExceeded, false, "waiting for the answer")
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, role := range roles {
		for _, status := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprint(role.name, status), func(t *testing.T) {
				s, call := role.start(t)
				s.when(role.creates, func(w http.ResponseWriter, _ func()) {
					w.Header().Set("Location", elsewhere.URL+"/"+current)
					w.WriteHeader(status)
				})
				_, err := role.rotator(s).Create(t.Context(), call)
				want(t, err, broker.ReasonUpstreamRedirected, false, elsewhere.URL)
			})
		}
	}
	if got := followed.Load(); got != 0 {
		t.Errorf("%d redirects were followed", got)
	}
}

func isUnsent(err error) bool {
	for ; err != nil; err = unwrap(err) {
		if _, ok := err.(*broker.UnsentError); ok {
			return true
		}
	}
	return false
}

func unwrap(err error) error {
	if wrapped, ok := err.(interface{ Unwrap() error }); ok {
		return wrapped.Unwrap()
	}
	return nil
}

func TestWhatIsNeverSent(t *testing.T) {
	tests := []struct {
		name   string
		change func(*broker.RotatorCall)
		reason broker.Reason
		text   string
	}{
		{"to an unbound origin", func(c *broker.RotatorCall) { c.Destinations = []string{"https://api.example"} }, broker.ReasonDestinationNotBound, "bound to https://api.example"},
		{"to nowhere", func(c *broker.RotatorCall) { c.Settings.Endpoint = "" }, broker.ReasonUpstreamAddressRefused, ""},
		{"to a private address", func(c *broker.RotatorCall) {
			c.Settings.Endpoint, c.Destinations = "https://10.1.2.3/api", []string{"https://10.1.2.3"}
		}, broker.ReasonUpstreamAddressRefused, "private"},
		{"in plain text", func(c *broker.RotatorCall) {
			c.Settings.Endpoint, c.Destinations = "http://api.example/api", []string{"http://api.example"}
		}, broker.ReasonUpstreamAddressRefused, "http"},
		{"without a token", func(c *broker.RotatorCall) { c.Management, c.Registration = secret.Value{}, secret.Value{} }, broker.ReasonRotatorUnauthorized, "missing"},
		{"with a token that breaks the header", func(c *broker.RotatorCall) {
			c.Management, c.Registration = secret.NewString("canary\r\nX: y"), secret.NewString("canary\r\nX: y")
		}, broker.ReasonRotatorUnauthorized, "characters"},
		{"for a client with a key", func(c *broker.RotatorCall) { c.Authentication.Method = broker.PrivateKeyJWT }, broker.ReasonRotatorRefused, "private_key_jwt"},
		{"after the call ended", nil, broker.ReasonDeadlineExceeded, ""},
		{"to a server that is not there", func(c *broker.RotatorCall) {
			c.Settings.Endpoint, c.Destinations = "https://127.0.0.1:1/api", []string{"https://127.0.0.1:1"}
		}, broker.ReasonUpstreamConnect, "connection refused"},
	}
	for _, role := range roles {
		for _, test := range tests {
			t.Run(role.name+"/"+test.name, func(t *testing.T) {
				s, call := role.start(t)
				ctx := t.Context()
				if test.change != nil {
					test.change(&call)
				} else {
					ended, cancel := context.WithCancel(ctx)
					cancel()
					ctx = ended
				}
				_, err := role.rotator(s).Create(ctx, call)
				want(t, err, test.reason, true, test.text)
				if n := s.count(""); n != 0 {
					t.Errorf("%d requests, want none", n)
				}
			})
		}
	}
}

func TestPathsOfTheEndpoint(t *testing.T) {
	for _, role := range roles {
		if role.name == "rfc7592" { // its endpoint is the whole address
			continue
		}
		t.Run(role.name, func(t *testing.T) {
			s, call := role.start(t)
			call.Settings.Endpoint += "?x=1"
			_, err := role.rotator(s).Create(t.Context(), call)
			want(t, err, broker.ReasonRotatorRefused, true, "query")
		})
	}
	for _, id := range []string{"..", ".", ""} {
		s, call := playAuth0(t)
		call.ClientID = id
		_, err := auth0Role.rotator(s).Create(t.Context(), call)
		want(t, err, broker.ReasonRotatorRefused, true, "path")
	}
	s, call := playAuth0(t)
	call.ClientID = "../a/b?c#d%2e"
	_, err := auth0Role.rotator(s).Create(t.Context(), call)
	want(t, err, broker.ReasonRotatorRefused, false, "inexistent_client")
}
