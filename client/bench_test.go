package client_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/client"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// oneToken answers each call with the same token, without a network.
type oneToken struct{ grpc.ClientConnInterface }

func (oneToken) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	response := reply.(*pb.GetTokenResponse)
	response.AccessToken, response.TokenId, response.TokenType = canary, "0123456789abcdef", "Bearer"
	response.IssueTime, response.ExpireTime = timestamppb.Now(), timestamppb.New(time.Now().Add(time.Hour))
	return nil
}

func warmSource(tb testing.TB) *client.Source {
	c := client.NewFromConn(oneToken{})
	tb.Cleanup(func() { _ = c.Close() })
	source := c.Source(acme)
	if _, err := source.Token(); err != nil {
		tb.Fatalf("warm: %v", err)
	}
	return source
}

// TestWarmTokenAllocatesNothing is the bound of sdk_token_allocs.
func TestWarmTokenAllocatesNothing(t *testing.T) {
	source := warmSource(t)
	if allocs := testing.AllocsPerRun(1000, func() { _, _ = source.Token() }); allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}

// BenchmarkToken compares a warm Source with what it could have been.
func BenchmarkToken(b *testing.B) {
	source := warmSource(b)
	token, err := source.Token()
	if err != nil {
		b.Fatal(err)
	}
	reuse := oauth2.ReuseTokenSource(token, source)
	var withClock atomic.Pointer[time.Time]
	expires := time.Now().Add(time.Hour)
	withClock.Store(&expires)
	for _, c := range []struct {
		name string
		run  func() bool
	}{
		{"source", func() bool { t, err := source.Token(); return t != nil && err == nil }},
		{"reuse-token-source", func() bool { t, err := reuse.Token(); return t != nil && err == nil }},
		{"pointer-and-time.Now", func() bool { return time.Now().Before(*withClock.Load()) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !c.run() {
					b.Fatal("no token")
				}
			}
		})
		b.Run(c.name+"-parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if !c.run() {
						b.Error("no token")
						return
					}
				}
			})
		})
	}
}
