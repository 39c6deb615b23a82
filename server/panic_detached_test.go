package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// TestPanicsInSharedWork lets the store and the authorization server's adapter
// panic in work that belongs to no caller. The process must live: an answer that
// makes a parser panic must not be able to stop a fleet.
func TestPanicsInSharedWork(t *testing.T) {
	getToken := func(t *testing.T, w *world) error {
		_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
		return err
	}
	tests := []struct {
		name  string
		where string // "store" or "upstream"
		call  func(t *testing.T, w *world) error
		// reported says that the answer has an OK status and tells of the failure.
		reported bool
	}{
		{"mint, upstream", "upstream", getToken, false},
		{"mint, store", "store", getToken, false},
		{"first read of a record", "store", func(t *testing.T, w *world) error {
			_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/nobody"})
			return err
		}, false},
		{"page of clients", "read", func(t *testing.T, w *world) error {
			page, err := w.clients.ListClients(t.Context(), &pb.ListClientsRequest{})
			if err == nil && (len(page.GetUnreadable()) != 1 || page.GetUnreadable()[0].GetReason() != "INTERNAL") {
				t.Errorf("got the page %v, want acme unreadable for INTERNAL", page)
			}
			return err
		}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var store, reads bomb
				var upstream bomb
				w := newWorld(t, setup{
					store: func(s broker.Store) broker.Store {
						store.Store = s
						reads.Store = &store
						return readBomb{&store, &reads}
					},
					request: func(request broker.RequestToken) broker.RequestToken {
						return func(ctx context.Context, r broker.TokenRequest) (broker.TokenResponse, error) {
							upstream.tick()
							return request(ctx, r)
						}
					},
				})
				w.register(t, w.peer, "acme")
				synctest.Wait()
				cause := any("value " + mark)
				map[string]*bomb{"store": &store, "read": &reads, "upstream": &upstream}[test.where].cause.Store(&cause)

				var calls sync.WaitGroup
				for range 3 { // callers that share one flight
					calls.Go(func() {
						err := test.call(t, w)
						if test.reported {
							if err != nil {
								t.Errorf("got %v, want a page", err)
							}
							return
						}
						p := problemOf(err)
						if p.code != codes.Internal || p.reason != broker.ReasonInternal {
							t.Errorf("got %v, want INTERNAL", err)
						}
						if strings.Contains(err.Error()+fmt.Sprint(status.Convert(err).Details()), mark) {
							t.Errorf("the panic's value got out: %v", err)
						}
					})
				}
				calls.Wait()
				if strings.Contains(w.logs.String(), mark) {
					t.Error("the panic's value is in the log")
				}
				for _, b := range []*bomb{&store, &reads, &upstream} {
					b.cause.Store(nil)
				}
				must(t, getToken(t, w)) // what broke is not held on to
			})
		})
	}
}

// readBomb has a fuse of its own for Read.
type readBomb struct {
	broker.Store
	reads *bomb
}

// Read implements broker.Store.
func (r readBomb) Read(ctx context.Context, key string) (broker.Record, error) {
	return r.reads.Read(ctx, key)
}
