package chromium_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/chromium"
)

// TestVisitSees makes sure that a page which does what it must not is seen to.
func TestVisitSees(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(`<!DOCTYPE html><title>A</title><p id=p>before<script>document.getElementById("p").textContent = "after"; console.error("a complaint")</script><img src="http://elsewhere.example/pixel">`))
	}))
	defer server.Close()
	v := chromium.Open(t).Visit(t, server.URL, "800", false, "")
	if !strings.Contains(v.DOM, ">after<") {
		t.Errorf("the document is\n%s", v.DOM)
	}
	if !strings.Contains(strings.Join(v.Console, "\n"), "a complaint") {
		t.Errorf("the console is %q", v.Console)
	}
	if requests := strings.Join(v.Requests, "\n"); !strings.Contains(requests, "elsewhere.example") || !strings.Contains(requests, server.URL) {
		t.Errorf("the requests are %q", v.Requests)
	}
}
