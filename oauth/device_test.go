package oauth_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

func TestAuthorizeDevice(t *testing.T) {
	good := `"device_code":"dc","user_code":"ABCD-EFGH","verification_uri":"https://as.example/device"`
	tests := []struct {
		name   string
		status int
		body   string
		reason broker.Reason
		want   string // of the error, or interval, end and complete URI
	}{
		{"all", 200, `{` + good + `,"verification_uri_complete":"https://as.example/device?user_code=ABCD-EFGH","expires_in":600,"interval":7}`, "", "7s 10m0s https://as.example/device?user_code=ABCD-EFGH"},
		{"least", 200, `{` + good + `,"expires_in":"600"}`, "", "5s 10m0s "},
		{"Google's name", 200, `{"device_code":"dc","user_code":"ABCD-EFGH","verification_url":"https://as.example/device","expires_in":600}`, "", "5s 10m0s "},
		{"an age", 200, `{` + good + `,"expires_in":1e9,"interval":1e12}`, "", "24h0m0s 24h0m0s "},
		{"complete by script", 200, `{` + good + `,"verification_uri_complete":"javascript:alert(1)","expires_in":600}`, "", "5s 10m0s "},
		{"negative interval", 200, `{` + good + `,"expires_in":600,"interval":-1}`, "", "5s 10m0s "},
		{"no end", 200, `{` + good + `}`, broker.ReasonUpstreamMalformed, "expires_in"},
		{"no code", 200, `{"user_code":"u","verification_uri":"https://as.example/device","expires_in":600}`, broker.ReasonUpstreamMalformed, "device_code"},
		{"huge code", 200, `{"device_code":"` + strings.Repeat("x", 9000) + `","user_code":"u","verification_uri":"https://as.example/","expires_in":600}`, broker.ReasonUpstreamMalformed, "device_code"},
		{"user code with a line break", 200, `{"device_code":"dc","user_code":"a\nb","verification_uri":"https://as.example/","expires_in":600}`, broker.ReasonUpstreamMalformed, "user_code"},
		{"user code of a screen", 200, `{"device_code":"dc","user_code":"` + strings.Repeat("x", 65) + `","verification_uri":"https://as.example/","expires_in":600}`, broker.ReasonUpstreamMalformed, "user_code"},
		{"plain http", 200, `{"device_code":"dc","user_code":"u","verification_uri":"http://as.example/","expires_in":600}`, broker.ReasonUpstreamMalformed, "verification_uri"},
		{"script", 200, `{"device_code":"dc","user_code":"u","verification_uri":"javascript:alert(1)","expires_in":600}`, broker.ReasonUpstreamMalformed, "verification_uri"},
		{"markup", 200, `{"device_code":"dc","user_code":"u","verification_uri":"https://as.example/<script>","expires_in":600}`, broker.ReasonUpstreamMalformed, "verification_uri"},
		{"user in the URI", 200, `{"device_code":"dc","user_code":"u","verification_uri":"https://as.example@evil.example/","expires_in":600}`, broker.ReasonUpstreamMalformed, "verification_uri"},
		{"twice", 200, `{` + good + `,"device_code":"other","expires_in":600}`, broker.ReasonUpstreamMalformed, "twice"},
		{"a page", 200, `<html>`, broker.ReasonUpstreamMalformed, "not one JSON object"},
		{"an error by 200", 200, `{` + good + `,"expires_in":600,"error":"invalid_client"}`, broker.ReasonClientRejected, "invalid_client"},
		{"refused", 401, `{"error":"invalid_client"}`, broker.ReasonClientRejected, "invalid_client"},
		{"not for this client", 400, `{"error":"unauthorized_client"}`, broker.ReasonGrantTypeRejected, "unauthorized_client"},
		{"moved", 302, ``, broker.ReasonUpstreamRedirected, "302"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := serve(t, answer(tt.status, tt.body))
			got, err := client.AuthorizeDevice(t.Context(), tokenRequest(server))
			if tt.reason != "" {
				wantReason(t, err, tt.reason, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if told := got.Interval.String() + " " + got.ExpiresIn.String() + " " + got.VerificationURIComplete; told != tt.want || got.DeviceCode.RevealString() != "dc" ||
				got.UserCode != "ABCD-EFGH" || got.VerificationURI != "https://as.example/device" {
				t.Errorf("AuthorizeDevice = %q, %+v", told, got)
			}
		})
	}
}

func TestDeviceRequestOnTheWire(t *testing.T) {
	client, server, last := capture(t)
	req := tokenRequest(server)
	req.Scopes, req.Audience, req.Resources, req.Parameters = []string{"a", "b"}, "https://api", []string{"https://r"}, map[string]string{"tenant": "1"}
	_, err := client.AuthorizeDevice(t.Context(), req)
	wantReason(t, err, broker.ReasonUpstreamMalformed, "device_code") // the captured answer is a token's
	want := url.Values{"client_id": {"reports"}, "scope": {"a b"}, "audience": {"https://api"}, "resource": {"https://r"}, "tenant": {"1"}}
	if got := last.Load(); got.form.Encode() != want.Encode() || !strings.HasPrefix(got.header.Get("Authorization"), "Basic ") {
		t.Errorf("form = %v, want %v and Basic", got.form, want)
	}
	last.Store(nil)
	req.Parameters = map[string]string{"client_secret": "x"}
	_, err = client.AuthorizeDevice(t.Context(), req)
	wantReason(t, err, broker.ReasonInvalidRequest, "client_secret")
	req.Parameters, req.Destinations = nil, []string{"https://other.example"}
	_, err = client.AuthorizeDevice(t.Context(), req)
	wantReason(t, err, broker.ReasonDestinationNotBound, "")
	if last.Load() != nil {
		t.Error("a request was sent")
	}
}

func TestIntrospect(t *testing.T) {
	exp := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name   string
		status int
		body   string
		reason broker.Reason
		text   string
		want   broker.Introspection
	}{
		{name: "active", status: 200, body: `{"active":true,"exp":1893553445,"scope":"b a b"}`, want: broker.Introspection{Active: true, ExpireTime: exp, Scopes: []string{"a", "b"}}},
		{name: "says no more", status: 200, body: `{"active":true}`, want: broker.Introspection{Active: true}},
		{name: "no scope", status: 200, body: `{"active":true,"scope":""}`, want: broker.Introspection{Active: true, Scopes: []string{}}},
		{name: "inactive", status: 200, body: `{"active":false,"exp":1893553445}`},
		{name: "an end past all calendars", status: 200, body: `{"active":true,"exp":1e300}`, want: broker.Introspection{Active: true, ExpireTime: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{name: "active in words", status: 200, body: `{"active":"yes"}`, reason: broker.ReasonUpstreamMalformed, text: "active"},
		{name: "null", status: 200, body: `{"active":null}`, reason: broker.ReasonUpstreamMalformed, text: "active"},
		{name: "does not say", status: 200, body: `{}`, reason: broker.ReasonUpstreamMalformed, text: "active"},
		{name: "a JWT", status: 200, body: `eyJhbGciOiJub25lIn0.e30.`, reason: broker.ReasonUpstreamMalformed, text: "not one JSON object"},
		{name: "refused", status: 401, body: `{"error":"invalid_client","error_description":"canary-token-7f3a9c"}`, reason: broker.ReasonClientRejected, text: "withheld"},
		{name: "down", status: 503, reason: broker.ReasonUpstreamUnavailable, text: "503"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := serve(t, answer(tt.status, tt.body))
			req := broker.IntrospectionRequest{Endpoint: server.URL + "/introspect", Client: tokenRequest(server), Token: secret.NewString("canary-token-7f3a9c")}
			got, err := client.Introspect(t.Context(), req)
			if tt.reason != "" {
				wantReason(t, err, tt.reason, tt.text)
				return
			}
			if err != nil || got.Active != tt.want.Active || !got.ExpireTime.Equal(tt.want.ExpireTime) || !slices.Equal(got.Scopes, tt.want.Scopes) || (got.Scopes == nil) != (tt.want.Scopes == nil) {
				t.Errorf("Introspect = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestIntrospectionIsBound(t *testing.T) {
	client, server, last := capture(t)
	req := broker.IntrospectionRequest{Endpoint: "https://evil.example/introspect", Client: tokenRequest(server), Token: secret.NewString("at")}
	_, err := client.Introspect(t.Context(), req)
	wantReason(t, err, broker.ReasonDestinationNotBound, "")
	if last.Load() != nil {
		t.Error("a request was sent")
	}
	req.Endpoint = server.URL + "/introspect"
	if _, err := client.Introspect(t.Context(), req); err == nil { // the captured answer is a token's
		t.Error("no error")
	}
	if form := last.Load().form; form.Get("token") != "at" || form.Get("token_type_hint") != "access_token" {
		t.Errorf("form = %v", form)
	}
}
