package access

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// InsecureIdentity is the identity of whoever connects over plaintext on loopback.
const InsecureIdentity = "insecure-loopback"

// What identities that are no URI SANs begin with.
const (
	dnsPrefix  = "dns:"
	cnPrefix   = "cn:"
	jwtPrefix  = "jwt:"
	unixPrefix = "unix:uid="
)

// reservedSchemes begin identities that are not URI SANs. A certificate may hold any
// URI, so one with such a scheme must name nobody: else it could pose as one of those.
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

// CommonNameIdentity returns the identity of a certificate's common name, letter by
// letter; false if it can be none.
func CommonNameIdentity(name string) (string, bool) {
	identity := cnPrefix + name
	if name == "" || strings.TrimSpace(name) != name || len(identity) > maxIdentity || strings.ContainsFunc(name, unprintable) {
		return "", false
	}
	return identity, true
}

// UserIdentity returns the identity of whoever connects to the UNIX socket as a user.
func UserIdentity(uid uint32) string { return unixPrefix + strconv.FormatUint(uint64(uid), 10) }

// JWTIdentity returns the identity of a token's subject, as its issuer names it; false
// if it can be none. An issuer has no '#', so that the first one ends it.
func JWTIdentity(issuer, subject string) (string, bool) {
	identity := jwtPrefix + issuer + "#" + subject
	if subject == "" || !isStringOrURI(issuer) || strings.Contains(issuer, "#") || len(identity) > maxIdentity || strings.ContainsFunc(identity, unprintable) {
		return "", false
	}
	return identity, true
}

// isStringOrURI reports whether text is StringOrURI of RFC 7519 §2: with a colon it is
// a URI.
func isStringOrURI(text string) bool {
	if text == "" || !strings.Contains(text, ":") {
		return text != ""
	}
	u, err := url.Parse(text)
	return err == nil && u.Scheme != "" && !strings.Contains(text, " ") && (u.Scheme != "https" || u.Host != "")
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }

// NormalIdentity checks an identity that somebody wrote and spells it as the functions
// above do: a URI with a host ("spiffe://example.org/crm"), "dns:crm.example.org",
// "cn:NAME", "jwt:ISSUER#SUBJECT", "unix:uid=1000" or [InsecureIdentity].
func NormalIdentity(identity string) (string, error) {
	const forms = "spiffe://example.org/crm, dns:crm.example.org, cn:crm, jwt:https://issuer.example.org#crm, unix:uid=1000 or " + InsecureIdentity
	switch {
	case identity == "":
		return "", fmt.Errorf("is empty; an identity is one of %s", forms)
	case len(identity) > maxIdentity:
		return "", fmt.Errorf("has %d bytes; at most %d", len(identity), maxIdentity)
	case strings.ContainsFunc(identity, unprintable):
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
	case "cn":
		if normal, ok := CommonNameIdentity(rest); ok && scheme == "cn" {
			return normal, nil
		}
		return "", fmt.Errorf("%q must be a common name as it stands in the certificate, such as cn:crm", identity)
	case "jwt":
		issuer, subject, _ := strings.Cut(rest, "#")
		if normal, ok := JWTIdentity(issuer, subject); ok && scheme == "jwt" {
			return normal, nil
		}
		return "", fmt.Errorf("%q must name issuer and subject, such as jwt:https://issuer.example.org#crm", identity)
	case "unix":
		if uid, err := strconv.ParseUint(strings.TrimPrefix(identity, unixPrefix), 10, 32); err == nil && uid < noUser && UserIdentity(uint32(uid)) == identity {
			return identity, nil
		}
		return "", fmt.Errorf("%q must name a user by number, such as unix:uid=1000", identity)
	}
	if u, err := url.Parse(identity); err == nil && !strings.Contains(identity, " ") {
		if name, ok := URIIdentity(u); ok {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q is none; an identity is one of %s", identity, forms)
}

// noUser is the number that stands for no user (chown(2)).
const noUser = 1<<32 - 1

// JWTIssuer returns the issuer of an identity that a JWT stands for; false for other
// identities.
func JWTIssuer(identity string) (issuer string, ok bool) {
	rest, ok := strings.CutPrefix(identity, jwtPrefix)
	issuer, _, _ = strings.Cut(rest, "#")
	return issuer, ok
}

// Source is what must be listened on for an identity to come up.
type Source int

// The sources.
const (
	// FromTLS: certificates with alternative names.
	FromTLS Source = iota + 1
	// FromCommonName: certificates without, where common names count.
	FromCommonName
	// FromJWT: tokens.
	FromJWT
	// FromUNIX: users of a UNIX socket.
	FromUNIX
	// FromPlaintext: whoever connects on loopback.
	FromPlaintext
)

// SourceOf returns where an identity that [NormalIdentity] has spelled comes from.
func SourceOf(identity string) Source {
	switch {
	case identity == InsecureIdentity:
		return FromPlaintext
	case strings.HasPrefix(identity, cnPrefix):
		return FromCommonName
	case strings.HasPrefix(identity, jwtPrefix):
		return FromJWT
	case strings.HasPrefix(identity, unixPrefix):
		return FromUNIX
	}
	return FromTLS
}
