package access_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// TestDecide asks the table of docs/access.md.
func TestDecide(t *testing.T) {
	table := mustParse(t, readFile(t, "testdata/access.yaml"))
	everyone := map[string]string{"access": "everyone"}
	const (
		crm, erp, sidecar = "dns:crm.example.org", "spiffe://example.org/erp", "dns:sidecar.example.org"
		rotator, operator = "spiffe://example.org/rotator", "spiffe://example.org/operator"
	)
	tests := []struct {
		identity, permission, client string
		labels                       map[string]string
		row                          int // -1 is denied
		labelled                     bool
	}{
		{crm, "token.get", "acme-crm", nil, 0, false},
		{crm, "token.watch", "acme-crm", everyone, 0, false},
		{crm, "token.revoke", "acme-crm", nil, -1, false},
		{crm, "token.get", "acme-billing", everyone, 1, false},
		{crm, "token.watch", "acme-billing", everyone, -1, false},
		{crm, "token.get", "acme", nil, -1, false},
		{crm, "token.get", "other", everyone, -1, false},
		{crm, "token.get", "", nil, -1, false},
		{erp, "token.get", "acme-billing", nil, 1, false},
		{erp, "token.get", "acme-crm", nil, -1, true},
		{erp, "token.get", "acme-crm", map[string]string{"access": "some"}, -1, true},
		{erp, "token.get", "acme-crm", everyone, 2, true},
		{erp, "token.watch", "acme-billing", everyone, -1, true},
		{erp, "client.read", "acme-crm", everyone, -1, false},
		{erp, "token.get", "", everyone, -1, false},
		{sidecar, "token.get", "acme-crm", everyone, 2, true},
		{rotator, "secret.stage", "anything", nil, 3, false},
		{rotator, "secret.promote", "anything", nil, -1, false},
		{rotator, "client.read", "", nil, 3, false},
		{operator, "audit.read", "", nil, 4, false},
		{operator, "token.get", "acme-billing", nil, 4, false},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s %s %s %v", test.identity, test.permission, test.client, test.labels), func(t *testing.T) {
			asked := 0
			d := table.Decide(access.Request{
				Caller: callerOf(t, table, test.identity), Permission: permission(t, test.permission), Client: test.client,
				Labels: func() map[string]string { asked++; return test.labels },
			})
			if d.Row.Index != test.row || d.Allowed != (test.row >= 0) || (d.Err() == nil) != d.Allowed {
				t.Errorf("decided by %v, allowed %v, error %v; want row %d", d.Row, d.Allowed, d.Err(), test.row)
			}
			if d.Labelled != test.labelled || asked > 1 || (asked == 1) != test.labelled {
				t.Errorf("asked for labels %d times, labelled %v; want %v", asked, d.Labelled, test.labelled)
			}
		})
	}
}

// TestWhichRow: of rows that say the same, the most precise one is named, then the first.
// A row that leaves a client out does not speak of all of them.
func TestWhichRow(t *testing.T) {
	table := mustParse(t, withHead(
		`{callers: [crm], permissions: [client.read], clients: ["*"], except: {clients: [x]}}`,
		`{callers: [crm], permissions: [client.read, client.write], clients: ["prefix:a"]}`,
		`{callers: [crm], permissions: [client.read, client.delete], clients: ["prefix:ab"], except: {clients: [abd]}}`,
		`{callers: [crm], permissions: [client.read, secret.stage], clients: [abc]}`,
		`{callers: [crm], permissions: [client.read, secret.retire], clients: [abc]}`,
	))
	for client, want := range map[string]int{"abc": 3, "abcd": 2, "abd": 1, "ac": 1, "b": 0, "x": -1, "": -1} {
		if d := table.Decide(access.Request{Caller: callerOf(t, table, "dns:crm.example.org"), Permission: access.ClientRead, Client: client}); d.Row.Index != want {
			t.Errorf("%q: %v decides, want %d", client, d.Row, want)
		}
	}
}

// TestDecisionTerms: what the row says travels with the decision, where it matters.
func TestDecisionTerms(t *testing.T) {
	table := mustParse(t, withHead(
		`{callers: [crm, erp], permissions: [token.get, client.read], clients: [a], scopes: {default: [x]}, audiences: {allowed: [y]}, resources: {default: ["z:z"]}, limits: {requests_per_second: 2.5}}`,
	))
	if d := table.Decide(access.Request{Caller: callerOf(t, table, "dns:crm.example.org"), Permission: access.ClientRead, Client: "a"}); d.Scopes != nil || d.Audiences != nil || d.Resources != nil || d.Limits == nil {
		t.Errorf("client.read has the terms %+v, want only limits", d)
	}
	get := func(identity string) access.Decision {
		return table.Decide(access.Request{Caller: callerOf(t, table, identity), Permission: access.TokenGet, Client: "a"})
	}
	d := get("dns:crm.example.org")
	if d.Row != (access.Row{Index: 0, Line: 6}) || d.Scopes.String() != "by default x" || d.Audiences.String() != "must be named; allowed y" || d.Resources.String() != "by default z:z" {
		t.Errorf("got the terms %+v %v %v %v", d.Row, d.Scopes, d.Audiences, d.Resources)
	}
	if want := (access.Limits{RequestsPerSecond: 2.5, Burst: 3}); *d.Limits != want {
		t.Errorf("got the limits %+v, want %+v", *d.Limits, want)
	}
	if d.Limits != get("spiffe://example.org/crm").Limits || d.Limits == get("spiffe://example.org/erp").Limits {
		t.Error("the address of the limits does not tell a caller from another")
	}
}

// TestNobody: what is not of this table is denied.
func TestNobody(t *testing.T) {
	file := withHead(`{callers: ["*"], permissions: ["role:operator"], clients: ["*"]}`)
	table, other := mustParse(t, file), mustParse(t, file)
	for name, r := range map[string]access.Request{
		"nobody":              {Permission: access.TokenGet, Client: "a"},
		"of another table":    {Caller: callerOf(t, other, "dns:crm.example.org"), Permission: access.TokenGet, Client: "a"},
		"no permission":       {Caller: callerOf(t, table, "dns:crm.example.org"), Client: "a"},
		"invented permission": {Caller: callerOf(t, table, "dns:crm.example.org"), Permission: 200, Client: "a"},
	} {
		if d := table.Decide(r); d.Allowed || d.Row.Index != -1 || broker.ReasonOf(d.Err()) != broker.ReasonCallerNotAllowed {
			t.Errorf("%s: got %+v", name, d)
		}
	}
	if d := new(access.Decision); broker.ReasonOf(d.Err()) != broker.ReasonCallerNotAllowed {
		t.Error("the zero Decision allows")
	}
	if d := (*access.Table)(nil).Decide(access.Request{Permission: access.TokenGet, Client: "a"}); d.Allowed {
		t.Error("no table allows")
	}
	var nobody access.Caller
	if nobody.Name() != "" || nobody.Table() != nil || nobody.May(access.TokenGet) || nobody.Grants() != nil {
		t.Error("nobody is somebody")
	}
}

func TestQuery(t *testing.T) {
	row := func(terms string) string {
		return withHead("{callers: [crm], permissions: [token.get], clients: [a], " + terms + "}")
	}
	const (
		scopes = "scopes: {default: [s, t], allowed: [t, u]}"
		named  = "scopes: {allowed: [s]}, audiences: {allowed: [a, b]}, resources: {allowed: [\"r:1\"]}"
		all    = "audiences: {default: [a], allowed: [b]}, resources: {default: [\"r:1\"], allowed: [\"r:2\"]}"
	)
	type query = broker.TokenQuery
	tests := []struct {
		name, file string
		asked      query
		want       query
		reason     broker.Reason
	}{
		{"no restriction", row("limits: {concurrent: 1}"), query{ClientID: "a", Scopes: []string{"x"}, Audience: "y"}, query{ClientID: "a", Scopes: []string{"x"}, Audience: "y"}, ""},
		{"default scopes", row(scopes), query{ClientID: "a"}, query{ClientID: "a", Scopes: []string{"s", "t"}}, ""},
		{"one of the default", row(scopes), query{Scopes: []string{"t"}}, query{Scopes: []string{"t"}}, ""},
		{"allowed", row(scopes), query{Scopes: []string{"u", "s"}}, query{Scopes: []string{"u", "s"}}, ""},
		{"not allowed", row(scopes), query{Scopes: []string{"s", "x"}}, query{}, broker.ReasonScopeNotAllowed},
		{"an empty scope", row(scopes), query{Scopes: []string{""}}, query{}, broker.ReasonScopeNotAllowed},
		{"case matters", row(scopes), query{Scopes: []string{"S"}}, query{}, broker.ReasonScopeNotAllowed},
		{"scopes must be named", row(named), query{Audience: "a", Resources: []string{"r:1"}}, query{}, broker.ReasonScopeNotAllowed},
		{"the audience must be named", row(named), query{Scopes: []string{"s"}, Resources: []string{"r:1"}}, query{}, broker.ReasonTargetNotAllowed},
		{"resources must be named", row(named), query{Scopes: []string{"s"}, Audience: "a"}, query{}, broker.ReasonTargetNotAllowed},
		{"all are named", row(named), query{Scopes: []string{"s"}, Audience: "b", Resources: []string{"r:1"}}, query{Scopes: []string{"s"}, Audience: "b", Resources: []string{"r:1"}}, ""},
		{"default targets", row(all), query{}, query{Audience: "a", Resources: []string{"r:1"}}, ""},
		{"other targets", row(all), query{Audience: "b", Resources: []string{"r:2", "r:1"}}, query{Audience: "b", Resources: []string{"r:2", "r:1"}}, ""},
		{"audience not allowed", row(all), query{Audience: "c"}, query{}, broker.ReasonTargetNotAllowed},
		{"resource not allowed", row(all), query{Resources: []string{"r:1", "r:3"}}, query{}, broker.ReasonTargetNotAllowed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := mustParse(t, test.file)
			d := table.Decide(access.Request{Caller: callerOf(t, table, "dns:crm.example.org"), Permission: access.TokenGet, Client: "a"})
			got, err := d.Query(test.asked)
			if !reflect.DeepEqual(got, test.want) || broker.ReasonOf(err) != test.reason {
				t.Errorf("got %+v and %v, want %+v and %q", got, err, test.want, test.reason)
			}
		})
	}
	t.Run("denied", func(t *testing.T) {
		got, err := new(access.Decision).Query(query{ClientID: "a", Scopes: []string{"s"}})
		if !reflect.DeepEqual(got, query{}) || broker.ReasonOf(err) != broker.ReasonCallerNotAllowed {
			t.Errorf("got %+v and %v", got, err)
		}
	})
	t.Run("a huge scope", func(t *testing.T) {
		table := mustParse(t, row(scopes))
		d := table.Decide(access.Request{Caller: callerOf(t, table, "dns:crm.example.org"), Permission: access.TokenGet, Client: "a"})
		if _, err := d.Query(query{Scopes: []string{string(make([]byte, 1<<20))}}); len(err.Error()) > 1000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	})
}

func TestPermissions(t *testing.T) {
	if got := len(access.Permissions()); got != 21 {
		t.Errorf("there are %d permissions, want 21", got)
	}
	for _, p := range access.Permissions() {
		if parsed, ok := access.ParsePermission(p.String()); !ok || parsed != p {
			t.Errorf("%v does not read back", p)
		}
	}
	for _, name := range []string{"", "token", "TOKEN.GET", "role:caller", "*"} {
		if p, ok := access.ParsePermission(name); ok {
			t.Errorf("%q is %v", name, p)
		}
	}
	if got := access.Permission(0).String(); got != "permission(0)" {
		t.Errorf("got %q", got)
	}
}

func TestGrants(t *testing.T) {
	table := mustParse(t, readFile(t, "testdata/access.yaml"))
	var got []string
	for _, g := range callerOf(t, table, "dns:crm.example.org").Grants() {
		got = append(got, fmt.Sprintf("%v %v %v -%v scopes %v limits %v", g.Row, g.Permissions, g.Clients, g.Except, g.Scopes, g.Limits))
	}
	want := []string{
		"rules[0] (line 17) [token.get token.watch] [prefix:acme-] -[acme-billing] scopes by default contacts.read; allowed contacts.write limits 50 requests a second, bursts of 100, 20 at once, 10 scope sets",
		"rules[1] (line 26) [token.get] [acme-billing] -[] scopes must be named; allowed invoices.read invoices.write limits none",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	caller := callerOf(t, table, "dns:crm.example.org")
	if !caller.May(access.TokenGet) || caller.May(access.ClientRead) || caller.May(0) || caller.Name() != "crm" {
		t.Error("May is wrong about crm")
	}
}

// TestGains: labels that somebody may write must not give him more.
func TestGains(t *testing.T) {
	table := mustParse(t, withHead(
		`{callers: [crm], permissions: [client.read, client.write], clients: ["*"]}`,
		`{callers: [crm], permissions: [client.retarget, secret.stage], clients: ["label:stage=test"]}`,
		`{callers: [crm], permissions: [token.get], clients: ["label:team=crm"], scopes: {default: [x]}}`,
		`{callers: [crm], permissions: [token.get], clients: ["label:team=erp"], scopes: {default: [y]}}`,
	))
	type labels = map[string]string
	tests := []struct {
		name          string
		before, after labels
		want          []access.Permission
	}{
		{"nothing", nil, nil, nil},
		{"another label", nil, labels{"owner": "crm"}, nil},
		{"to test", labels{"stage": "production"}, labels{"stage": "test"}, []access.Permission{access.ClientRetarget, access.SecretStage}},
		{"from test", labels{"stage": "test"}, labels{}, nil},
		{"stays test", labels{"stage": "test"}, labels{"stage": "test", "a": "b"}, nil},
		{"other scopes", labels{"team": "crm"}, labels{"team": "erp"}, []access.Permission{access.TokenGet}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := table.Gains(callerOf(t, table, "dns:crm.example.org"), "a", test.before, test.after); !slices.Equal(got, test.want) {
				t.Errorf("gains %v, want %v", got, test.want)
			}
		})
	}
}

// TestDecideAllocatesNothing: a decision must cost nothing beside the call it is for.
func TestDecideAllocatesNothing(t *testing.T) {
	table := mustParse(t, readFile(t, "testdata/access.yaml"))
	peer := access.NewPeer("spiffe://example.org/crm", "dns:crm.example.org")
	sidecar := callerOf(t, table, "dns:sidecar.example.org")
	everyone := map[string]string{"access": "everyone"}
	if n := testing.AllocsPerRun(100, func() {
		caller, _ := peer.Caller(table)
		d := table.Decide(access.Request{Caller: caller, Permission: access.TokenGet, Client: "acme-crm"})
		if q, err := d.Query(broker.TokenQuery{ClientID: "acme-crm"}); err != nil || len(q.Scopes) != 1 {
			panic(errors.Join(err, errors.New("no scopes")))
		}
		labels := everyone
		d = table.Decide(access.Request{Caller: sidecar, Permission: access.TokenGet, Client: "acme-crm", Labels: func() map[string]string { return labels }})
		if !d.Allowed {
			panic("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
