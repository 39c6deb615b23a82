package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object of an answer that is not a token's: names are compared exactly,
// and none is there twice.
type object map[string]json.RawMessage

// maxMembers bounds an object; metadata has some fifty.
const maxMembers = 512

// errNotObject says that a body is not one JSON object.
var errNotObject = errors.New("something that is not one JSON object")

func parseMembers(body []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\ufeff"))))
	if opening, err := decoder.Token(); err != nil || opening != json.Delim('{') {
		return nil, errNotObject
	}
	members := object{}
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		var value json.RawMessage
		if err != nil || !ok || decoder.Decode(&value) != nil {
			return nil, errNotObject
		}
		if _, repeated := members[name]; repeated {
			return nil, errRepeated
		}
		if members[name] = value; len(members) > maxMembers {
			return nil, errNotObject
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotObject
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotObject
	}
	return members, nil
}

// text returns a member that is a string of printable ASCII and at most limit bytes, and
// whether it is there as such.
func (o object) text(name string, limit int) (string, bool) {
	var s string
	if json.Unmarshal(o[name], &s) != nil || s == "" || len(s) > limit {
		return "", false
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", false
	}
	return s, true
}

// texts returns the members of an array that are such strings, most of them at most; nil
// if it is not there.
func (o object) texts(name string, limit, most int) []string {
	var list []json.RawMessage
	if json.Unmarshal(o[name], &list) != nil || list == nil {
		return nil
	}
	texts := []string{}
	for _, entry := range list {
		if s, ok := (object{name: entry}).text(name, limit); ok && len(texts) < most {
			texts = append(texts, s)
		}
	}
	return texts
}

func (o object) flag(name string) (value, ok bool) {
	ok = json.Unmarshal(o[name], &value) == nil && len(o[name]) > 0 && o[name][0] != 'n'
	return value, ok
}

// number returns a number, also one in a string.
func (o object) number(name string) (float64, bool) {
	raw := strings.Trim(string(o[name]), `"`)
	if raw == "" || strings.Trim(raw, "0123456789.eE+-") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(raw, 64)
	return n, err == nil && !math.IsInf(n, 0)
}

// seconds returns a duration between least and most.
func (o object) seconds(name string, least, most time.Duration) (time.Duration, bool) {
	n, ok := o.number(name)
	if !ok || n <= 0 {
		return 0, false
	}
	if n >= most.Seconds() {
		return most, true
	}
	return max(least, time.Duration(n*float64(time.Second))), true
}

// browserURL reports whether a URL is one that a user may be sent to: https, or http to
// loopback where that is spoken, without a user in it.
func (c *Client) browserURL(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(raw, " \"<>\\^`{|}") {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && c.plainLoopback && isLoopback(u.Hostname())
}
