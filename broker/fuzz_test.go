package broker_test

import (
	"context"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// idRule is the rule of design §4, said in another way than the code says it.
var idRule = regexp.MustCompile(`\A[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?\z`)

// FuzzCheckID: what is taken is one harmless segment of a path.
func FuzzCheckID(f *testing.F) {
	for _, test := range badIDs {
		f.Add(test.id)
	}
	for _, id := range []string{"a", "acme-crm", "a.b_c-d", strings.Repeat("a", 128)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		err := broker.CheckID("id", id)
		if want := idRule.MatchString(id) && !strings.Contains(id, ".."); (err == nil) != want {
			t.Errorf("CheckID(%q) = %v, want accepted: %t", id, err, want)
		}
		if err == nil && (path.Clean("/x/"+id) != "/x/"+id || url.PathEscape(id) != id) {
			t.Errorf("%q is taken and is no plain segment of a path", id)
		}
		if err != nil && (len(err.Error()) > 300 || !utf8.ValidString(err.Error())) {
			t.Errorf("CheckID(%q) says %q", id, err)
		}
	})
}

// FuzzOrigin: an origin is what net/url says about scheme, host and port, spelled
// in one way; and no endpoint that a client may have is of an origin other than
// the one that a connection to it would go to.
func FuzzOrigin(f *testing.F) {
	for path, attempts := range thefts {
		if path != "TokenEndpoint" {
			continue
		}
		for _, attempt := range attempts {
			u := broker.Upstream{}
			attempt.edit(&u)
			f.Add(u.TokenEndpoint)
		}
	}
	f.Add("https://[2001:db8::1]:443/x")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := broker.Origin(raw)
		if err != nil {
			if got != "" {
				t.Errorf("Origin(%q) = %q and %v", raw, got, err)
			}
			return
		}
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("Origin(%q) = %q, but it is no URL: %v", raw, got, err)
		}
		if again, err := broker.Origin(got); again != got && plainHost(u.Host) {
			t.Errorf("Origin(%q) = %q, whose origin is %q, %v", raw, got, again, err)
		}
		if strings.ContainsAny(got, "@") && !strings.Contains(u.Host, "@") {
			t.Errorf("Origin(%q) = %q has a user", raw, got)
		}
		if !acceptedEndpoint(raw) {
			return
		}
		o, err := url.Parse(got)
		if err != nil || !strings.EqualFold(o.Hostname(), u.Hostname()) || o.User != nil || u.User != nil || o.Path != "" {
			t.Errorf("%q is taken as endpoint, and its origin %q is not that of host %q", raw, got, u.Host)
		}
		port := func(u *url.URL) string {
			if u.Port() != "" {
				return u.Port()
			}
			return map[string]string{"https": "443", "http": "80"}[strings.ToLower(u.Scheme)]
		}
		if port(o) != port(u) {
			t.Errorf("%q is taken as endpoint with port %s, and its origin is %q", raw, port(u), got)
		}
	})
}

func plainHost(host string) bool {
	return !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' })
}

// acceptedEndpoint reports whether a client may have that token endpoint.
func acceptedEndpoint(raw string) bool {
	memory := brokertest.NewMemory()
	b, err := broker.New(broker.Config{Store: memory, RequestToken: brokertest.NewUpstream().RequestToken, CheckSecret: checkSecret})
	if err != nil {
		panic(err)
	}
	defer b.Close()
	n := newClient("acme")
	n.Upstream.TokenEndpoint = raw
	_, err = b.CreateClient(context.Background(), n)
	return err == nil
}

// FuzzFilter: whatever a filter is, the answer is an error that names it, or
// clients that are registered; and a page token fits its own filter.
func FuzzFilter(f *testing.F) {
	for _, filter := range []string{
		"", "state=active", "labels.a=b AND labels.c=d", "prefix=a", " AND ", "labels.=", "state=active AND state=active", `labels.a="b"`, "labels.a=b=c",
	} {
		f.Add(filter, "")
	}
	f.Add("", "eyJmIjoiZTNiMGM0NDIiLCJhIjoiYSJ9")
	memory := brokertest.NewMemory()
	b, err := broker.New(broker.Config{Store: memory, RequestToken: brokertest.NewUpstream().RequestToken, CheckSecret: checkSecret})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(b.Close)
	for _, id := range []string{"a", "b", "c"} {
		n := newClient(id)
		n.Labels = map[string]string{"a": "b", "id": id}
		if _, err := b.CreateClient(f.Context(), n); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, filter, pageToken string) {
		page, err := b.ListClients(t.Context(), broker.ListQuery{Filter: filter, PageToken: pageToken, PageSize: 1})
		if err != nil {
			if broker.ReasonOf(err) != broker.ReasonInvalidRequest || len(fieldsOf(err)) != 1 || len(err.Error()) > 1000 {
				t.Errorf("ListClients(%q, %q): %v", filter, pageToken, err)
			}
			return
		}
		if len(page.Clients) > 1 || len(page.Unreadable) > 0 {
			t.Errorf("ListClients(%q, %q) = %+v", filter, pageToken, page)
		}
		if page.NextPageToken == "" {
			return
		}
		if _, err := b.ListClients(t.Context(), broker.ListQuery{Filter: filter, PageToken: page.NextPageToken}); err != nil {
			t.Errorf("the next page of filter %q: %v", filter, err)
		}
	})
}

// FuzzRecords puts any text where records are: nothing panics, nothing is sent with
// a secret that was not stored, and errors do not quote what was found.
func FuzzRecords(f *testing.F) {
	whole := brokertest.NewMemory()
	upstream := brokertest.NewUpstream()
	upstream.Register("client-id-of-acme", password)
	b, err := broker.New(broker.Config{Store: whole, RequestToken: upstream.RequestToken, CheckSecret: checkSecret})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := b.CreateClient(f.Context(), newClient("acme")); err != nil {
		f.Fatal(err)
	}
	if _, err := b.StageSecret(f.Context(), "acme", input("next-secret"), ""); err != nil {
		f.Fatal(err)
	}
	b.Close()
	keys := whole.Keys()
	for i, key := range keys {
		record, err := whole.Read(f.Context(), key)
		if err != nil {
			f.Fatal(err)
		}
		text := record.Data.RevealString()
		for _, d := range headerDamages {
			f.Add(i, d.change(text))
		}
		f.Add(i, text)
		for _, pair := range [][2]string{
			{`"current"`, `"pending"`},
			{`"pending"`, `"current"`},
			{`"current"`, `"no such stage"`},
			{`"number":1`, `"number":-1`},
			{`"number":2`, `"number":1`},
			{`"next_version":3`, `"next_version":0`},
			{`"next_version":3`, `"next_version":-9223372036854775808`},
			{`"secrets":[`, `"secrets":[{},`},
			{`"destinations":["`, `"destinations":["","`},
			{`"token_endpoint":"`, `"token_endpoint":"http://[::1]%23/`},
		} {
			f.Add(i, strings.Replace(text, pair[0], pair[1], 1))
		}
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		if which < 0 || which >= len(keys) {
			return
		}
		memory := whole.Clone()
		memory.Put(keys[which], text)
		b := open(t, memory, brokertest.NewFaulty(memory), upstream, nil)
		for operation, err := range withID(t, b, "acme") {
			if reason := broker.ReasonOf(err); reason == broker.ReasonInternal {
				t.Errorf("%s: %v", operation, err)
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("%s quotes a secret: %v", operation, err)
			}
		}
		for _, r := range b.sent.all() {
			if !slices.ContainsFunc([]string{password, "next-secret", "s", "a-secret"}, func(s string) bool { return secret.NewString(s).Equal(r.Secret) }) {
				t.Errorf("sent the secret %q", r.Secret.RevealString())
			}
			if !slices.Equal(r.Destinations, []string{origin}) && r.Secret.RevealString() != "s" {
				t.Errorf("sent %q to %v", r.Secret.RevealString(), r.Destinations)
			}
		}
	})
}
