package oauth

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

const (
	// maxDescription bounds what of a server's words goes into an error, in bytes.
	maxDescription = 200
	// maxCode bounds an error code or another single word.
	maxCode = 64
	// maxLooked bounds how much of a text is looked at; what follows is not shown.
	maxLooked = 4 << 10
	// window is how many bytes in a row of a credential count as an echo of it.
	window = 8

	withheld    = "(withheld: it may echo a credential)"
	withheldRun = "[withheld]"
)

// scrubber makes text that a server sent fit to be shown. Servers echo what they
// were sent, whole or in part, encoded or not; so text that has any eight bytes in
// a row of a credential, in any usual encoding, is withheld as a whole, and
// whatever looks like a token is taken out of the rest.
//
// It errs towards withholding: a description lost costs a look at the provider's
// log, a secret shown costs the secret.
type scrubber struct{ credentials []string }

// clean returns at most limit bytes of printable ASCII (RFC 6749 §5.2 allows no
// other in an error_description), "" for nothing.
func (s scrubber) clean(text string, limit int) string {
	if len(text) > maxLooked {
		text = text[:maxLooked]
	}
	if s.echoes(text) {
		return withheld
	}
	text = strings.Join(strings.Fields(strings.Map(printable, text)), " ")
	text = longRun.ReplaceAllStringFunc(text, func(run string) string {
		if isUUID(run) || !looksRandom(run) {
			return run
		}
		return withheldRun
	})
	if len(text) > limit {
		text = strings.TrimRight(text[:limit-3], " ") + "..."
	}
	return text
}

// printable maps white space of all kinds to a space and what RFC 6749 does not
// allow to a question mark.
func printable(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case r < ' ' || r > '~':
		return '?'
	}
	return r
}

// echoes reports whether text has a piece of a credential in it.
func (s scrubber) echoes(text string) bool {
	var readings []string // of the text: as it is, decoded, and without what a server may have put in between
	readings = append(readings, text, html.UnescapeString(text), lettersAndDigits(text))
	if decoded, err := url.QueryUnescape(text); err == nil {
		readings = append(readings, decoded)
	}
	windows := make(map[string]bool)
	for i, reading := range readings {
		readings[i] = lower(reading)
		for at := 0; at+window <= len(readings[i]); at++ {
			windows[readings[i][at:at+window]] = true
		}
	}
	for _, credential := range s.credentials {
		for _, spelling := range spellings(credential) {
			if within(lower(spelling), readings, windows) {
				return true
			}
		}
	}
	return false
}

// within reports whether a window of the spelling is in the text; the whole
// spelling if it is shorter than one.
func within(spelling string, readings []string, windows map[string]bool) bool {
	if len(spelling) < window {
		for _, reading := range readings {
			if spelling != "" && strings.Contains(reading, spelling) {
				return true
			}
		}
		return false
	}
	for at := 0; at+window <= len(spelling); at++ {
		if windows[spelling[at:at+window]] {
			return true
		}
	}
	return false
}

// spellings returns the usual encodings of a credential.
func spellings(credential string) []string {
	if credential == "" {
		return nil
	}
	all := []string{
		credential, url.QueryEscape(credential), url.PathEscape(credential), html.EscapeString(credential),
		hex.EncodeToString([]byte(credential)),
	}
	for _, quoted := range []string{strconv.Quote(credential), jsonText(credential)} { // as in an echoed body
		all = append(all, quoted[1:len(quoted)-1])
	}
	if stripped := lettersAndDigits(credential); len(stripped) >= window {
		all = append(all, stripped)
	}
	// Base64 of a text looks different for each of the three offsets at which the
	// text may begin within what was encoded, as in "id:secret". The characters
	// that depend on the neighbours are cut off.
	for offset := range 3 {
		padded := []byte(strings.Repeat("\x00", offset) + credential)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(padded)
			first := (offset*8 + 5) / 6
			last := len(padded) * 8 / 6
			if last-first >= 4 {
				all = append(all, encoded[first:last])
			}
		}
	}
	return all
}

// jsonText returns a text as a JSON string of the sort that has "<" escaped.
func jsonText(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil { // of a string there is none
		return `""`
	}
	return string(quoted)
}

// lower changes ASCII letters only: strings.ToLower also replaces bytes that are
// not UTF-8, and whether they are depends on their neighbours.
func lower(text string) string {
	bytes := []byte(text)
	for i, b := range bytes {
		if b >= 'A' && b <= 'Z' {
			bytes[i] = b + ('a' - 'A')
		}
	}
	return string(bytes)
}

func lettersAndDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, text)
}

// longRun finds words of the alphabets that tokens are written in. A JWT's header
// is short, so its "eyJ" (base64url of `{"`) counts at any length.
var longRun = regexp.MustCompile(`eyJ[A-Za-z0-9_-]*[A-Za-z0-9_.=-]*|[A-Za-z0-9+/_=~%-]{16,}`)

var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// isUUID reports whether run is one. They stay: providers name requests by them
// and ask for that name, and a credential of that form is found by its value.
func isUUID(run string) bool { return uuid.MatchString(run) }

// looksRandom reports whether a long word is a token rather than an identifier:
// in a random one letters, capitals and digits alternate about every second
// character, in "ServiceAccountNotEnabled" or "/api/v2/read_only" much less.
// Punctuation does not count: paths and snake case are full of it.
func looksRandom(run string) bool {
	if strings.HasPrefix(run, "eyJ") || len(run) >= 64 {
		return true
	}
	changes, length, digits := 0, 0, false
	var before rune
	for _, r := range run {
		kind := kindOf(r)
		if kind == '-' {
			continue
		}
		digits = digits || kind == '0'
		if before != 0 && kind != before {
			changes++
		}
		before = kind
		length++
	}
	if digits && changes >= 5 && changes*4 >= length {
		return true
	}
	return length > 0 && changes*5 >= length*2
}

func kindOf(r rune) rune {
	switch {
	case r >= '0' && r <= '9':
		return '0'
	case r >= 'A' && r <= 'Z':
		return 'A'
	case r >= 'a' && r <= 'z':
		return 'a'
	}
	return '-'
}
