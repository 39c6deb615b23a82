package outbound

import (
	"fmt"
	"net/netip"
)

// AddressError says that an address is one that is not connected to.
type AddressError struct {
	addr netip.Addr
	kind string
}

// Error names the address and of which kind it is.
func (e *AddressError) Error() string {
	return fmt.Sprintf("%s is %s, which is not connected to unless the configuration allows it", e.addr, e.kind)
}

// specialAddresses are the ranges that no public endpoint has, from the IANA
// special-purpose address registries (RFC 6890). Those that carry an IPv4 address
// inside are refused as a whole: what is inside could be private.
var specialAddresses = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"}, // cloud metadata services live here
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64"},
	{netip.MustParsePrefix("2001::/23"), "reserved (Teredo and others)"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// globalUnicast is all of IPv6 that has been given out; whatever else is in no row
// above is refused too.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// CheckAddress judges an address that is about to be dialled: an *[AddressError]
// unless it is public or allowed.
func (d *Door) CheckAddress(addr netip.Addr) error {
	addr = addr.WithZone("") // no prefix contains an address with a zone
	for _, prefix := range d.allowed {
		if prefix.Contains(addr) || prefix.Contains(addr.Unmap()) {
			return nil
		}
	}
	if d.allowLoopback && addr.IsLoopback() {
		return nil
	}
	for _, special := range specialAddresses {
		if special.prefix.Contains(addr) {
			return &AddressError{addr, special.kind}
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return &AddressError{addr, "outside of the public ranges"}
	}
	return nil
}

// onlyLoopback is the check for plain http: "localhost" is only a name.
func onlyLoopback(addr netip.Addr) error {
	if !addr.IsLoopback() {
		return &AddressError{addr, "not loopback, and the endpoint is plain http"}
	}
	return nil
}

// anyAddress is the check for proxies, which the operator chose.
func anyAddress(netip.Addr) error { return nil }
