package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/client"
)

// api is an HTTP API without a network. It answers 401 to tokens that it refuses.
type api struct {
	refuses   func(authorization string) bool
	challenge string
	redirect  string // where to send everybody who comes to /redirect
	got       []*http.Request
	bodies    []string
	closed    int // bodies of requests
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.got = append(a.got, r.Clone(r.Context()))
	body := ""
	if r.Body != nil {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(content)
		_ = r.Body.Close()
		a.closed++
	}
	a.bodies = append(a.bodies, body)
	response := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("answer")), Request: r}
	switch {
	case r.URL.Path == "/redirect":
		response.StatusCode = http.StatusTemporaryRedirect
		response.Header.Set("Location", a.redirect)
	case a.refuses != nil && a.refuses(r.Header.Get("Authorization")):
		response.StatusCode = http.StatusUnauthorized
		response.Header.Set("WWW-Authenticate", a.challenge)
	}
	return response, nil
}

// browse runs a test with an http.Client that may send tokens to https://api.example.com.
func browse(t *testing.T, a *api, run func(*testing.T, *fake, *http.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		source := f.connect(t).Source(acme)
		rt := must[*client.RoundTripper](t)(source.RoundTripper(a, "https://api.example.com"))
		must[*client.Token](t)(source.Get(t.Context()))
		time.Sleep(time.Minute) // older than the hold-down for refused tokens
		run(t, f, &http.Client{Transport: rt})
	})
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	return must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, url, body))
}

func TestTokenIsAdded(t *testing.T) {
	a := &api{}
	browse(t, a, func(t *testing.T, _ *fake, c *http.Client) {
		r := request(t, http.MethodGet, "https://API.example.com:443/things", nil)
		response := must[*http.Response](t)(c.Do(r))
		if got, want := a.got[0].Header.Get("Authorization"), "Bearer "+canary+"-1"; got != want {
			t.Errorf("authorization %q, want %q", got, want)
		}
		if len(r.Header) != 0 || response.Request.Header.Get("Authorization") != "" {
			t.Errorf("the caller's request was changed, or the response holds the token")
		}
	})
}

func TestTokenStaysAtItsOrigin(t *testing.T) {
	for _, target := range []string{
		"https://evil.example.com/", "https://api.example.com:8443/", "http://api.example.com/", "https://api.example.com.evil.example/",
		"https://sub.api.example.com/", "https://api.example.com@evil.example/",
	} {
		a := &api{redirect: target}
		browse(t, a, func(t *testing.T, _ *fake, c *http.Client) {
			must[*http.Response](t)(c.Do(request(t, http.MethodPost, "https://api.example.com/redirect", strings.NewReader("body"))))
			if len(a.got) != 2 || a.got[0].Header.Get("Authorization") == "" {
				t.Fatalf("%s: %d requests", target, len(a.got))
			}
			if strings.Contains(fmt.Sprint(a.got[1]), canary) {
				t.Errorf("%s: the redirect's target got the token", target)
			}
			body := &closing{Reader: strings.NewReader("body")}
			if _, err := c.Transport.RoundTrip(request(t, http.MethodPost, target, body)); err == nil || len(a.got) != 2 {
				t.Errorf("%s: a request was sent, error %v", target, err)
			}
			if body.closed != 1 {
				t.Errorf("%s: body closed %d times, want once", target, body.closed)
			}
		})
	}
	a := &api{redirect: "https://api.example.com/elsewhere"}
	browse(t, a, func(t *testing.T, _ *fake, c *http.Client) {
		must[*http.Response](t)(c.Do(request(t, http.MethodGet, "https://api.example.com/redirect", nil)))
		if a.got[1].Header.Get("Authorization") == "" {
			t.Error("a redirect within the origin lost the token")
		}
	})
}

// closing is a body that cannot be had again.
type closing struct {
	io.Reader
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }

func TestOrigins(t *testing.T) {
	source := newFake(t).connect(t).Source(acme)
	for _, c := range []struct {
		origins []string
		ok      bool
	}{
		{nil, false},
		{[]string{"https://api.example.com"}, true},
		{[]string{"https://api.example.com", "https://[2001:db8::1]:8443"}, true},
		{[]string{"http://127.0.0.1:8080", "http://[::1]"}, true},
		{[]string{"http://localhost:8080"}, false}, // a resolver decides what that is
		{[]string{"http://api.example.com"}, false},
		{[]string{"http://10.0.0.1"}, false},
		{[]string{"https://api.example.com/"}, false},
		{[]string{"https://user@api.example.com"}, false},
		{[]string{"ftp://127.0.0.1"}, false},
		{[]string{"api.example.com"}, false},
		{[]string{"https://"}, false},
	} {
		if _, err := source.RoundTripper(nil, c.origins...); (err == nil) != c.ok {
			t.Errorf("%q: %v, want accepted: %v", c.origins, err, c.ok)
		}
	}
}

func firstToken(authorization string) bool { return authorization == "Bearer "+canary+"-1" }

func TestRefusedTokenIsReplaced(t *testing.T) {
	const invalid = `Bearer realm="api", error="invalid_token"`
	reader := func() io.Reader { return &closing{Reader: strings.NewReader("body")} }
	for _, c := range []struct {
		name      string
		body      io.Reader
		challenge string
		refuses   func(string) bool
		sent      int
		mints     int
		status    int
	}{
		{"no body", nil, invalid, firstToken, 2, 2, 200},
		{"body with GetBody", bytes.NewReader([]byte("body")), invalid, firstToken, 2, 2, 200},
		{"http.NoBody", http.NoBody, invalid, firstToken, 2, 2, 200},
		{"body without GetBody", reader(), invalid, firstToken, 1, 2, 401},
		{"refused again", nil, invalid, func(string) bool { return true }, 2, 2, 401},
		{"another error", nil, `Bearer error="insufficient_scope"`, firstToken, 1, 1, 401},
		{"no error", nil, `Bearer realm="api"`, firstToken, 1, 1, 401},
		{"no challenge", nil, ``, firstToken, 1, 1, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &api{challenge: c.challenge, refuses: c.refuses}
			browse(t, a, func(t *testing.T, f *fake, h *http.Client) {
				response := must[*http.Response](t)(h.Do(request(t, http.MethodPost, "https://api.example.com/", c.body)))
				synctest.Wait()
				if response.StatusCode != c.status || len(a.got) != c.sent || f.mints() != c.mints {
					t.Errorf("status %d, %d requests, %d tokens; want %d, %d, %d", response.StatusCode, len(a.got), f.mints(), c.status, c.sent, c.mints)
				}
				for i, body := range a.bodies {
					if c.body != nil && c.body != http.NoBody && body != "body" {
						t.Errorf("request %d had the body %q", i, body)
					}
				}
				if content, err := io.ReadAll(response.Body); string(content) != "answer" || err != nil {
					t.Errorf("answer %q, %v", content, err)
				}
			})
		})
	}
}

func TestRefusedTokenWithoutBroker(t *testing.T) {
	a := &api{challenge: `Bearer error="invalid_token"`, refuses: firstToken}
	browse(t, a, func(t *testing.T, f *fake, h *http.Client) {
		f.server.Stop()
		response := must[*http.Response](t)(h.Do(request(t, http.MethodGet, "https://api.example.com/", nil)))
		if content, err := io.ReadAll(response.Body); response.StatusCode != 401 || string(content) != "answer" || err != nil {
			t.Errorf("status %d, body %q, %v; want the API's own refusal whole", response.StatusCode, content, err)
		}
	})
}

func TestNoTokenNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		source := newFake(t).connect(t).Source(client.Request{Client: "clients/nobody"})
		rt := must[*client.RoundTripper](t)(source.RoundTripper(a, "https://api.example.com"))
		body := &closing{Reader: strings.NewReader("body")}
		_, err := rt.RoundTrip(request(t, http.MethodPost, "https://api.example.com/", body))
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != client.ReasonClientNotFound || len(a.got) != 0 || body.closed != 1 {
			t.Errorf("error %v, %d requests, body closed %d times", err, len(a.got), body.closed)
		}
	})
}

// challenges are WWW-Authenticate fields, and whether they call the token invalid.
var challenges = map[string]bool{
	`Bearer error="invalid_token"`:                                          true,
	`bearer  Error = "invalid_token"`:                                       true,
	`Bearer error=invalid_token`:                                            true,
	`Basic realm="x", Bearer realm="a,b", error="invalid_token"`:            true,
	`Negotiate YWJj==, Bearer scope="a b", error="invalid\_token"`:          true,
	`Bearer error_description="no", error="invalid_token", Basic realm="x"`: true,
	`Basic realm="Bearer error=\"invalid_token\""`:                          false,
	`Basic error="invalid_token"`:                                           false,
	`Bearer realm="x", Basic error="invalid_token"`:                         false,
	`DPoP error="invalid_token"`:                                            true,
	`Bearer error_description="invalid_token"`:                              false,
	`Bearer error="invalid_token`:                                           false,
	`Bearer "error"="invalid_token"`:                                        false,
	`Bearer error="invalid_token\`:                                          false,
}

func TestChallenges(t *testing.T) {
	for challenge, want := range challenges {
		a := &api{challenge: challenge, refuses: firstToken}
		browse(t, a, func(t *testing.T, _ *fake, h *http.Client) {
			must[*http.Response](t)(h.Do(request(t, http.MethodGet, "https://api.example.com/", nil)))
			if got := len(a.got) == 2; got != want {
				t.Errorf("%s: taken for invalid_token: %v, want %v", challenge, got, want)
			}
		})
	}
}
