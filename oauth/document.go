package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/url"
	"slices"
	"strings"
)

// knownMembers are the members that are read; the rest is ignored, as RFC 6749
// §5.1 demands. Names are compared exactly.
var knownMembers = []string{
	"access_token", "token_type", "expires_in", "refresh_in", "scope", "refresh_token", "refresh_expires_in", "refresh_token_expires_in",
	"id_token", "issued_token_type", "error", "error_description", "interval",
}

// document is the parsed body of an answer: the known members as JSON values, also
// those of a form, by their standard names. The zero document is that of a body that
// could not be read.
type document struct {
	members map[string]json.RawMessage
	// hidden are tokens that stood elsewhere, too, and must not be shown.
	hidden []string
	// unsuccessful says that the answer does not meet the profile's condition.
	unsuccessful bool
}

// emptyBody is what parseDocument calls a body of nothing or white space.
const emptyBody = "an empty body"

// unstructured is what a body is called that is none of those that can be read.
const unstructured = "neither a JSON object nor a form"

// errRepeated says that a known member is there twice. Which of two access tokens
// is meant is not ours to guess: parsers differ, and somebody may count on it.
var errRepeated = errors.New("a member is there twice")

// parseDocument reads a body of a server that follows the standards and says in our words what it is. JSON is tried
// first, unless the content type says form: several servers send a form, and some
// send JSON under any type, or none (field notes §4).
func parseDocument(contentType string, body []byte) (document, string) {
	text := bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	mediaType, _, _ := mime.ParseMediaType(contentType)
	switch {
	case len(text) == 0:
		return document{}, emptyBody
	case text[0] == '{' && mediaType != "application/x-www-form-urlencoded":
		return parseObject(text)
	case text[0] == '<':
		return document{}, "an HTML or XML page"
	}
	if doc, kind, ok := parseForm(text); ok {
		return doc, kind
	}
	if text[0] == '{' {
		return parseObject(text)
	}
	return document{}, unstructured
}

func parseObject(text []byte) (document, string) {
	members, err := objectMembers(text)
	switch {
	case errors.Is(err, errRepeated):
		return document{}, "a JSON object that has a member twice"
	case err != nil:
		return document{}, "JSON that is not one whole object"
	}
	return document{members: members}, "a JSON object"
}

func objectMembers(text []byte) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, err
	}
	members := make(map[string]json.RawMessage)
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		key, ok := name.(string)
		if !ok || !slices.Contains(knownMembers, key) {
			continue
		}
		if _, repeated := members[key]; repeated {
			return nil, errRepeated
		}
		members[key] = value
	}
	return members, ended(decoder)
}

// parseForm reports ok if the text is a form with a token or an error in it; any
// text at all is a form of some kind.
func parseForm(text []byte) (document, string, bool) {
	values, err := url.ParseQuery(string(text))
	if err != nil || !values.Has("access_token") && !values.Has("error") {
		return document{}, "", false
	}
	members := make(map[string]json.RawMessage)
	for _, name := range knownMembers {
		if len(values[name]) > 1 {
			return document{}, "a form that has a parameter twice", true
		}
		if value, err := json.Marshal(values.Get(name)); err == nil && values.Has(name) {
			members[name] = value
		}
	}
	return document{members: members}, "a form", true
}

func (d document) readable() bool { return d.members != nil }

// text returns a member that is a string; "" if it is missing or something else.
func (d document) text(name string) string {
	var s string
	if json.Unmarshal(d.members[name], &s) != nil {
		return ""
	}
	return s
}

// has reports whether a member is there and not null, an empty string, false or 0.
func (d document) has(name string) bool {
	switch value := strings.TrimSpace(string(d.members[name])); value {
	case "", "null", `""`, "false", "0":
		return false
	}
	return true
}

// failed reports whether the document says that the request failed. With a token
// beside it too: a server that says both is not to be believed the better one.
func (d document) failed() bool { return d.has("error") || d.unsuccessful }

// tokens returns whatever in the document must not be shown.
func (d document) tokens() []string {
	tokens := slices.Clone(d.hidden)
	for _, name := range []string{"access_token", "refresh_token", "id_token"} {
		if token := d.text(name); token != "" {
			tokens = append(tokens, token)
		}
	}
	return tokens
}
