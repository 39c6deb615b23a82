package oauth_test

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

func TestCheckEndpoint(t *testing.T) {
	strict := oauth.New(oauth.Config{})
	loopback := oauth.New(oauth.Config{AllowHTTPLoopback: true})
	private := oauth.New(oauth.Config{AllowedAddresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("127.0.0.0/8")}})
	tests := []struct {
		endpoint string
		client   *oauth.Client
		text     string // "" is allowed
	}{
		{"https://as.example.com/token", strict, ""},
		{"https://as.example.com:8443/token?p=x", strict, ""},
		{"https://8.8.8.8/token", strict, ""},
		{"https://[2606:4700::1]/token", strict, ""},
		{"https://0xabc.example/token", strict, ""},
		{"http://as.example.com/token", strict, "only https"},
		{"http://127.0.0.1/token", strict, "only https"},
		{"ftp://as.example.com/token", strict, "scheme is not https"},
		{"https:///token", strict, "not an absolute"},
		{"https:as.example.com/token", strict, "not an absolute"},
		{"//as.example.com/token", strict, "scheme is not https"},
		{"https://a b/", strict, "not a URL"},
		{"https://user:canary-7f3a9c@as.example.com/token", strict, "user or password"},
		{"https://as.example.com/token#x", strict, "fragment"},
		{"https://äs.example.com/token", strict, "ASCII"},
		{"https://%C3%A4s.example.com/token", strict, "ASCII"},
		{"https://127.0.0.1/token", strict, "loopback"},
		{"https://localhost/token", strict, "this machine"},
		{"https://LocalHost./token", strict, "this machine"},
		{"https://a.localhost/token", strict, "this machine"},
		{"https://10.0.0.1/token", strict, "private"},
		{"https://169.254.169.254/token", strict, "link-local"},
		{"https://[::1]/token", strict, "loopback"},
		{"https://[fe80::1%25eth0]/token", strict, "link-local"},
		{"https://[::ffff:8.8.8.8]/token", strict, "IPv4-mapped"},
		{"https://[::ffff:127.0.0.1]/token", strict, "IPv4-mapped"},
		{"https://2130706433/token", strict, "usual form"},
		{"https://0x7f.0.0.1/token", strict, "usual form"},
		{"https://0x7f000001/token", strict, "usual form"},
		{"https://127.1/token", strict, "usual form"},
		{"https://127.1./token", strict, "usual form"},
		{"https://0177.0.0.01/token", strict, "usual form"},
		{"http://127.0.0.1:8080/token", loopback, ""},
		{"http://[::1]:8080/token", loopback, ""},
		{"http://localhost:8080/token", loopback, ""},
		{"https://localhost/token", loopback, ""},
		{"http://a.localhost:8080/token", loopback, "to loopback addresses only"},
		{"http://as.example.com/token", loopback, "to loopback addresses only"},
		{"http://10.1.0.1/token", loopback, "to loopback addresses only"},
		{"https://10.1.0.1/token", loopback, "private"},
		{"https://10.1.0.1/token", private, ""},
		{"https://10.2.0.1/token", private, "private"},
		{"https://[fd00::1]/token", private, ""},
		{"https://[::ffff:10.1.0.1]/token", private, ""},
		{"https://localhost/token", private, ""},
		{"http://10.1.0.1/token", private, "only https"},
	}
	for _, tt := range tests {
		t.Run(tt.endpoint, func(t *testing.T) {
			err := tt.client.CheckEndpoint(tt.endpoint)
			if tt.text == "" {
				if err != nil {
					t.Errorf("CheckEndpoint = %v, want nil", err)
				}
				return
			}
			wantReason(t, err, broker.ReasonUpstreamAddressRefused, tt.text)
		})
	}
}

func TestAddresses(t *testing.T) {
	client := oauth.New(oauth.Config{})
	refused := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1",
		"169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
		"198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1",
		"2001::1", "2001:0:1::1", "2001:db8::1", "2002:a00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
	}
	for _, text := range refused {
		if err := client.CheckAddress(netip.MustParseAddr(text)); err == nil {
			t.Errorf("%s is not refused", text)
		}
	}
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.167.0.1",
		"223.255.255.255", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1",
	} {
		if err := client.CheckAddress(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestUnboundDestinations(t *testing.T) {
	client, server := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was asked") })
	host := strings.TrimPrefix(server.URL, "https://")
	for name, destinations := range map[string][]string{
		"none": nil, "another": {"https://as.example.com"}, "another port": {"https://127.0.0.1"}, "another scheme": {"http://" + host},
		"suffix": {server.URL + ".example.com"}, "prefix": {server.URL[:len(server.URL)-1]}, "with path": {server.URL + "/token"},
	} {
		t.Run(name, func(t *testing.T) {
			req := tokenRequest(server)
			req.Destinations = destinations
			_, err := client.RequestToken(t.Context(), req)
			wantReason(t, err, broker.ReasonDestinationNotBound, server.URL)
		})
	}
	req := tokenRequest(server)
	req.Endpoint = "https://" + strings.ReplaceAll(host, ".", "%2e") + "\x7f"
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonUpstreamAddressRefused, "not a URL")
}

func TestDefaultPortsAreTheSameOrigin(t *testing.T) {
	client := oauth.New(oauth.Config{Timeout: time.Second})
	req := requestTo("https://NO-such-host.invalid:443/token")
	req.Destinations = []string{"https://no-such-host.invalid"}
	_, err := client.RequestToken(t.Context(), req)
	wantReason(t, err, broker.ReasonUpstreamDNS, "")
}

// privateName returns a name that the resolver here maps to an address that is not
// public and that no check of names knows.
func privateName(t *testing.T) string {
	t.Helper()
	hostname, _ := os.Hostname()
	strict := oauth.New(oauth.Config{})
	for _, name := range []string{hostname, "ip6-loopback", "ip6-localhost"} {
		addresses, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", name)
		if err != nil || len(addresses) == 0 || strict.CheckEndpoint("https://"+name+"/") != nil {
			continue
		}
		public := false
		for _, address := range addresses {
			public = public || strict.CheckAddress(address.Unmap()) == nil
		}
		if !public {
			return name
		}
	}
	t.Skip("no name here resolves to a private address")
	return ""
}

func TestNamesOfPrivateAddressesAreRefusedWhenDialled(t *testing.T) {
	client := oauth.New(oauth.Config{Timeout: time.Second})
	_, err := client.RequestToken(t.Context(), requestTo("https://"+privateName(t)+":9/token"))
	wantReason(t, err, broker.ReasonUpstreamAddressRefused, "which is not connected to unless the configuration allows it")
}

func TestAllowedAddressesAreDialled(t *testing.T) {
	client := oauth.New(oauth.Config{Timeout: time.Second, AllowedAddresses: []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
	}})
	_, err := client.RequestToken(t.Context(), requestTo("https://"+privateName(t)+":9/token"))
	wantReason(t, err, broker.ReasonUpstreamConnect, "")
}
