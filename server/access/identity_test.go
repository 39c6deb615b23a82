package access_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/strictyaml"
	"github.com/tokenbroker/tokenbroker/server/access"
)

func TestNormalIdentity(t *testing.T) {
	tests := []struct{ identity, want string }{
		{"spiffe://example.org/crm", "spiffe://example.org/crm"},
		{"https://web.example.org/id", "https://web.example.org/id"},
		{"SPIFFE://example.org/crm", "spiffe://example.org/crm"},
		{"dns:CRM.example.org", access.DNSIdentity("crm.EXAMPLE.org")},
		{"insecure-loopback", access.InsecureIdentity},
		{"", ""},
		{"crm", ""},
		{"//example.org/crm", ""},
		{"urn:uuid:1", ""},
		{"spiffe:/crm", ""},
		{"dns:", ""},
		{"dns:a b", ""},
		{"dns:a/b", ""},
		{"dns:a:1", ""},
		{"DNS:a", ""},
		{"dns://a/b", ""},
		{"cn:CRM app", "cn:CRM app"},
		{"cn:a:b", "cn:a:b"},
		{"jwt:https://i.example#s", "jwt:https://i.example#s"},
		{"jwt:https://i.example/t#auth0|a b#c", "jwt:https://i.example/t#auth0|a b#c"},
		{"jwt:accounts.example#s", "jwt:accounts.example#s"},
		{"jwt:urn:example:i#s", "jwt:urn:example:i#s"},
		{"unix:uid=0", "unix:uid=0"},
		{"unix:uid=4294967294", "unix:uid=4294967294"},
		{"Jwt:https://i.example#s", ""},
		{"jwt:https://i.example", ""},
		{"jwt:https://i.example#", ""},
		{"jwt:https:///t#s", ""},
		{"jwt:https://i example#s", ""},
		{"jwt::a#s", ""},
		{"jwt:#s", ""},
		{"cn:", ""},
		{"cn: crm", ""},
		{"cn:crm ", ""},
		{"CN:crm", ""},
		{"unix:uid=4294967295", ""},
		{"unix:uid=4294967296", ""},
		{"unix:uid=-1", ""},
		{"unix:uid=+1", ""},
		{"unix:uid=01", ""},
		{"unix:uid=", ""},
		{"unix:1", ""},
		{"UNIX:uid=1", ""},
		{"unix:gid=1", ""},
		{"unix://a", ""},
		{"INSECURE-LOOPBACK://a", ""},
		{"spiffe://example.org/\x00", ""},
		{"spiffe://example.org/\xff", ""},
		{"spiffe://example.org/" + strings.Repeat("a", 1024), ""},
	}
	for _, test := range tests {
		t.Run(test.identity, func(t *testing.T) {
			got, err := access.NormalIdentity(test.identity)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q and %v, want %q", got, err, test.want)
			}
			if again, err := access.NormalIdentity(got); got != "" && (again != got || err != nil) {
				t.Errorf("%q is normal, but reads back as %q and %v", got, again, err)
			}
		})
	}
}

// TestSourceOf: what must be listened on for an identity to come up.
func TestSourceOf(t *testing.T) {
	for identity, want := range map[string]access.Source{
		"spiffe://example.org/crm": access.FromTLS, "dns:cn": access.FromTLS, "https://unix/uid": access.FromTLS, "cn:crm": access.FromCommonName,
		"jwt:i#unix:uid=1": access.FromJWT, "unix:uid=1": access.FromUNIX, access.InsecureIdentity: access.FromPlaintext,
	} {
		if got := access.SourceOf(identity); got != want {
			t.Errorf("%s: got %d, want %d", identity, got, want)
		}
	}
}

// TestIdentitiesThatAreMade read back as they are.
func TestIdentitiesThatAreMade(t *testing.T) {
	made := []string{access.UserIdentity(0), access.UserIdentity(1000), access.DNSIdentity("CRM.example.org")}
	for _, name := range []string{"crm", "CRM app", "a#b"} {
		identity, ok := access.CommonNameIdentity(name)
		if !ok {
			t.Errorf("%q is no common name", name)
		}
		made = append(made, identity)
	}
	identity, ok := access.JWTIdentity("https://i.example", "sub#ject")
	if !ok {
		t.Error("issuer and subject make no identity")
	}
	for _, identity := range append(made, identity) {
		if got, err := access.NormalIdentity(identity); got != identity || err != nil {
			t.Errorf("%q reads back as %q, %v", identity, got, err)
		}
	}
	for _, bad := range [][2]string{{"", "s"}, {"a#b", "s"}, {"i", ""}, {"i", "a\x00"}, {"i", strings.Repeat("s", 2000)}} {
		if got, ok := access.JWTIdentity(bad[0], bad[1]); ok {
			t.Errorf("issuer %q and subject %q make %q", bad[0], bad[1], got)
		}
	}
}

// TestURIIdentity: a certificate must not pose as what is identified otherwise.
func TestURIIdentity(t *testing.T) {
	for uri, want := range map[string]bool{
		"spiffe://example.org/crm": true, "https://a/b": true,
		"dns:crm.example.org": false, "dns://crm.example.org/x": false, "DNS://crm/x": false, "jwt:https://i.example#s": false, "jwt://i.example/#s": false,
		"unix:uid=0": false, "cn:crm": false, "insecure-loopback": false, "insecure-loopback://x": false, "urn:uuid:1": false, "mailto:a@b": false,
	} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := access.URIIdentity(u); ok != want || ok && got != uri {
			t.Errorf("%s: got %q, %v; want %v", uri, got, ok, want)
		}
	}
}

func TestIdentify(t *testing.T) {
	table := mustParse(t, withHead(`{callers: ["*"], permissions: [token.get], clients: [a]}`))
	const uri, dns, other = "spiffe://example.org/crm", "dns:crm.example.org", "spiffe://example.org/erp"
	tests := []struct {
		identities []string
		want       string
	}{
		{nil, ""},
		{[]string{uri}, "crm"},
		{[]string{uri, dns}, "crm"},
		{[]string{"dns:unlisted", dns}, "crm"},
		{[]string{"dns:unlisted"}, ""},
		{[]string{uri, other}, ""},
		{[]string{uri, dns, other}, ""},
		{[]string{"dns:CRM.example.org"}, ""},
	}
	for _, test := range tests {
		got, ok := table.Identify(test.identities...)
		if got.Name() != test.want || ok != (test.want != "") || ok && got.Table() != table {
			t.Errorf("%v: got %q, %v; want %q", test.identities, got.Name(), ok, test.want)
		}
	}
}

// TestRequires has a job that speaks over the connection of a mesh, whose own identity
// is a caller too, and one that needs any of two connections.
func TestRequires(t *testing.T) {
	table := mustParse(t, `callers:
  - {name: mesh, identities: ["spiffe://example.org/mesh", "dns:mesh.example.org"]}
  - {name: job, identities: ["spiffe://example.org/job"], requires: ["spiffe://example.org/mesh", "dns:gate.example.org"]}
  - {name: other, identities: ["spiffe://example.org/other"]}
  - {name: mutual, identities: ["spiffe://example.org/mutual"], requires: ["dns:pair.example.org"]}
  - {name: pair, identities: ["dns:pair.example.org"], requires: ["spiffe://example.org/mutual"]}
  - {name: both, identities: ["dns:both.example.org"], requires: ["spiffe://example.org/job", "spiffe://example.org/mesh"]}
rules:
  - {callers: ["*"], permissions: [token.get], clients: [a]}
...
`)
	const mesh, job, other = "spiffe://example.org/mesh", "spiffe://example.org/job", "spiffe://example.org/other"
	const both = "dns:both.example.org"
	tests := []struct {
		identities []string
		want       string
	}{
		{[]string{mesh}, "mesh"},
		{[]string{job}, ""},
		{[]string{job, mesh}, "job"},
		{[]string{mesh, job}, "job"},
		{[]string{job, "dns:gate.example.org"}, "job"},
		{[]string{job, "dns:mesh.example.org"}, "mesh"}, // the caller has it, but it is not what the job requires
		{[]string{job, mesh, other}, ""},
		{[]string{other, job}, "other"},
		{[]string{"spiffe://example.org/mutual", "dns:pair.example.org"}, ""},
		{[]string{"spiffe://example.org/mutual"}, ""},
		{[]string{mesh, job, both}, "both"},
		{[]string{both, job, mesh}, "both"},
		{[]string{job, both, mesh}, "both"},
		{[]string{both, mesh}, "both"},
		{[]string{both}, ""},
	}
	for _, test := range tests {
		got, _ := table.Identify(test.identities...)
		if got.Name() != test.want {
			t.Errorf("%v: got %q, want %q", test.identities, got.Name(), test.want)
		}
	}
	got := problemsOf(t, `callers:
  - {name: a, identities: ["dns:a"], requires: ["dns:a", "dns:b", "dns:B", "nothing"]}
  - {name: b, identities: ["dns:b"], requires: []}
rules:
  - {callers: ["*"], permissions: [token.get], clients: [a]}
...
`)
	for i, want := range []string{
		`2: callers[0].requires[0]: "dns:a" is the caller's own; what it requires must be shown besides`,
		`2: callers[0].requires[2]: "dns:B" is there twice`,
		`2: callers[0].requires[3]: "nothing" is none`,
		"3: callers[1].requires: is empty",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("problem %d of %q: want %q", i, got, want)
		}
	}
}

// TestPeer: each table says anew who a peer is.
func TestPeer(t *testing.T) {
	table := func(file string) *access.Table { return mustParse(t, file) }
	const rules = "rules:\n  - {callers: [\"*\"], permissions: [token.get], clients: [a]}\n...\n"
	first := table("callers:\n  - {name: crm, identities: [\"dns:a\"]}\n" + rules)
	second := table("callers:\n  - {name: erp, identities: [\"dns:a\"]}\n" + rules)
	third := table("callers:\n  - {name: crm, identities: [\"dns:b\"]}\n" + rules)
	peer := access.NewPeer("dns:a")
	for range 2 {
		for _, test := range []struct {
			table *access.Table
			want  string
		}{{first, "crm"}, {first, "crm"}, {second, "erp"}, {third, ""}, {third, ""}, {nil, ""}} {
			got, ok := peer.Caller(test.table)
			if got.Name() != test.want || ok != (test.want != "") {
				t.Errorf("got %q, %v; want %q", got.Name(), ok, test.want)
			}
		}
	}
	if !slices.Equal(peer.Identities(), []string{"dns:a"}) {
		t.Errorf("identities are %v", peer.Identities())
	}
	if _, ok := (*access.Peer)(nil).Caller(first); ok {
		t.Error("no peer is somebody")
	}
}

func TestFromRoles(t *testing.T) {
	table, err := access.FromRoles([]access.RoleCaller{
		{Name: "crm", Identity: "spiffe://example.org/crm", Role: "caller"},
		{Name: "ops", Identity: "dns:ops", Role: "operator"},
		{Name: "crm", Identity: "dns:CRM", Role: "caller"},
		{Name: "local", Identity: access.InsecureIdentity, Role: "operator"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for identity, name := range map[string]string{"spiffe://example.org/crm": "crm", "dns:crm": "crm", "dns:ops": "ops", "insecure-loopback": "local"} {
		caller := callerOf(t, table, identity)
		if caller.Name() != name {
			t.Errorf("%s is %s, want %s", identity, caller.Name(), name)
		}
		for _, p := range access.Permissions() {
			want := name != "crm" && p != access.ClientRetarget || p == access.TokenGet || p == access.TokenWatch
			for _, client := range []string{"", "a"} {
				if d := table.Decide(access.Request{Caller: caller, Permission: p, Client: client}); d.Allowed != want || d.Scopes != nil || d.Limits != nil {
					t.Errorf("%s %v %q: got %+v, want allowed %v", name, p, client, d, want)
				}
			}
		}
	}
}

func TestFromOneRole(t *testing.T) {
	table, err := access.FromRoles([]access.RoleCaller{{Name: "ops", Identity: "dns:ops", Role: "operator"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := table.Explain("ops", access.AuditRead, "", nil).String(), "row: role:operator, by its client \"*\""; !strings.Contains(got, want) {
		t.Errorf("explained as %s, want %q in it", got, want)
	}
}

func TestFromRolesOfNobody(t *testing.T) {
	table, err := access.FromRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := table.Caller(access.InsecureIdentity); ok {
		t.Error("somebody is listed")
	}
	if got := table.Explain("crm", access.TokenGet, "a", nil).String(); !strings.HasSuffix(got, "callers: none") {
		t.Errorf("explained as %s", got)
	}
}

func TestFromRolesProblems(t *testing.T) {
	_, err := access.FromRoles([]access.RoleCaller{
		{Name: "crm", Identity: "dns:a", Role: "caller"},
		{Name: "crm", Identity: "dns:b", Role: "operator"},
		{Name: "erp", Identity: "dns:A", Role: "operator"},
		{Name: "", Identity: "x", Role: "admin"},
		{Name: "crm", Identity: "dns:a", Role: "caller"},
	})
	var problems *strictyaml.Error
	if !errors.As(err, &problems) {
		t.Fatalf("got %v, want problems", err)
	}
	var got []string
	for _, p := range problems.Problems {
		got = append(got, p.String())
	}
	want := []string{
		`callers[1].role: "crm" has the role caller already; one caller has one role`,
		`callers[2].identity: "dns:A" is that of callers[0].identity already`,
		`callers[3].role: is "admin"; it must be caller or operator`, `callers[3].name: is required`, `callers[3].identity: "x" is none`,
		`callers[4].identity: "dns:a" is that of callers[0].identity already`,
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
