package access

import (
	"fmt"
	"net/url"
	"strings"
)

// InsecureIdentity is the identity of whoever connects over plaintext on loopback.
const InsecureIdentity = "insecure-loopback"

// dnsPrefix begins the identity of a DNS SAN.
const dnsPrefix = "dns:"

// JWTIssuer returns the issuer of an identity that a JWT stands for; false for other
// identities.
func JWTIssuer(identity string) (issuer string, ok bool) {
	rest, ok := strings.CutPrefix(identity, "jwt:")
	issuer, _, _ = strings.Cut(rest, "#")
	return issuer, ok
}

// reservedSchemes begin identities that are not URI SANs, now or in a release that
// also knows common names, JWTs and local users. A certificate may hold any URI, so
// one with such a scheme must name nobody: else it could pose as one of those.
var reservedSchemes = []string{"dns", "cn", "jwt", "unix", InsecureIdentity}

// URIIdentity returns the identity that a URI SAN of a verified certificate stands
// for; false if it can stand for none.
func URIIdentity(uri *url.URL) (string, bool) {
	for _, scheme := range reservedSchemes {
		if strings.EqualFold(uri.Scheme, scheme) {
			return "", false
		}
	}
	text := uri.String()
	return text, uri.Scheme != "" && uri.Host != "" && text != InsecureIdentity
}

// DNSIdentity returns the identity of a DNS SAN. Hosts compare without case (RFC 5280
// §7.2).
func DNSIdentity(name string) string { return dnsPrefix + strings.ToLower(name) }

// NormalIdentity checks an identity that somebody wrote and spells it as the functions
// above do: a URI with a host ("spiffe://example.org/crm"), "dns:crm.example.org",
// "cn:NAME", "jwt:ISSUER#SUBJECT", "unix:uid=1000" or [InsecureIdentity].
func NormalIdentity(identity string) (string, error) {
	const forms = "spiffe://example.org/crm, dns:crm.example.org, jwt:https://issuer.example.org#subject or " + InsecureIdentity
	switch {
	case identity == "":
		return "", fmt.Errorf("is empty; an identity is one of %s", forms)
	case len(identity) > maxIdentity:
		return "", fmt.Errorf("has %d bytes; at most %d", len(identity), maxIdentity)
	case strings.ContainsFunc(identity, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
		return "", fmt.Errorf("%q has a control character or is not UTF-8", identity)
	case identity == InsecureIdentity:
		return identity, nil
	}
	scheme, rest, _ := strings.Cut(identity, ":")
	switch strings.ToLower(scheme) {
	case "dns":
		if scheme != "dns" || rest == "" || strings.ContainsAny(rest, "*/: ") {
			return "", fmt.Errorf("%q must name one host, such as dns:crm.example.org", identity)
		}
		return DNSIdentity(rest), nil
	case "jwt":
		if issuer, subject, found := strings.Cut(rest, "#"); scheme != "jwt" || !found || issuer == "" || subject == "" {
			return "", fmt.Errorf("%.140q must name an issuer and a subject, such as jwt:https://issuer.example.org#subject", identity)
		}
		return identity, nil
	case "cn", "unix":
		return "", fmt.Errorf("%q: no listener of this release presents such an identity; one is one of %s", identity, forms)
	}
	if u, err := url.Parse(identity); err == nil && !strings.Contains(identity, " ") {
		if name, ok := URIIdentity(u); ok {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q is none; an identity is one of %s", identity, forms)
}
