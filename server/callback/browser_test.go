package callback_test

import (
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/chromium"
)

// TestPagesInABrowser opens the page of a grant and of each kind of failure as a user
// does. With CALLBACK_SCREENSHOTS a picture of each is left in that folder.
func TestPagesInABrowser(t *testing.T) {
	browser := chromium.Open(t)
	cases := []struct {
		reason broker.Reason
		title  string
	}{
		{"", "Access was granted"},
		{broker.ReasonAuthorizationDenied, "Access was not granted"},
		{broker.ReasonStateInvalid, "This link does not work any more"},
		{broker.ReasonAuthorizationExpired, "That took too long"},
		{broker.ReasonInvalidRequest, "This page was not opened as it should be"},
		{broker.ReasonIssuerMismatch, "The answer came from somewhere else"},
		{broker.ReasonIDTokenInvalid, "The answer does not fit your request"},
		{broker.ReasonAuthorizationNotTaken, "The other service did not accept its own answer"},
		{broker.ReasonAuthorizationAnswerLost, "The connection broke at the last moment"},
		{broker.ReasonTooManyRequests, "Too much is going on right now"},
		{broker.ReasonAuditUnavailable, "This could not be recorded"},
		{broker.ReasonClientDisabled, "This connection is switched off"},
		{broker.ReasonScopeRejected, "The application is not set up for this"},
		{broker.ReasonUpstreamTimeout, "The other service does not answer"},
		{broker.ReasonUpstreamDNS, "The other service cannot be reached"},
		{broker.ReasonStoreUnreachable, "This does not work right now"},
		{broker.ReasonInternal, "Something went wrong"},
	}
	for _, c := range cases {
		t.Run(string(c.reason), func(t *testing.T) {
			t.Parallel()
			complete := granted
			role := "status"
			if c.reason != "" {
				complete, role = failing(c.reason), "alert"
			}
			server := httptest.NewServer(newWorld(t, complete))
			defer server.Close()
			hostile := url.Values{"state": {"s"}, "code": {"c"}, "error_description": {`<script>console.error("run")</script><img src="http://evil.example/x">`}}
			opened := server.URL + path + "?" + hostile.Encode()
			picture := ""
			if folder := os.Getenv("CALLBACK_SCREENSHOTS"); folder != "" {
				picture = filepath.Join(folder, "page-"+string(c.reason)+".png")
			}
			v := browser.Visit(t, opened, "800", false, picture)
			for _, want := range []string{`<html lang="en">`, "<title>" + c.title + "</title>", ">" + c.title + "</h1>", `<div role="` + role + `">`, string(c.reason)} {
				if !strings.Contains(v.DOM, want) {
					t.Errorf("the document lacks %s:\n%s", want, v.DOM)
				}
			}
			if headings := len(regexp.MustCompile("<h1").FindAllString(v.DOM, -1)); headings != 1 {
				t.Errorf("%d headings of the first rank", headings)
			}
			if len(v.Console) > 0 {
				t.Errorf("the console says %q", v.Console)
			}
			for _, asked := range v.Requests {
				if !strings.HasPrefix(asked, server.URL+path) {
					t.Errorf("the page asked for %s", asked)
				}
			}
			if len(v.Requests) == 0 {
				t.Error("no request was seen: does this test look at all?")
			}
		})
	}
}
