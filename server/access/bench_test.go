package access_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// largeTable has a thousand rows: a hundred callers with ten each.
func largeTable() string {
	var b strings.Builder
	b.WriteString("callers:\n")
	for c := range 100 {
		fmt.Fprintf(&b, "  - {name: c%[1]d, identities: [\"spiffe://example.org/c%[1]d\"]}\n", c)
	}
	b.WriteString("rules:\n")
	for c := range 100 {
		for r := range 8 {
			fmt.Fprintf(&b, "  - {callers: [c%d], permissions: [token.get], clients: [exact-%d, other-%d], scopes: {default: [s%d]}, limits: {concurrent: 9}}\n", c, r, r, r)
		}
		fmt.Fprintf(&b, "  - {callers: [c%d], permissions: [token.get], clients: [\"prefix:team-%d-\"], scopes: {default: [read], allowed: [write]}}\n", c, c)
		fmt.Fprintf(&b, "  - {callers: [c%d], permissions: [client.read], clients: [\"label:team=c%d\"]}\n", c, c)
	}
	return b.String() + "...\n"
}

// BenchmarkDecide is the hot path: who is it, may it, with which scopes.
func BenchmarkDecide(b *testing.B) {
	table := mustParse(b, largeTable())
	peer := access.NewPeer("spiffe://example.org/c42")
	labels := map[string]string{"team": "c42"}
	for _, bench := range []struct {
		name       string
		permission access.Permission
		client     string
		allowed    bool
	}{
		{"exact", access.TokenGet, "exact-5", true},
		{"prefix", access.TokenGet, "team-42-crm", true},
		{"label", access.ClientRead, "anything", true},
		{"denied", access.TokenGet, "team-43-crm", false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				caller, _ := peer.Caller(table)
				d := table.Decide(access.Request{Caller: caller, Permission: bench.permission, Client: bench.client, Labels: func() map[string]string { return labels }})
				if d.Allowed != bench.allowed {
					b.Fatal("decided wrongly")
				}
				if bench.permission == access.TokenGet && d.Allowed {
					if _, err := d.Query(broker.TokenQuery{ClientID: bench.client}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkParse reads the table of a thousand rows.
func BenchmarkParse(b *testing.B) {
	raw := []byte(largeTable())
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := access.Parse("access.yaml", raw); err != nil {
			b.Fatal(err)
		}
	}
}
