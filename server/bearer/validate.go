package bearer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxIssuer and maxSubject keep an identity below the 1024 bytes that the access
	// table allows. OpenID Connect Core §2 has subjects of at most 255.
	maxIssuer  = 256
	maxSubject = 512
	// maxSingleUseLifetime bounds how long a jti is remembered.
	maxSingleUseLifetime = 24 * time.Hour
)

// Validate returns an error that names every problem, each by its key below the one
// that holds the configuration ("issuers[0].audiences"), or nil. It looks at no file;
// New does.
func (c Config) Validate() error {
	if len(c.Issuers) == 0 {
		return errors.New("issuers: is required: at least one issuer")
	}
	var problems []error
	seen := make(map[string]int)
	for n, issuer := range c.Issuers {
		add := func(key, format string, args ...any) {
			problems = append(problems, fmt.Errorf("issuers[%d].%s: %s", n, key, fmt.Sprintf(format, args...)))
		}
		if first, again := seen[issuer.Issuer]; again && issuer.Issuer != "" {
			add("issuer", "is the same as issuers[%d].issuer; one issuer has one set of rules", first)
		} else {
			seen[issuer.Issuer] = n
		}
		issuer = issuer.withDefaults()
		issuer.checkNames(add)
		issuer.checkSource(add)
		issuer.checkRules(add)
	}
	return errors.Join(problems...)
}

// adder notes a problem of a key.
type adder func(key, format string, args ...any)

func (i Issuer) checkNames(add adder) {
	switch {
	case i.Issuer == "":
		add("issuer", "is required: the exact iss of the tokens, as in https://issuer.example.com")
	case len(i.Issuer) > maxIssuer:
		add("issuer", "has %d bytes; at most %d", len(i.Issuer), maxIssuer)
	case strings.Contains(i.Issuer, "#") || strings.ContainsRune(i.Issuer, ' ') || !printable(i.Issuer):
		add("issuer", "must not have spaces, control characters or \"#\"")
	}
	if len(i.Audiences) == 0 {
		add("audiences", "is required: a token must say that it is for this service")
	}
	if slices.Contains(i.Audiences, "") {
		add("audiences", "has an empty one")
	}
	if len(i.Algorithms) == 0 {
		add("algorithms", "is required: some of %s", strings.Join(algorithmNames(), ", "))
	}
	for n, name := range i.Algorithms {
		if !slices.Contains(algorithmNames(), name) {
			add(fmt.Sprintf("algorithms[%d]", n), "%q is none of %s", name, strings.Join(algorithmNames(), ", "))
		}
	}
}

func (i Issuer) checkSource(add adder) {
	sources := 0
	for _, used := range []bool{i.JWKSFile != "", i.JWKSURL != "", i.Discovery} {
		if used {
			sources++
		}
	}
	if sources != 1 {
		add("jwks_file", "set exactly one of jwks_file, jwks_url and discovery")
		return
	}
	if i.JWKSURL != "" {
		if problem := urlProblem(i.JWKSURL, i.InsecureHTTPLoopback); problem != "" {
			add("jwks_url", "%s", problem)
		}
	}
	if i.Discovery {
		if problem := urlProblem(i.Issuer, i.InsecureHTTPLoopback); problem != "" {
			add("issuer", "%s, because discovery begins there", problem)
		} else if strings.Contains(i.Issuer, "?") {
			add("issuer", "must not have a query, because discovery begins there")
		}
	}
	if i.JWKSFile != "" {
		for _, other := range []struct {
			key string
			set bool
		}{
			{"ca_file", i.CAFile != ""},
			{"token_file", i.TokenFile != ""},
			{"insecure_http_loopback", i.InsecureHTTPLoopback},
			{"refresh_interval", i.RefreshInterval != 0},
		} {
			if other.set {
				add(other.key, "has no meaning with jwks_file")
			}
		}
	}
	if i.RefreshInterval != 0 && (i.RefreshInterval < minInterval || i.RefreshInterval > maxInterval) {
		add("refresh_interval", "%s is not between %s and %s", i.RefreshInterval, minInterval, maxInterval)
	}
	if i.MaxStale < minInterval || i.MaxStale > maxMaxStale {
		add("max_stale", "%s is not between %s and %s", i.MaxStale, minInterval, maxMaxStale)
	}
}

func (i Issuer) checkRules(add adder) {
	if i.Leeway < 0 || i.Leeway > maxLeeway {
		add("leeway", "%s is not between 0 and %s", i.Leeway, maxLeeway)
	}
	if i.MaxLifetime < 0 {
		add("max_lifetime", "%s is negative", i.MaxLifetime)
	}
	if i.SingleUse && (i.MaxLifetime <= 0 || i.MaxLifetime > maxSingleUseLifetime) {
		add("max_lifetime", "must be set with single_use, to at most %s: that long a token is remembered", maxSingleUseLifetime)
	}
	for n, name := range i.Types {
		if !printable(name) {
			add(fmt.Sprintf("types[%d]", n), "has a control character")
		}
	}
	if _, err := parseClaimName(i.SubjectClaim); err != nil {
		add("subject_claim", "%v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(i.RequiredClaims)) {
		if _, err := parseClaimName(name); err != nil {
			add("required_claims", "%q %v", name, err)
		}
	}
}

// urlProblem says what is wrong with a URL that keys come from, or "". The URL itself
// is not quoted: somebody may have put a password into it.
func urlProblem(text string, httpLoopback bool) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "is not a URL with a host, as in https://issuer.example.com"
	case u.User != nil:
		return "must not hold a user or password"
	case u.Fragment != "":
		return "must not have a fragment"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must be an https URL"
	case !loopback(u.Hostname()):
		return "must be an https URL: whoever changes keys on their way makes tokens"
	case !httpLoopback:
		return "must be an https URL, unless insecure_http_loopback is set"
	}
	return ""
}

// loopback reports whether host is a loopback address. A name is none: it would have
// to be resolved, and by whom.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// printable reports whether text is UTF-8 without control characters. The replacement
// character is none either: different broken texts decode to it.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError })
}
