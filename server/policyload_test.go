package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// TestPolicyReloadUnderLoad changes the table again and again while calls come in. Two
// tables, of which one grants reading acme and b alone and the other reading x and
// listing: a call is decided by one of them, whole. What both grant is never refused,
// and what neither grants never let in.
func TestPolicyReloadUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	text := func(rows string) string {
		return "callers:\n  - {name: tester, identities: [" + server.InsecureIdentity + "]}\nrules:\n" + rows + "...\n"
	}
	tables := []string{
		text("  - {callers: [tester], permissions: [client.read], clients: [acme, both]}\n"),
		text("  - {callers: [tester], permissions: [client.read], clients: [both]}\n  - {callers: [tester], permissions: [client.read, client.write], clients: [other]}\n"),
		text("  - {callers: [tester], permissions: [client.read, client.wri"), // half of a file
	}
	must(t, os.WriteFile(path, []byte(tables[0]), 0o600))
	var generations atomic.Uint64
	table, err := access.NewReloader(path, func(table *access.Table, err error) {
		if err == nil {
			generations.Store(table.Generation())
		}
	})
	must(t, err)
	w := newWorld(t, setup{access: table})
	var over atomic.Bool
	var calling sync.WaitGroup
	problems := make(chan error, 64)
	ask := func(id string, want ...codes.Code) {
		_, err := w.clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/" + id})
		got := problemOf(err).code
		for _, code := range want {
			if got == code {
				return
			}
		}
		select {
		case problems <- fmt.Errorf("%s: got %v, want one of %v", id, err, want):
		default:
		}
	}
	var calls atomic.Int64
	for range 8 {
		calling.Go(func() {
			for !over.Load() {
				ask("both", codes.NotFound)
				ask("neither", codes.PermissionDenied)
				ask("acme", codes.NotFound, codes.PermissionDenied)
				calls.Add(3)
			}
		})
	}
	for round := range 600 {
		must(t, os.WriteFile(path, []byte(tables[round%3]), 0o600))
		if err := table.Reload(); (err != nil) != (round%3 == 2) {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	over.Store(true)
	calling.Wait()
	close(problems)
	for err := range problems {
		t.Error(err)
	}
	if generations.Load() < 300 || calls.Load() < 300 {
		t.Errorf("%d tables took effect during %d calls: too few to mean anything", generations.Load(), calls.Load())
	}
}
