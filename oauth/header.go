package oauth

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a server may make us wait: a mistaken date must not
// silence a client for a year.
const maxRetryAfter = time.Hour

// retryAfter returns the Retry-After header (RFC 9110 §10.2.3), seconds or a date,
// between 0 and an hour; 0 if there is none. A date counts from the answer's own
// Date, so that the clocks need not agree, or else from now.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 32)
		if err != nil { // too large for 32 bits, thus for us
			return maxRetryAfter
		}
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date := serverTime(header); !date.IsZero() {
		now = date
	}
	return max(0, min(until.Sub(now), maxRetryAfter))
}

// challenge is one of WWW-Authenticate (RFC 9110 §11.6.1).
type challenge struct {
	scheme string            // lower case
	params map[string]string // lower-case name → value; nil for a token68
}

type challenges []challenge

// maxChallenges bounds the work on a header that is all challenges.
const maxChallenges = 16

// has reports whether there is a challenge of the scheme.
func (c challenges) has(scheme string) bool {
	for _, one := range c {
		if one.scheme == scheme {
			return true
		}
	}
	return false
}

// errorCode returns the error parameter, which RFC 6750 §3 defines for Bearer and
// token endpoints put into Basic as well, and RFC 9449 §7.1 for DPoP; "" if there is none.
func (c challenges) errorCode() string { return c.param("error") }

func (c challenges) errorDescription() string { return c.param("error_description") }

func (c challenges) param(name string) string {
	for _, one := range c {
		if one.scheme != "bearer" && one.scheme != "basic" && one.scheme != "dpop" {
			continue
		}
		if value := one.params[name]; value != "" {
			return value
		}
	}
	return ""
}

// parseChallenges reads as much as it can: a header that is half wrong still has
// its other half.
func parseChallenges(values []string) challenges {
	var all challenges
	for _, value := range values {
		rest := value
		for len(all) < maxChallenges {
			var one challenge
			var ok bool
			if one, rest, ok = nextChallenge(rest); !ok {
				break
			}
			all = append(all, one)
		}
	}
	return all
}

// nextChallenge cuts off scheme [ 1*SP ( token68 / #auth-param ) ].
func nextChallenge(text string) (one challenge, rest string, ok bool) {
	scheme, rest := cutToken(strings.TrimLeft(text, " \t,"))
	for scheme == "" { // the tail of a token68, or no grammar: on after the next comma
		var found bool
		if _, rest, found = strings.Cut(rest, ","); !found {
			return challenge{}, "", false
		}
		scheme, rest = cutToken(strings.TrimLeft(rest, " \t,"))
	}
	one = challenge{scheme: strings.ToLower(scheme), params: make(map[string]string)}
	for {
		candidate := strings.TrimLeft(rest, " \t,")
		name, after := cutToken(candidate)
		after, found := strings.CutPrefix(strings.TrimLeft(after, " \t"), "=")
		if name == "" || !found {
			return one, candidate, true // the next scheme, or the end
		}
		after = strings.TrimLeft(after, " \t")
		var paramValue string
		if strings.HasPrefix(after, `"`) {
			paramValue, after = cutQuoted(after)
		} else {
			paramValue, after = cutToken(after)
		}
		if _, repeated := one.params[strings.ToLower(name)]; !repeated {
			one.params[strings.ToLower(name)] = paramValue
		}
		rest = after
	}
}

// cutToken cuts off a token (RFC 9110 §5.6.2).
func cutToken(text string) (token, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		return text, ""
	}
	return text[:end], text[end:]
}

// cutQuoted cuts off a quoted-string (RFC 9110 §5.6.4); text begins with the quote.
func cutQuoted(text string) (value, rest string) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:]
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String(), ""
}
