package rotator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// reply is an answer, parsed as far as it could be.
type reply struct {
	oauth.ManagementAnswer
	op     string
	object object   // nil if the body is no JSON object
	list   []object // nil if the body is no JSON array of objects
	kind   string   // what the body is, in our words
}

func read(answer oauth.ManagementAnswer, op string) reply {
	r := reply{ManagementAnswer: answer, op: op, kind: "neither a JSON object nor an array of them"}
	text := bytes.TrimSpace(answer.Body.Reveal())
	switch {
	case len(text) == 0:
		r.kind = "an empty body"
	case text[0] == '{':
		if o, err := parseObject(text); err == nil {
			r.object, r.kind = o, "a JSON object"
		}
	case text[0] == '[':
		if list, err := parseList(text); err == nil {
			r.list, r.kind = list, "a JSON array"
		}
	case text[0] == '<':
		r.kind = "an HTML or XML page"
	}
	return r
}

// object is a JSON object :: name → value. Names are compared exactly, which
// encoding/json does not do for structs.
type object map[string]json.RawMessage

// errNotOne says that a text is not one JSON value of the wanted kind. Its own
// errors would quote the text.
var errNotOne = errors.New("not one JSON value of that kind")

// parseObject refuses an object with a member twice: which of two secrets counts is
// not ours to guess.
func parseObject(text []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errNotOne
	}
	o := make(object)
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, errNotOne
		}
		name, _ := token.(string)
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return nil, errNotOne
		}
		if _, repeated := o[name]; repeated {
			return nil, errNotOne
		}
		o[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotOne
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotOne
	}
	return o, nil
}

func parseList(text []byte) ([]object, error) {
	var values []json.RawMessage
	if json.Unmarshal(text, &values) != nil {
		return nil, errNotOne
	}
	list := make([]object, 0, len(values))
	for _, value := range values {
		o, err := parseObject(value)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

// text returns a member that is a string; "" if it is missing or something else.
func (o object) text(name string) string {
	var s string
	if json.Unmarshal(o[name], &s) != nil {
		return ""
	}
	return s
}

// objects returns a member that is an array of objects, and whether it is one.
func (o object) objects(name string) ([]object, bool) {
	raw := bytes.TrimSpace(o[name])
	if len(raw) == 0 || raw[0] != '[' {
		return nil, false
	}
	list, err := parseList(raw)
	return list, err == nil
}

// failed judges an answer that is not the one hoped for. It is proof that nothing was
// done only where the management API itself refuses: a page, or a status of 500 and
// more, may come from something in front of it after the API did its work.
func (r reply) failed() *broker.Error {
	page := r.object == nil && r.kind != "an empty body"
	reason := broker.ReasonUpstreamMalformed
	switch {
	case r.Status == http.StatusTooManyRequests:
		reason = broker.ReasonUpstreamRateLimited
	case r.Status >= 500, r.Status == http.StatusRequestTimeout, r.Status == http.StatusTooEarly:
		reason = broker.ReasonUpstreamUnavailable
	case r.Status == http.StatusUnauthorized:
		reason = broker.ReasonRotatorUnauthorized
	case r.Status >= 400 && page:
		reason = broker.ReasonUpstreamRefused
	case r.Status == http.StatusForbidden:
		reason = broker.ReasonRotatorUnauthorized
	case r.Status >= 400:
		reason = broker.ReasonRotatorRefused
	}
	said := r.kind
	if words := r.words(); words != "" {
		said = words
	}
	err := r.fail(reason, "%s", said)
	err.RetryAfter = r.wait()
	return err
}

// fail returns an error about the answer. Words of the provider among args must have
// gone through Shown.
func (r reply) fail(reason broker.Reason, format string, args ...any) *broker.Error {
	return &broker.Error{
		Reason: reason, Op: r.op,
		Detail: fmt.Sprintf("%s: answered %d with %s", r.Origin, r.Status, fmt.Sprintf(format, args...)),
	}
}

// absent reports whether the provider itself says that there is no such thing. A
// page that says so is a wrong address.
func (r reply) absent() bool {
	return (r.Status == http.StatusNotFound || r.Status == http.StatusGone) && (r.object != nil || r.kind == "an empty body")
}

// errorMembers are where the providers put a code and a sentence, in this order:
// RFC 6749 and Keycloak, Graph (within "error"), Okta, Auth0.
var errorMembers = []string{"error", "code", "errorCode", "error_description", "errorMessage", "errorSummary", "message"}

// words returns code and sentence of an error, scrubbed; "" if there are none.
func (r reply) words() string {
	from := r.object
	if nested, err := parseObject(bytes.TrimSpace(from["error"])); err == nil {
		from = nested
	}
	var secrets []string
	for _, name := range []string{"client_secret", "secretText", "value", "registration_access_token"} {
		if text := r.object.text(name); text != "" {
			secrets = append(secrets, text)
		}
	}
	var words []string
	for _, name := range errorMembers {
		if text := r.Shown(from.text(name), secrets...); text != "" && len(words) < 2 {
			words = append(words, text)
		}
	}
	return strings.Join(words, ": ")
}

// maxWait bounds what a provider may make us wait.
const maxWait = time.Hour

// wait returns how long to wait before another request: Retry-After, or the second
// at which the limit is reset, which is what Okta and Auth0 send instead
// (X-Rate-Limit-Reset, X-RateLimit-Reset). 0 says nothing.
func (r reply) wait() time.Duration {
	if r.RetryAfter > 0 || r.Status != http.StatusTooManyRequests {
		return r.RetryAfter
	}
	for _, name := range []string{"X-Rate-Limit-Reset", "X-RateLimit-Reset"} {
		second, err := strconv.ParseInt(r.Header.Get(name), 10, 64)
		if err != nil || second <= 0 {
			continue
		}
		now := r.ReceivedTime
		if date, err := http.ParseTime(r.Header.Get("Date")); err == nil {
			now = date
		}
		return max(0, min(time.Unix(min(second, now.Unix()+int64(maxWait/time.Second)), 0).Sub(now), maxWait))
	}
	return 0
}
