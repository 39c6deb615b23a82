package bearer

import (
	stdjson "encoding/json"
	"errors"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"
)

// object is a JSON object whose member names are compared exactly.
type object map[string]any

// parseObject reads one JSON object. Of a member that is there twice, at any depth,
// parsers see different ones (RFC 7515 §4, RFC 8725 §2.4), so it is an error; that
// is what go-jose's fork of encoding/json adds.
func parseObject(text []byte) (object, error) {
	// The fork has no bound on depth and turns broken UTF-8 into U+FFFD.
	if !utf8.Valid(text) || !stdjson.Valid(text) {
		return nil, errors.New("is not JSON in UTF-8")
	}
	var value any
	if json.Unmarshal(text, &value) != nil {
		return nil, errors.New("has a member twice")
	}
	members, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("is not a JSON object")
	}
	return members, nil
}

// claimName is the path of a claim, as [Issuer.RequiredClaims] explains.
type claimName struct {
	text string
	path []string
}

func parseClaimName(text string) (claimName, error) {
	switch {
	case text == "":
		return claimName{}, errors.New("is empty; a claim has a name")
	case !printable(text):
		return claimName{}, errors.New("has a control character or is not UTF-8")
	case text[0] != '/':
		return claimName{text, []string{text}}, nil
	}
	path := strings.Split(text[1:], "/")
	for n, segment := range path {
		if segment == "" || strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(segment), "~") {
			return claimName{}, errors.New(`is no JSON Pointer to a claim: write "/" within a name as ~1 and "~" as ~0`)
		}
		// In this order, so that ~01 is ~1 and not a slash (RFC 6901 §4).
		path[n] = strings.ReplaceAll(strings.ReplaceAll(segment, "~1", "/"), "~0", "~")
	}
	return claimName{text, path}, nil
}

// text returns the claim that name leads to. Its error has a cause and the claim.
func (o object) text(name claimName) (string, *Error) {
	var value any = map[string]any(o)
	for _, segment := range name.path {
		members, _ := value.(map[string]any) // nil has no members
		found, ok := members[segment]
		if !ok {
			return "", &Error{Cause: MissingClaim, Claim: name.text}
		}
		value = found
	}
	text, ok := value.(string)
	if !ok {
		return "", &Error{Cause: InvalidClaim, Claim: name.text}
	}
	return text, nil
}

// time returns a NumericDate (RFC 7519 §2); the zero time if there is none.
func (o object) time(name string) (time.Time, *Error) {
	value, ok := o[name]
	if !ok {
		return time.Time{}, nil
	}
	// Beyond 2^53 a float is no second any more, and time.Unix would overflow.
	seconds, ok := value.(float64)
	if !ok || seconds < 0 || seconds > 1<<53 {
		return time.Time{}, &Error{Cause: InvalidClaim, Claim: name}
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), nil
}

// audiences returns aud, which is one string or several (RFC 7519 §4.1.3).
func (o object) audiences() ([]string, *Error) {
	switch value := o["aud"].(type) {
	case nil:
		return nil, &Error{Cause: MissingClaim, Claim: "aud"}
	case string:
		return []string{value}, nil
	case []any:
		list := make([]string, 0, len(value))
		for _, item := range value {
			text, ok := item.(string)
			if !ok {
				return nil, &Error{Cause: InvalidClaim, Claim: "aud"}
			}
			list = append(list, text)
		}
		return list, nil
	default:
		return nil, &Error{Cause: InvalidClaim, Claim: "aud"}
	}
}
