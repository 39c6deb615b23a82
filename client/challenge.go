package client

import (
	"net/http"
	"slices"
	"strings"
)

// isInvalidToken reports whether an API refused the token itself: 401 with a Bearer or
// DPoP challenge whose error is invalid_token (RFC 6750 §3.1, RFC 9449 §7.1). Nothing
// else is a safe sign: a 401 without it may be about anything.
func isInvalidToken(r *http.Response) bool { return challenges(r, "invalid_token", "Bearer", "DPoP") }

// challenges reports whether an answer is a 401 with that error in a challenge of one of
// the schemes.
func challenges(r *http.Response, code string, schemes ...string) bool {
	if r.StatusCode != http.StatusUnauthorized {
		return false
	}
	for _, field := range r.Header.Values("WWW-Authenticate") {
		if says(field, code, schemes) {
			return true
		}
	}
	return false
}

// says reads the challenges of one field (RFC 9110 §11.6.1). Schemes,
// parameters and challenges are all separated by commas, so that a word before an
// equals sign is a parameter of the scheme before it, and any other begins a challenge.
func says(field, code string, schemes []string) bool {
	scheme := ""
	for field = skip(field); field != ""; field = skip(field) {
		word := field[:wordLength(field)]
		if word == "" {
			return false // not what a challenge may hold; whatever follows is not to be trusted
		}
		field = field[len(word):]
		rest := strings.TrimLeft(field, " \t")
		if !strings.HasPrefix(rest, "=") {
			scheme = word
			continue
		}
		value, after, ok := parameterValue(strings.TrimLeft(strings.TrimLeft(rest, "="), " \t"))
		if !ok {
			return false
		}
		if strings.EqualFold(word, "error") && value == code && slices.ContainsFunc(schemes, func(one string) bool { return strings.EqualFold(scheme, one) }) {
			return true
		}
		field = after
	}
	return false
}

// skip drops what separates challenges and parameters.
func skip(s string) string { return strings.TrimLeft(s, " \t,") }

// wordLength is the length of the token68 or token that s begins with, without '='.
func wordLength(s string) int {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`",;=()<>@[]{}\?`, c) >= 0 {
			return i
		}
	}
	return len(s)
}

// parameterValue reads a token or a quoted string (RFC 9110 §5.6.4).
func parameterValue(s string) (value, after string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		n := wordLength(s)
		return s[:n], s[n:], true
	}
	var text strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return text.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		text.WriteByte(s[i])
	}
	return "", "", false
}
