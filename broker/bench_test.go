package broker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
)

// warm returns a Broker with a client whose tokens for the queries are in memory.
func warm(b *testing.B, queries ...broker.TokenQuery) *broker.Broker {
	b.Helper()
	upstream := brokertest.NewUpstream()
	made, err := broker.New(broker.Config{Store: brokertest.NewMemory(), RequestToken: upstream.RequestToken, CheckSecret: checkSecret})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(made.Close)
	n := newClient("acme")
	n.Upstream.AllowedScopes = numbered(100, "scope-%d")
	upstream.Register(n.Upstream.ClientID, password)
	if _, err := made.CreateClient(b.Context(), n); err != nil {
		b.Fatal(err)
	}
	for _, q := range queries {
		if _, _, err := made.GetToken(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	return made
}

func serve(b *testing.B, made *broker.Broker, q broker.TokenQuery) {
	ctx := context.Background()
	for b.Loop() {
		if _, _, err := made.GetToken(ctx, q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetTokenWarm(b *testing.B) {
	q := broker.TokenQuery{ClientID: "acme"}
	serve(b, warm(b, q), q)
}

func BenchmarkGetTokenWarmParallel(b *testing.B) {
	q := broker.TokenQuery{ClientID: "acme"}
	made := warm(b, q)
	b.RunParallel(func(p *testing.PB) {
		ctx := context.Background()
		for p.Next() {
			if _, _, err := made.GetToken(ctx, q); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkGetTokenWarmScopes is what resolving a query to its key costs.
func BenchmarkGetTokenWarmScopes(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			q := broker.TokenQuery{ClientID: "acme", Scopes: numbered(n, "scope-%d")}
			serve(b, warm(b, q), q)
		})
	}
}

// BenchmarkGetTokenCold is a mint with a store and a server that cost nothing.
func BenchmarkGetTokenCold(b *testing.B) {
	made := warm(b)
	ctx := context.Background()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		scope := fmt.Sprint("scope-", i%100)
		edit := func(c *broker.Client) { c.Upstream.Parameters = map[string]string{"n": fmt.Sprint(i)} } // other settings, other keys
		if _, err := made.UpdateClient(ctx, broker.ClientUpdate{ID: "acme", Edit: edit}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, _, err := made.GetToken(ctx, broker.TokenQuery{ClientID: "acme", Scopes: []string{scope}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetTokenWarmSubjects asks for the tokens of many subjects in turn.
func BenchmarkGetTokenWarmSubjects(b *testing.B) {
	upstream := brokertest.NewUpstream()
	made, err := broker.New(broker.Config{Store: brokertest.NewMemory(), RequestToken: upstream.RequestToken, CheckSecret: checkSecret})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(made.Close)
	n := newClient("acme")
	n.Upstream.Grant = broker.RefreshToken
	if _, err := made.CreateClient(b.Context(), n); err != nil {
		b.Fatal(err)
	}
	queries := make([]broker.TokenQuery, 100)
	for i := range queries {
		queries[i] = broker.TokenQuery{ClientID: "acme", Subject: fmt.Sprint("users/", i)}
		if _, err := made.StoreGranted(b.Context(), "acme", queries[i].Subject, upstream.Consent("user"), "", ""); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	ctx, i := context.Background(), 0
	for b.Loop() {
		if _, _, err := made.GetToken(ctx, queries[i%len(queries)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
