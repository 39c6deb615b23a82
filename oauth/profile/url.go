package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

const maxURLLength = 2048

// urlTemplate is a URL with variables, taken apart where a value must be escaped in
// another way. The zero urlTemplate is none.
type urlTemplate struct {
	scheme          string // "https" or "http"
	authority       template
	path            template
	query           template
	hasQuery, isSet bool
}

// parseURL takes a URL apart. What values may do to it is said by variables' patterns,
// which [checkURLVariables] looks at.
func parseURL(text string, queryAllowed bool) (urlTemplate, error) {
	whole, err := parseTemplate(text)
	if err != nil {
		return urlTemplate{}, err
	}
	scheme, rest, found := strings.Cut(text, "://")
	switch {
	case len(text) > maxURLLength:
		return urlTemplate{}, fmt.Errorf("has %d bytes; at most %d", len(text), maxURLLength)
	case !found || scheme != "https" && scheme != "http":
		return urlTemplate{}, errors.New("has another scheme than https, or a variable in it")
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`\"<>^|`+"`", r) }):
		return urlTemplate{}, errors.New("has a character that must be percent-encoded")
	case strings.Contains(text, "#"):
		return urlTemplate{}, errors.New("must not have a fragment (RFC 6749 §3.1, §3.2)")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, rest := rest[:end], rest[end:]
	path, query, hasQuery := strings.Cut(rest, "?")
	switch {
	case strings.Contains(authority, "@"):
		return urlTemplate{}, errors.New("must not have a user or password")
	case hasQuery && !queryAllowed:
		return urlTemplate{}, errors.New("must not have a query; use request.values")
	}
	u := urlTemplate{scheme: scheme, hasQuery: hasQuery, isSet: true}
	// All three are parts of a text without fault in its braces, which hold neither of
	// the separators.
	u.authority, _ = parseTemplate(authority)
	u.path, _ = parseTemplate(path)
	u.query, _ = parseTemplate(query)
	if err := checkAuthority(scheme, u.authority); err != nil {
		return urlTemplate{}, err
	}
	parsed, err := url.Parse(whole.expand(nil, func(string) string { return "1" }))
	if err != nil {
		return urlTemplate{}, errors.New("is not a URL")
	}
	if climbs(parsed.Path) {
		return urlTemplate{}, errors.New("has a path with a segment . or .., which leads elsewhere")
	}
	return u, nil
}

// checkAuthority refuses what could let a value become more of the host than it should.
func checkAuthority(scheme string, authority template) error {
	// "x" is a label and "1" would be a port: either form must leave a host that is one.
	u, err := url.Parse(scheme + "://" + authority.expand(nil, func(string) string { return "1" }))
	if err != nil || u.Hostname() == "" || u.Host == "" || strings.HasSuffix(u.Host, ":") {
		return errors.New("has no host, or one that is malformed")
	}
	for i := 1; i < len(authority.parts); i += 2 {
		before, after := authority.parts[i-1], authority.parts[i+1]
		begins := before == "" && i == 1 || strings.HasSuffix(before, ".") || isPort(authority, i)
		ends := after == "" && i+2 == len(authority.parts) || strings.HasPrefix(after, ".") || strings.HasPrefix(after, ":") && !isPort(authority, i)
		if !begins || !ends {
			return fmt.Errorf("{%s} must be a whole label of the host, or its port", authority.parts[i])
		}
	}
	if scheme == "http" && !isLoopback(u.Hostname(), authority) {
		return errors.New("must be https; plain http is for loopback hosts only")
	}
	return nil
}

// isPort reports whether the variable at i of an authority's parts is the port.
func isPort(authority template, i int) bool { return strings.HasSuffix(authority.parts[i-1], ":") }

// isLoopback reports whether a host has no variable and is of loopback.
func isLoopback(host string, authority template) bool {
	for i := 1; i < len(authority.parts); i += 2 {
		if !isPort(authority, i) {
			return false
		}
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// variables lists the names in u.
func (u urlTemplate) variables() []string {
	return append(append(u.authority.variables(), u.path.variables()...), u.query.variables()...)
}

// origin is the same for URLs that have the same origin whatever variables are.
func (u urlTemplate) origin() string {
	return strings.ToLower(u.scheme + "://" + u.authority.expand(braces(u.authority.variables()), asIs))
}

func braces(names []string) map[string]string {
	written := map[string]string{}
	for _, name := range names {
		written[name] = "{" + name + "}"
	}
	return written
}

// expand returns the URL with values in place; "" if there is none. Values of variables
// in the host are of letters that need no escape, by their patterns.
func (u urlTemplate) expand(values map[string]string) (string, error) {
	if !u.isSet {
		return "", nil
	}
	text := u.scheme + "://" + u.authority.expand(values, asIs) + u.path.expand(values, url.PathEscape)
	if u.hasQuery {
		text += "?" + u.query.expand(values, url.QueryEscape)
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Hostname() == "" || strings.Contains(parsed.Host, "..") || strings.HasPrefix(parsed.Host, ".") || parsed.User != nil {
		return "", errors.New("is no URL with these variables")
	}
	if climbs(parsed.Path) {
		return "", errors.New("has a path with a segment . or .. with these variables")
	}
	return text, nil
}

// climbs reports whether a path leads up, which servers and what is before them take
// differently.
func climbs(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
