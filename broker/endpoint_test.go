package broker_test

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

func TestEndpoints(t *testing.T) {
	tests := []struct {
		name     string
		endpoint string
		want     broker.Reason
	}{
		{"https", "https://as.example/token", ""},
		{"port", "https://as.example:8443/token", ""},
		{"no path", "https://as.example", ""},
		{"upper case", "HTTPS://AS.EXAMPLE/Token", ""},
		{"encoded path", "https://as.example/a%20b/token", ""},
		{"IPv4", "https://192.0.2.1/token", ""},
		{"IPv6", "https://[2001:db8::1]:8443/token", ""},
		{"IDN in ASCII form", "https://xn--mnchen-3ya.example/token", ""},

		{"plain http", "http://as.example/token", broker.ReasonUpstreamAddressRefused},
		{"empty", "", broker.ReasonInvalidRequest},
		{"2,049 bytes", "https://as.example/" + strings.Repeat("a", 2030), broker.ReasonInvalidRequest},
		{"host of 300 bytes", "https://" + strings.Repeat("a", 300) + "/token", broker.ReasonInvalidRequest},
		{"relative", "/token", broker.ReasonInvalidRequest},
		{"no scheme", "as.example/token", broker.ReasonInvalidRequest},
		{"network path", "//as.example/token", broker.ReasonInvalidRequest},
		{"no host", "https:///token", broker.ReasonInvalidRequest},
		{"no host, but port", "https://:443/token", broker.ReasonInvalidRequest},
		{"opaque", "https:as.example/token", broker.ReasonInvalidRequest},
		{"file", "file:///etc/passwd", broker.ReasonInvalidRequest},
		{"ftp", "ftp://as.example/token", broker.ReasonInvalidRequest},
		{"javascript", "javascript:alert(1)", broker.ReasonInvalidRequest},
		{"user", "https://user@as.example/token", broker.ReasonInvalidRequest},
		{"user and password", "https://user:pass@as.example/token", broker.ReasonInvalidRequest},
		{"empty user", "https://@as.example/token", broker.ReasonInvalidRequest},
		{"fragment", "https://as.example/token#a", broker.ReasonInvalidRequest},
		{"empty fragment", "https://as.example/token#", broker.ReasonInvalidRequest},
		{"query", "https://as.example/token?a=b", broker.ReasonInvalidRequest},
		{"empty query", "https://as.example/token?", broker.ReasonInvalidRequest},
		{"space in path", "https://as.example/a token", broker.ReasonInvalidRequest},
		{"space in host", "https://as example/token", broker.ReasonInvalidRequest},
		{"leading space", " https://as.example/token", broker.ReasonInvalidRequest},
		{"trailing newline", "https://as.example/token\n", broker.ReasonInvalidRequest},
		{"NUL", "https://as.example/\x00", broker.ReasonInvalidRequest},
		{"backslash in path", `https://as.example/\token`, broker.ReasonInvalidRequest},
		{"backslash after host", `https://as.example\@evil.example/token`, broker.ReasonInvalidRequest},
		{"backslashes for slashes", `https:\\as.example\token`, broker.ReasonInvalidRequest},
		{"IDN", "https://münchen.example/token", broker.ReasonInvalidRequest},
		{"IDN percent-encoded", "https://m%C3%BCnchen.example/token", broker.ReasonInvalidRequest},
		{"fullwidth dot", "https://as\uff0eexample/token", broker.ReasonInvalidRequest},
		{"cyrillic a", "https://\u0430s.example/token", broker.ReasonInvalidRequest},
		{"ASCII percent-encoded in host", "https://%61s.example/token", broker.ReasonInvalidRequest},
		{"port not a number", "https://as.example:https/token", broker.ReasonInvalidRequest},
		{"bad escape", "https://as.example/%zz", broker.ReasonInvalidRequest},
		{"bracket not closed", "https://[2001:db8::1/token", broker.ReasonInvalidRequest},
		{"invalid UTF-8", "https://as.example/\xff", broker.ReasonInvalidRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			n := newClient("acme")
			n.Upstream.TokenEndpoint = test.endpoint
			_, err := f.CreateClient(t.Context(), n)
			wantReason(t, "CreateClient", err, test.want)
			if test.want == broker.ReasonInvalidRequest {
				wantField(t, "CreateClient", err, "client.token_endpoint")
			}
			if test.want != "" && len(f.memory.Keys()) != 0 {
				t.Errorf("written: %q, want nothing", f.memory.Keys())
			}
		})
	}
}

func TestCheckEndpointIsAsked(t *testing.T) {
	memory := brokertest.NewMemory()
	f := open(t, memory, brokertest.NewFaulty(memory), brokertest.NewUpstream(), func(cfg *broker.Config) {
		cfg.CheckEndpoint = func(endpoint string) error {
			if strings.Contains(endpoint, "inside") {
				return &broker.Error{Reason: broker.ReasonUpstreamAddressRefused, Detail: "is inside"}
			}
			return nil
		}
	})
	n := newClient("acme")
	n.Upstream.TokenEndpoint = "https://inside.example/token"
	_, err := f.CreateClient(t.Context(), n)
	wantReason(t, "CreateClient", err, broker.ReasonUpstreamAddressRefused)
	if got := memory.Keys(); len(got) != 0 {
		t.Errorf("written: %q, want nothing", got)
	}
	f.create(t, "acme")
	before := content(t, memory)
	_, err = f.UpdateClient(t.Context(), broker.ClientUpdate{ID: "acme", Secret: input("a-new-one"), Edit: func(c *broker.Client) {
		c.Upstream.TokenEndpoint = "https://inside.example/token"
	}})
	wantReason(t, "UpdateClient", err, broker.ReasonUpstreamAddressRefused)
	if got := content(t, memory); got != before {
		t.Errorf("the store changed to\n%s", got)
	}
}

func TestOrigin(t *testing.T) {
	tests := []struct{ raw, want string }{
		{"https://as.example/token", "https://as.example"},
		{"https://as.example:443/token", "https://as.example"},
		{"https://as.example:/token", "https://as.example"},
		{"HTTPS://As.Example/Token", "https://as.example"},
		{"http://as.example:80/", "http://as.example"},
		{"http://as.example:443/", "http://as.example:443"},
		{"https://as.example:80/", "https://as.example:80"},
		{"https://as.example:0443/", "https://as.example:0443"},
		{"https://as.example./token", "https://as.example."},
		{"https://good.example@evil.example/", "https://evil.example"},
		{"https://good.example:pw@evil.example:1/", "https://evil.example:1"},
		{"https://[2001:DB8::1]:443/", "https://[2001:db8::1]"},
		{"https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"},
		{"https://", ""},
		{"", ""},
		{"as.example", ""},
		{"ws://as.example", ""},
		{`https://a\b`, ""},
		{"https://a b", ""},
	}
	for _, test := range tests {
		got, err := broker.Origin(test.raw)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("Origin(%q) = %q, %v, want %q", test.raw, got, err, test.want)
		}
	}
}
