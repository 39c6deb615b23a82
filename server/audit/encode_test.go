package audit_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/server/audit"
)

// FuzzEntry: whatever a peer sends, a line stays one line of ASCII, and encoding/json
// reads out of it what went in.
func FuzzEntry(f *testing.F) {
	for _, text := range []string{
		"", "plain", `"},{"`, "\\", "\n\r\t\x00\x1b[2J\x7f", "\u0085\u2028\u202e", "ä€😀", "\xff\xfe", "\xed\xa0\x80", "\xf0\x9f", "</script>",
		strings.Repeat("x", audit.MaxString), strings.Repeat("😀", 200),
	} {
		f.Add(text, text, text, text, int64(1))
	}
	f.Fuzz(func(t *testing.T, request, client, scope, identity string, version int64) {
		e := audit.Entry{
			Time: time.Unix(version, version), RequestID: request, TraceID: identity, Caller: client, Identity: identity, Method: request, Client: client, Subject: client,
			Scopes: []string{scope, client}, Outcome: audit.Denied, Reason: scope, TokenID: request, SecretVersion: version, ServedFrom: scope,
		}
		text := audit.AppendFields(&e)
		for _, c := range text {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %q in %s", c, text)
			}
		}
		var got struct {
			Time          time.Time     `json:"time"`
			RequestID     string        `json:"request_id"`
			TraceID       string        `json:"trace_id"`
			Caller        string        `json:"caller"`
			Identity      string        `json:"identity"`
			Method        string        `json:"method"`
			Client        string        `json:"client"`
			Subject       string        `json:"subject"`
			Scopes        []string      `json:"scopes"`
			Outcome       audit.Outcome `json:"outcome"`
			Reason        string        `json:"reason"`
			TokenID       string        `json:"token_id"`
			SecretVersion int64         `json:"secret_version"`
			ServedFrom    string        `json:"served_from"`
			Truncated     bool          `json:"truncated"`
		}
		decoder := json.NewDecoder(strings.NewReader(string(text)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if len(text) > audit.MaxLine/2 {
			t.Errorf("got %d bytes", len(text))
		}
		if got.Truncated {
			if longest := max(len(request), len(client), len(scope), len(identity)); longest*6 < audit.MaxString {
				t.Errorf("truncated, though no field has more than %d bytes", longest)
			}
			return
		}
		for _, field := range []struct{ name, got, want string }{
			{"request_id", got.RequestID, request},
			{"trace_id", got.TraceID, identity},
			{"caller", got.Caller, client},
			{"identity", got.Identity, identity},
			{"method", got.Method, request},
			{"client", got.Client, client},
			{"subject", got.Subject, client},
			{"reason", got.Reason, scope},
			{"token_id", got.TokenID, request},
			{"served_from", got.ServedFrom, scope},
			{"scopes", strings.Join(got.Scopes, "\x00"), scope + "\x00" + client},
		} {
			// What is not UTF-8 becomes U+FFFD, a byte at a time, as in a range over it.
			if want := string([]rune(field.want)); field.got != want {
				t.Errorf("%s: got %q, want %q", field.name, field.got, want)
			}
		}
		if got.SecretVersion != version || got.Outcome != audit.Denied {
			t.Errorf("got %+v", got)
		}
	})
}

// TestLongestLine: what verify takes for too long is longer than any line.
func TestLongestLine(t *testing.T) {
	long := strings.Repeat("\u0001", 10_000)
	e := audit.Entry{Outcome: audit.Outcome(long), SecretVersion: -1 << 63}
	for field := range reflect.TypeFor[audit.Entry]().NumField() {
		switch v := reflect.ValueOf(&e).Elem().Field(field); v.Interface().(type) {
		case string:
			v.SetString(long)
		case []string:
			for range 100 {
				e.Scopes = append(e.Scopes, long)
			}
		}
	}
	text := audit.AppendFields(&e)
	const rest = 200 // chain, number, mac
	if len(text)+rest > audit.MaxLine {
		t.Errorf("got a line of %d bytes", len(text))
	}
	if !strings.HasSuffix(string(text), `,"truncated":true}`) || !json.Valid(text) {
		t.Errorf("got %s", text)
	}
	key, sink := newKey(t), &memory{}
	l := run(t, audit.Config{Key: key, Sinks: []audit.Sink{sink}})
	if err := l.Append(&e); err != nil {
		t.Fatal(err)
	}
	must(l.stop())
	wantSound(t, verify(t, audit.VerifyConfig{Keys: []audit.Key{key}}, sink.text()))
}

func TestAppendString(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
		cut  bool
	}{
		{"", 0, `""`, false},
		{"abc", 3, `"abc"`, false},
		{"abcd", 3, `"abc"`, true},
		{"a\nb", 20, `"a\u000ab"`, false},
		{"a😀b", 20, `"a\ud83d\ude00b"`, false},
		{"a😀b", 12, `"a"`, true}, // never half of it
		{"aä", 12, `"a"`, true},
		{`a"b\`, 40, `"a\"b\\"`, false},
		{"a\x80\xffb", 40, `"a\ufffd\ufffdb"`, false},
		{"\u007f\u0080\u2028", 40, `"\u007f\u0080\u2028"`, false},
	} {
		if got, cut := audit.AppendString(test.text, test.most); string(got) != test.want || cut != test.cut {
			t.Errorf("%q, %d: got %s, %v, want %s, %v", test.text, test.most, got, cut, test.want, test.cut)
		}
	}
}

func TestAppendTime(t *testing.T) {
	for _, at := range []time.Time{
		time.Unix(0, 0), time.Unix(1_790_000_000, 123_456_789), time.Date(2026, 2, 28, 23, 59, 59, 999_999_999, time.FixedZone("", 3600)),
		{},
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2000, 1, 1, 0, 0, 0, 1000, time.UTC),
	} {
		if got, want := string(audit.AppendTime(at)), at.UTC().Format(`"2006-01-02T15:04:05.000000Z"`); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, at := range []time.Time{time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := audit.AppendTime(at); len(got) != len(`"2006-01-02T15:04:05.000000Z"`) {
			t.Errorf("got %s", got)
		}
	}
}

// FuzzLine: reading lines does not panic, and takes for a header only what a syslog
// daemon or a container runtime puts there.
func FuzzLine(f *testing.F) {
	line := `{"chain":"abcdefghijklmnopqrstuvwxyz","seq":1,"time":"2026-01-01T00:00:00.000000Z","mac":"00112233445566778899aabbccddeeff"}`
	for _, header := range []string{"", "x", "Jan  2 03:04:05 host tokenbroker[1]: ", "2026-01-02T03:04:05Z stdout F ", "tokenbroker[]: "} {
		f.Add([]byte(header + line + "\n"))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		header, ok := audit.IsLine(raw)
		if ok && len(header) > 0 && !strings.HasSuffix(string(header), "]: ") && !strings.HasSuffix(string(header), " stdout F ") {
			t.Errorf("took %q for a header", header)
		}
		if ok && !utf8.Valid(raw[len(header):][:40]) {
			t.Errorf("took %q for a line", raw)
		}
	})
}
