package access_test

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

func TestSubjects(t *testing.T) {
	table := mustParse(t, withHead(
		`{callers: [crm], permissions: [token.get], clients: [none]}`,
		`{callers: [crm], permissions: [token.get, authorization.read], clients: [some], subjects: ["users/1", "prefix:portal/"]}`,
		`{callers: [crm], permissions: [token.get], clients: [all], subjects: ["*"]}`))
	caller := callerOf(t, table, "spiffe://example.org/crm")
	cases := []struct {
		client, subject string
		want            bool
	}{
		{"none", "", true},
		{"none", "users/1", false},
		{"some", "", true},
		{"some", "users/1", true},
		{"some", "users/12", false},
		{"some", "users/", false},
		{"some", "portal/", true},
		{"some", "portal/x", true},
		{"some", "Portal/x", false},
		{"some", "*", false},
		{"all", "anybody at all", true},
	}
	for _, c := range cases {
		d := table.Decide(access.Request{Caller: caller, Permission: access.TokenGet, Client: c.client})
		_, err := d.Query(broker.TokenQuery{ClientID: c.client, Subject: c.subject})
		if got := err == nil; got != c.want || (err != nil && broker.ReasonOf(err) != broker.ReasonCallerNotAllowed) {
			t.Errorf("%s for %q: %v, want allowed %v", c.client, c.subject, err, c.want)
		}
		if e := table.Explain("crm", access.TokenGet, c.client, nil).For(c.subject); e.Allowed != c.want || strings.HasPrefix(e.String(), "allowed") != c.want {
			t.Errorf("%s for %q is explained as\n%v", c.client, c.subject, e)
		}
	}
	d := table.Decide(access.Request{Caller: caller, Permission: access.AuthorizationRead, Client: "some"})
	if d.Subject("users/2") == nil || d.Subject("users/1") != nil {
		t.Error("authorization.read is not bound by subjects")
	}
}

func TestSubjectsRefused(t *testing.T) {
	row := func(permissions, subjects string) string {
		return withHead(`{callers: [crm], permissions: [` + permissions + `], clients: [a], subjects: ` + subjects + `}`)
	}
	cases := []struct{ name, file, want string }{
		{"empty", row("token.get", "[]"), "is empty"},
		{"for no permission of users", row("client.read", `["*"]`), "does not grant"},
		{"all and more", row("token.get", `["*", "users/1"]`), "add nothing"},
		{"nothing behind prefix", row("token.get", `["prefix:"]`), "nothing behind it"},
		{"control character", row("token.get", `["a\nb"]`), "names no subject"},
		{"empty subject", row("token.get", `[""]`), "names no subject"},
		{"long", row("token.get", `["`+strings.Repeat("a", 257)+`"]`), "names no subject"},
		{"twice", row("token.get", `["a", "a"]`), "is there twice"},
		{"covered", row("token.get", `["prefix:users/", "prefix:users/4"]`), "covered"},
		{"rows that differ", withHead(`{callers: [crm], permissions: [token.get], clients: ["prefix:a"], subjects: ["*"]}`, `{callers: [crm], permissions: [token.get], clients: [ab]}`), "with other subjects"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := access.Parse("access.yaml", []byte(c.file))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
