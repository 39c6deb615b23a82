package oauth_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// last returns the sight that a walk ended with.
func last(t *testing.T, sights []broker.Sight, stage string) broker.Sight {
	t.Helper()
	if len(sights) == 0 {
		t.Fatal("nothing was seen")
	}
	end := sights[len(sights)-1]
	if end.Stage != stage {
		t.Fatalf("the walk ended at %s (%v), want %s: %+v", end.Stage, end.Err, stage, sights)
	}
	for _, s := range sights {
		for _, line := range s.Evidence {
			if strings.Contains(line, "canary") {
				t.Errorf("%s shows what the server said: %s", s.Stage, line)
			}
		}
	}
	return end
}

// TestReachWhatAnswers tells a token endpoint from whatever else may answer.
func TestReachWhatAnswers(t *testing.T) {
	type row struct {
		name     string
		status   int
		body     string
		headers  []string
		provider string
		reason   broker.Reason // "" if the walk goes on
		warning  broker.Reason
		text     string
	}
	const page = "text/html"
	tests := []row{
		{name: "invalid_request", status: 400, body: `{"error":"invalid_request"}`, text: "as a token endpoint does: invalid_request"},
		{name: "invalid_client", status: 401, body: `{"error":"invalid_client"}`, text: "invalid_client"},
		{name: "an error that echoes", status: 400, body: `{"error":"canary-7f3a9c"}`, text: "as a token endpoint does"},
		{name: "empty 403, as glewlwyd", status: 403, text: "answered 403 with an empty body"},
		{name: "error in 200, as GitHub", status: 200, body: `{"error":"bad"}`, text: "as a token endpoint does"},
		{name: "login page", status: 200, body: "<html>log in, canary</html>", headers: []string{"Content-Type", page}, reason: broker.ReasonUpstreamNotOAuth, text: "a page for people"},
		{name: "page with 403", status: 403, body: "<!doctype html>", headers: []string{"Content-Type", page}, reason: broker.ReasonUpstreamNotOAuth, text: "a page for people"},
		{name: "captive portal", status: 511, body: "<html>", reason: broker.ReasonUpstreamNotOAuth, text: "captive portal"},
		{name: "SOAP", status: 400, body: `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"/>`, reason: broker.ReasonUpstreamNotOAuth, text: "a SOAP service"},
		{name: "SOAP fault with 500", status: 500, body: `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"/>`, reason: broker.ReasonUpstreamNotOAuth, text: "a SOAP service"},
		{name: "an outage in OAuth's words", status: 503, body: `{"error":"temporarily_unavailable"}`, reason: broker.ReasonUpstreamUnavailable, text: "answered 503"},
		{name: "a clumsy refusal of an empty request", status: 500, body: `{"error":"invalid_request"}`, text: "as a token endpoint does: invalid_request"},
		{name: "text", status: 200, body: "hello canary", reason: broker.ReasonUpstreamNotOAuth, text: "neither a JSON object nor a form"},
		{name: "an API's error", status: 400, body: `{"message":"canary"}`, warning: broker.ReasonUpstreamNotOAuth, text: "an API, but perhaps not a token endpoint"},
		{name: "the same with a profile", status: 400, body: `{"message":"canary"}`, provider: "custom", text: "answered 400 with a JSON object"},
		{name: "success", status: 200, body: `{"ok":true}`, warning: broker.ReasonUpstreamNotOAuth, text: "RFC 6749 §5.2"},
		{name: "not found", status: 404, body: `{"message":"no"}`, reason: broker.ReasonEndpointWrong, text: "nothing is there"},
		{name: "no POST", status: 405, reason: broker.ReasonEndpointWrong, text: "takes no POST"},
		{name: "no POST with a profile", status: 405, provider: "custom", text: "answered 405"},
		{name: "rate limit", status: 429, warning: broker.ReasonUpstreamRateLimited, text: "answered 429"},
		{name: "down", status: 503, body: "<html>", reason: broker.ReasonUpstreamUnavailable, text: "answered 503"},
		{name: "proxy login", status: 407, reason: broker.ReasonUpstreamProxy, text: "wants a login"},
		{name: "redirect", status: 302, headers: []string{"Location", "https://login.example.com/canary?x"}, reason: broker.ReasonUpstreamRedirected, text: "a redirect to https://login.example.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := serve(t, answer(tt.status, tt.body, tt.headers...))
			sights := client.Reach(t.Context(), broker.ReachTarget{Endpoint: server.URL + "/token", Provider: tt.provider})
			if tt.reason != "" {
				end := last(t, sights, broker.StageHTTP)
				wantReason(t, end.Err, tt.reason, tt.text)
				return
			}
			if end := last(t, sights, broker.StageClock); end.Err != nil {
				t.Errorf("the walk failed: %v", end.Err)
			}
			asked := sights[len(sights)-2]
			if asked.Warning != tt.warning || !strings.Contains(strings.Join(asked.Evidence, "\n"), tt.text) {
				t.Errorf("what answers = %q %q, want %q and %q", asked.Warning, asked.Evidence, tt.warning, tt.text)
			}
		})
	}
}

// TestReachSendsNothing that could count as a try of a credential.
func TestReachSendsNothing(t *testing.T) {
	var requests []*http.Request
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, r)
		w.WriteHeader(http.StatusBadRequest)
	})
	client.Reach(t.Context(), broker.ReachTarget{Endpoint: server.URL + "/token"})
	if len(requests) != 1 {
		t.Fatalf("%d requests, want 1", len(requests))
	}
	if r := requests[0]; r.ContentLength != 0 || r.Header.Get("Authorization") != "" || r.URL.RawQuery != "" {
		t.Errorf("the request says something: %d bytes, %q, %q", r.ContentLength, r.Header.Get("Authorization"), r.URL.RawQuery)
	}
}

// TestReachTheWay names the link that is broken before anything answers.
func TestReachTheWay(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	plain := httptest.NewServer(answer(200, "{}"))
	defer plain.Close()
	client := oauth.New(oauth.Config{AllowHTTPLoopback: true, Timeout: time.Second})
	defer client.Close()
	strict := oauth.New(oauth.Config{Timeout: time.Second})
	defer strict.Close()
	tests := []struct {
		name, endpoint, stage string
		client                *oauth.Client
		reason                broker.Reason
		text                  string
	}{
		{"no such name", "https://no-such-host.invalid/token", broker.StageDNS, client, broker.ReasonUpstreamDNS, "no-such-host.invalid"},
		{"private address", "https://127.0.0.1/token", broker.StageDNS, strict, broker.ReasonUpstreamAddressRefused, "loopback"},
		{"nothing listens", "https://" + harness.UnusedAddress(t) + "/token", broker.StageTCP, client, broker.ReasonUpstreamConnect, "connection refused"},
		{"never speaks", "https://" + silent.Addr().String() + "/token", broker.StageTLS, client, broker.ReasonUpstreamTLS, "took too long"},
		{"never answers", "http://" + silent.Addr().String() + "/token", broker.StageHTTP, client, broker.ReasonUpstreamTimeout, "waiting for the answer"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1) + "/token", broker.StageTLS, client, broker.ReasonUpstreamTLS, "does not speak TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sights := tt.client.Reach(t.Context(), broker.ReachTarget{Endpoint: tt.endpoint})
			wantReason(t, last(t, sights, tt.stage).Err, tt.reason, tt.text)
		})
	}
}

// TestReachCertificates reports what the handshake showed.
func TestReachCertificates(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*x509.Certificate)
		fails   string
		warning broker.Reason
	}{
		{name: "good for long", change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(90 * 24 * time.Hour) }},
		{name: "ends tomorrow", change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24 * time.Hour) }, warning: broker.ReasonUpstreamCertificateEnds},
		{name: "ended", change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, fails: "expired"},
		{name: "another name", change: func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} }, fails: "another name: other.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			certificate, roots := issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "as"; tt.change(c) })
			client, server := serve(t, answer(400, `{"error":"invalid_request"}`), func(s *httptest.Server, cfg *oauth.Config) {
				s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
				cfg.RootCAs = roots
			})
			sights := client.Reach(t.Context(), broker.ReachTarget{Endpoint: server.URL + "/token"})
			i := slices.IndexFunc(sights, func(s broker.Sight) bool { return s.Stage == broker.StageTLS })
			if i < 0 {
				t.Fatalf("no handshake: %+v", sights)
			}
			if tt.fails != "" {
				wantReason(t, sights[i].Err, broker.ReasonUpstreamTLS, tt.fails)
				return
			}
			if sights[i].Err != nil || sights[i].Warning != tt.warning || !strings.Contains(sights[i].Evidence[0], "TLS 1.3") {
				t.Errorf("handshake = %v %q %q, want a pass with %q", sights[i].Err, sights[i].Warning, sights[i].Evidence, tt.warning)
			}
		})
	}
}

// TestReachClock compares clocks by the Date of the answer.
func TestReachClock(t *testing.T) {
	tests := []struct {
		name    string
		date    string
		warning broker.Reason
		text    string
	}{
		{"agrees", time.Now().UTC().Format(http.TimeFormat), "", "agree"},
		{"ahead", time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat), broker.ReasonUpstreamClockSkew, "ahead"},
		{"behind", time.Now().Add(-10 * time.Minute).UTC().Format(http.TimeFormat), broker.ReasonUpstreamClockSkew, "behind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := serve(t, answer(400, `{"error":"invalid_request"}`, "Date", tt.date))
			end := last(t, client.Reach(t.Context(), broker.ReachTarget{Endpoint: server.URL}), broker.StageClock)
			if end.Warning != tt.warning || !strings.Contains(end.Evidence[0], tt.text) {
				t.Errorf("clock = %q %q, want %q and %q", end.Warning, end.Evidence, tt.warning, tt.text)
			}
		})
	}
}

// TestCallAPI tells what an API makes of a token, and sends it nowhere else.
func TestCallAPI(t *testing.T) {
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer " + "good":
			w.WriteHeader(http.StatusOK)
		case "":
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	origin, _ := broker.Origin(server.URL)
	call := broker.APICall{URL: server.URL + "/me", Destinations: []string{origin}, TokenType: "Bearer"}
	for token, want := range map[string]broker.APIAnswer{
		"good": {Status: 200, Kind: "an empty body"},
		"":     {Status: 401, Challenged: true, Kind: "an empty body"},
		"bad":  {Status: 401, Challenged: true, Error: "invalid_token", Kind: "an empty body"},
	} {
		call.Token = secret.NewString(token)
		if got, err := client.CallAPI(t.Context(), call); err != nil || got != want {
			t.Errorf("with token %q: %+v, %v, want %+v", token, got, err, want)
		}
	}
	call.Destinations = []string{"https://api.example.com"}
	_, err := client.CallAPI(t.Context(), call)
	wantReason(t, err, broker.ReasonDestinationNotBound, "bound to https://api.example.com")
}
