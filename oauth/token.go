package oauth

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// maxLifetime is what longer lifetimes are cut to. It is longer than anything
	// lives and far from where times overflow.
	maxLifetime = 10 * 365 * 24 * time.Hour
	// maxScopeBytes bounds the granted scopes, which are kept beside the token.
	maxScopeBytes = 16 << 10
)

// token returns the access token, or what is wrong with it. RFC 6749 appendix A.12
// allows printable ASCII; a space would end it in an Authorization header.
func (d document) token() (secret.Value, string) {
	token, problem := d.secret("access_token", '!')
	if token.IsZero() && problem == "" {
		problem = "it has no access_token"
	}
	return token, problem
}

// secret returns a token, zero if there is none, or what is wrong with it: it has
// printable ASCII from the character first on.
func (d document) secret(name string, first rune) (secret.Value, string) {
	token := d.text(name)
	switch {
	case token == "":
		return secret.Value{}, ""
	case len(token) > broker.MaxTokenBytes:
		return secret.Value{}, fmt.Sprintf("its %s has %d bytes, over the limit of %d", name, len(token), broker.MaxTokenBytes)
	case strings.ContainsFunc(token, func(r rune) bool { return r < first || r > '~' }):
		return secret.Value{}, "its " + name + " has a character that none may have (RFC 6749 appendix A.12)"
	}
	return secret.NewString(token), ""
}

// tokenType returns "Bearer", or the answered type and false for another one. A
// missing type is taken for Bearer: RFC 6749 §5.1 requires it, but servers forget
// it, and those with a special type depend on its being seen. "BearerToken" is
// what Apigee answers by default. "N_A" is of what an exchange issued that is no access
// token (RFC 8693 §2.2.1).
func (d document) tokenType(spoken dialect) (string, bool) {
	if !d.has("token_type") {
		return "Bearer", true
	}
	answered := strings.TrimSpace(d.text("token_type"))
	switch lower := strings.ToLower(answered); {
	case lower == "bearer", lower == "bearertoken":
		return "Bearer", true
	case lower == "":
		return "that is not a string", false
	case slices.Contains(spoken.declared().Response.TokenTypes, lower):
		return "Bearer", true
	case lower == "n_a" && spoken.grant == broker.TokenExchange:
		return "N_A", true
	}
	return answered, false
}

// seconds returns a duration such as expires_in, in whatever of its many shapes: a
// number, a string (errata 5379), a fraction. It is nil when the answer does not
// say: missing, null, empty, not a number. And nil for zero and below, too: some
// servers mean "never expires" by 0, some "expired", and what cannot be told apart
// is unknown; the token itself may know better.
func (d document) seconds(name string) *time.Duration {
	raw := strings.TrimSpace(string(d.members[name]))
	if strings.HasPrefix(raw, `"`) {
		raw = strings.TrimSpace(d.text(name))
	}
	// ParseFloat also reads hexadecimal, "Inf" and "NaN".
	if raw == "" || strings.Trim(raw, "0123456789.eE+-") != "" {
		return nil
	}
	seconds, err := strconv.ParseFloat(raw, 64)
	if err != nil && !math.IsInf(seconds, 1) || !(seconds > 0) {
		return nil
	}
	lifetime := maxLifetime
	if seconds < maxLifetime.Seconds() {
		lifetime = time.Duration(seconds * float64(time.Second))
	}
	if lifetime <= 0 { // a fraction below a nanosecond
		return nil
	}
	return &lifetime
}

// scopes returns the granted scopes, sorted and without repetition, or what is
// wrong with them. They are nil if the answer does not say, which means "as
// requested" (RFC 6749 §5.1), and empty if it says that there are none. A JSON
// array is what several servers make of the list.
func (d document) scopes(spoken dialect) ([]string, string) {
	raw := d.members["scope"]
	if raw == nil || string(raw) == "null" {
		return nil, ""
	}
	var granted []string
	if len(raw) > 0 && raw[0] == '[' {
		var list []string
		if json.Unmarshal(raw, &list) != nil {
			return nil, "its scope is an array with something else than strings"
		}
		for _, entry := range list {
			granted = append(granted, spoken.splitScopes(entry)...)
		}
	} else {
		var list string
		if json.Unmarshal(raw, &list) != nil {
			return nil, "its scope is neither a string nor an array"
		}
		granted = spoken.splitScopes(list)
	}
	bytes := 0
	for _, scope := range granted {
		bytes += len(scope)
		if !utf8.ValidString(scope) || strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, "its scope has a control character"
		}
	}
	if bytes > maxScopeBytes {
		return nil, fmt.Sprintf("its scope has %d bytes, over the limit of %d", bytes, maxScopeBytes)
	}
	slices.Sort(granted)
	return append([]string{}, slices.Compact(granted)...), ""
}
