package outbound_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/outbound"
)

// TestParse names each thing that a URL may not be; package oauth tests further spellings.
func TestParse(t *testing.T) {
	strict := outbound.New(outbound.Config{Timeout: time.Second})
	loopback := outbound.New(outbound.Config{Timeout: time.Second, AllowHTTPLoopback: true})
	private := outbound.New(outbound.Config{Timeout: time.Second, AllowedAddresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	tests := []struct {
		name string
		door *outbound.Door
		raw  string
		want string // "" is allowed
	}{
		{"public", strict, "https://hooks.example.com/x?y=z", ""},
		{"http", strict, "http://127.0.0.1:8080/", "http://127.0.0.1:8080 is plain http"},
		{"http on IPv6", strict, "http://[::1]:8080/", "http://[::1]:8080 is plain http"},
		{"user", strict, "https://canary@hooks.example.com/", "the hook has a user or password"},
		{"private", strict, "https://10.1.0.1/", "10.1.0.1 is private"},
		{"private and allowed", private, "https://10.1.0.1/", ""},
		{"private and not that one", private, "https://10.2.0.1/", "10.2.0.1 is private"},
		{"cloud metadata", loopback, "https://169.254.169.254/", "link-local"},
		{"loopback", loopback, "http://localhost:8080/", ""},
		{"http elsewhere", loopback, "http://hooks.example.com/", "loopback addresses only"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.door.Parse("hook", test.raw)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Parse(%q) = %v, want %q in it", test.raw, err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the error quotes the URL: %v", err)
			}
		})
	}
}

// TestRouteKeepsPlainHTTPFromProxies, whatever the environment says.
func TestRouteKeepsPlainHTTPFromProxies(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://proxy.example:3128")
	door := outbound.New(outbound.Config{Timeout: time.Second, AllowHTTPLoopback: true})
	defer door.Close()
	_, proxied, err := door.Route(&url.URL{Scheme: "http", Host: "127.0.0.1:1"})
	if err != nil || proxied {
		t.Errorf("Route = proxied %v, %v, want neither", proxied, err)
	}
}
