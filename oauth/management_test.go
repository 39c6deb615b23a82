package oauth_test

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// manageable is a token for a management API; it has what canary may not have in a header.
const manageable = "canary-7f3a9c"

func managementRequest(server *httptest.Server) oauth.ManagementRequest {
	req := tokenRequest(server)
	return oauth.ManagementRequest{
		Op: "change it", Method: http.MethodPut, URL: server.URL + "/clients/a%2Fb?c=d", Destinations: req.Destinations,
		Token: secret.NewString(manageable), Body: secret.NewString(`{"s":"` + canary + `"}`), Secrets: []secret.Value{secret.NewString(canary)},
	}
}

func TestManage(t *testing.T) {
	client, server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if got := r.Method + " " + r.URL.EscapedPath() + " " + r.URL.RawQuery; got != "PUT /clients/a%2Fb c=d" {
			t.Errorf("request = %s", got)
		}
		for name, want := range map[string]string{"Authorization": "SSWS " + manageable, "Content-Type": "application/json", "Accept": "application/json"} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
		answer(http.StatusConflict, string(body), "Retry-After", "5")(w, r)
	})
	req := managementRequest(server)
	req.Scheme = "SSWS"
	got, err := client.Manage(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != http.StatusConflict || got.Body.RevealString() != req.Body.RevealString() || got.RetryAfter.Seconds() != 5 || got.Origin != req.Destinations[0] {
		t.Errorf("Manage = %d after %s from %s, want what was answered", got.Status, got.RetryAfter, got.Origin)
	}
	for text, want := range map[string]string{
		"all is well": "all is well", "not " + canary: "(withheld: it may echo a credential)", "not " + manageable[2:10]: "(withheld: it may echo a credential)",
		"fresh-one": "(withheld: it may echo a credential)",
	} {
		if got := got.Shown(text, "fresh-one"); got != want {
			t.Errorf("Shown = %q, want %q", got, want)
		}
	}
}

// TestManageSaysWhatWasNotSent tells requests that surely did not arrive from those that may have.
func TestManageSaysWhatWasNotSent(t *testing.T) {
	client, server := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	stranger := oauth.New(oauth.Config{AllowHTTPLoopback: true, RootCAs: x509.NewCertPool()})
	t.Cleanup(stranger.Close)
	strict := oauth.New(oauth.Config{})
	t.Cleanup(strict.Close)
	tests := []struct {
		name   string
		client *oauth.Client
		change func(*oauth.ManagementRequest)
		reason broker.Reason
		unsent bool
	}{
		{"cut off", client, nil, broker.ReasonUpstreamConnect, false},
		{"cut off again", client, nil, broker.ReasonUpstreamConnect, false},
		{"unknown authority", stranger, nil, broker.ReasonUpstreamTLS, true},
		{"address refused", strict, nil, broker.ReasonUpstreamAddressRefused, true},
		{"unbound", client, func(r *oauth.ManagementRequest) { r.Destinations = nil }, broker.ReasonDestinationNotBound, true},
		{"no method", client, func(r *oauth.ManagementRequest) { r.Method = "P T" }, broker.ReasonUpstreamAddressRefused, true},
		{"no token", client, func(r *oauth.ManagementRequest) { r.Token = secret.Value{} }, broker.ReasonRotatorUnauthorized, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req := managementRequest(server)
			if test.change != nil {
				test.change(&req)
			}
			_, err := test.client.Manage(t.Context(), req)
			e := wantReason(t, err, test.reason, "")
			if e.Op != "change it" && !strings.HasPrefix(err.Error(), "change it") {
				t.Errorf("error = %v, want what was being done", err)
			}
			var unsent *broker.UnsentError
			if got := errors.As(err, &unsent); got != test.unsent {
				t.Errorf("unsent is %t, want %t: %v", got, test.unsent, err)
			}
		})
	}
}
