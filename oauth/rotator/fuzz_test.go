package rotator_test

import (
	"encoding/json"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/oauth"
	"github.com/tokenbroker/tokenbroker/oauth/rotator"
)

// FuzzReply compares what is read of a body with what encoding/json makes of it: never more, and less only of members that are
// there twice.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"value":"s","type":"secret"}`, `{"a":1,"a":2}`, `{"error":{"code":"c","message":"m"}}`, `[{"id":"a"},{}]`, `[1]`, `null`, ``, `<html>`,
		`{"a":1}{}`, `{"a":`, " \n{\"\\u0061\":[true]} ", `{"error":"e","error_description":7}`, `{"":{"":""}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := rotator.ReadObject(oauth.ManagementAnswer{Status: 400, Body: secret.New(body)})
		if got == nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("read %q, which is not JSON: %v", body, err)
		}
		if len(got) != len(want) {
			t.Fatalf("read %d members of %q, want %d", len(got), body, len(want))
		}
		for name, value := range want {
			if string(got[name]) != string(value) {
				t.Errorf("%q is %q, want %q", name, got[name], value)
			}
		}
	})
}
