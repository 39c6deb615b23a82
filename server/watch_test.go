package server_test

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// watch begins a watch and takes its first token.
func watch(t *testing.T, p *peer, client string) (grpc.ServerStreamingClient[pb.WatchTokenResponse], *pb.GetTokenResponse) {
	t.Helper()
	stream, err := p.tokens.WatchToken(t.Context(), &pb.WatchTokenRequest{Client: client})
	must(t, err)
	first, err := stream.Recv()
	must(t, err)
	return stream, first.GetToken()
}

// TestWatchToken follows a rotation that drops the tokens: the new one is pushed, and
// each has an entry of its own in the audit log.
func TestWatchToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		stream, first := watch(t, w.peer, "clients/acme")
		w.stage(t, w.peer, "acme", "secret-2 of acme")
		must(t, verify("acme", 2)(t, w))
		_, err := w.rotations.PromoteSecret(t.Context(), &pb.PromoteSecretRequest{Client: "clients/acme", SecretVersion: 2, DropTokens: true})
		must(t, err)
		pushed, err := stream.Recv()
		must(t, err)
		second := pushed.GetToken()
		if second.GetTokenId() == first.GetTokenId() || second.GetSecretVersion() != 2 {
			t.Errorf("got the token %s of version %d after %s, want another one of version 2", second.GetTokenId(), second.GetSecretVersion(), first.GetTokenId())
		}
		var ids []string
		for _, entry := range w.audit.entries(t) {
			if strings.HasSuffix(entry["method"].(string), "/WatchToken") {
				ids = append(ids, entry["token_id"].(string))
			}
		}
		if strings.Join(ids, " ") != first.GetTokenId()+" "+second.GetTokenId() {
			t.Errorf("the audit log has the tokens %v, want %s and %s", ids, first.GetTokenId(), second.GetTokenId())
		}
	})
}

// TestWatchEndsWithThePermission takes the permission away while the watch lasts.
func TestWatchEndsWithThePermission(t *testing.T) {
	w, table := tabled(t, row("client.write, secret.stage", `"*"`, ""), row("token.watch", "acme, other", ""))
	w.register(t, w.peer, "acme")
	w.register(t, w.peer, "other")
	stream, _ := watch(t, w.peer, "clients/acme")
	stays, _ := watch(t, w.peer, "clients/other")
	writeTable(t, table.Table().File(), row("token.watch", "other", ""))
	must(t, table.Reload())
	_, err := stream.Recv()
	requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
	entries := w.audit.entries(t)
	if last := entries[len(entries)-1]; last["outcome"] != "denied" {
		t.Errorf("got the last entry %v, want the refusal", last)
	}
	ended := make(chan error, 1)
	go func() { _, err := stays.Recv(); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("a watch that is still permitted ended: %v", err)
	case <-time.After(1500 * time.Millisecond): // more than a look at all watches
	}
}

// otherDefault changes what a caller gets who names no scopes.
func otherDefault(t *testing.T, _ *world) error {
	scopes := func(name string) string {
		return row("token.watch", "acme", ", scopes: {default: ["+name+"]}")
	}
	path := filepath.Join(t.TempDir(), "access.yaml")
	writeTable(t, path, row("client.write, secret.stage", `"*"`, ""), scopes("read"))
	table, err := access.NewReloader(path, nil)
	must(t, err)
	w := newWorld(t, setup{access: table})
	w.register(t, w.peer, "acme", func(c *pb.Client) { c.AllowedScopes = []string{"read", "write"} })
	stream, _ := watch(t, w.peer, "clients/acme")
	writeTable(t, path, row("client.write, secret.stage", `"*"`, ""), scopes("write"))
	must(t, table.Reload())
	_, err = stream.Recv()
	return err
}

// TestWatchEndsWithTheCredential: a token of the caller that has expired ends what it began.
func TestWatchEndsWithTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		w := newWorld(t, setup{
			access: tableOf(t, strings.Replace(callersTable, "[client.read]", `["role:operator"]`, 1)), bearer: i.verifier(),
		})
		synctest.Wait()
		good := i.token("alone", func(c map[string]any) { c["exp"] = time.Now().Add(10 * time.Minute).Unix() })
		ctx := withBearer(t.Context(), good)
		w.upstream.Register("acme-at-provider", "secret-1 of acme")
		_, err := w.clients.CreateClient(ctx, &pb.CreateClientRequest{Client: clientMessage("acme"), Secret: clientSecret("secret-1 of acme")})
		must(t, err)
		stream, err := w.tokens.WatchToken(ctx, &pb.WatchTokenRequest{Client: "clients/acme"})
		must(t, err)
		_, err = stream.Recv()
		must(t, err)
		time.Sleep(11 * time.Minute) // its life and the leeway, and no connection's
		for err == nil {
			_, err = stream.Recv() // new tokens that came meanwhile
		}
		requireProblem(t, err, codes.Unauthenticated, broker.ReasonCallerUnauthenticated)
	})
}

// TestNoTokenIsPushedWithoutAnEntry lets the audit log fail.
func TestNoTokenIsPushedWithoutAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		w.audit.failAfter(0)
		stream, err := w.tokens.WatchToken(t.Context(), &pb.WatchTokenRequest{Client: "clients/acme"})
		must(t, err)
		message, err := stream.Recv()
		requireProblem(t, err, codes.Unavailable, broker.ReasonAuditUnavailable)
		if message.GetToken().GetAccessToken() != "" {
			t.Error("a token was pushed without an entry")
		}
	})
}

// TestAStreamWithoutAnEntryIsCountedOut lets the audit log refuse reflection again and
// again: none of the refused calls may go on using up the limit.
func TestAStreamWithoutAnEntryIsCountedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{MaxConcurrentRequests: 2, MaxConcurrentRequestsPerCaller: 2}})
		w.register(t, w.peer, "acme")
		var reflection method
		for _, m := range registered(t, w.server) {
			if strings.HasSuffix(m.full, "v1.ServerReflection/ServerReflectionInfo") {
				reflection = m
			}
		}
		w.audit.failAfter(0)
		for range 5 {
			_, err := w.invoke(t.Context(), reflection, sample(t, reflection))
			requireProblem(t, err, codes.Unavailable, broker.ReasonAuditUnavailable)
		}
		w.audit.failAfter(-1) // never
		must(t, lookup(t, w.peer))
	})
}

// TestWatchesAreCountedByThemselves: they neither use up what calls need, nor more than
// their own share.
func TestWatchesAreCountedByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{MaxConcurrentRequests: 1, MaxWatches: 3, MaxWatchesPerCaller: 2}})
		w.register(t, w.peer, "acme")
		watch(t, w.peer, "clients/acme")
		watch(t, w.peer, "clients/acme")
		third, err := w.tokens.WatchToken(t.Context(), &pb.WatchTokenRequest{Client: "clients/acme"})
		must(t, err)
		_, err = third.Recv()
		requireProblem(t, err, codes.ResourceExhausted, broker.ReasonTooManyRequests)
		requireProblem(t, watchRotation("acme", nil)(t, w), codes.ResourceExhausted, broker.ReasonTooManyRequests)
		must(t, lookup(t, w.peer))
	})
}

// TestATokenOfMoreScopesThanTheRowAllows is not handed out: clients with a single
// active token have one of all their scopes.
func TestATokenOfMoreScopesThanTheRowAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := tabled(t, row("client.write, secret.stage", `"*"`, ""),
			row("token.get, token.watch", "acme", ", scopes: {default: [read]}"), row("token.get", "free", ""))
		for _, id := range []string{"acme", "free"} {
			w.register(t, w.peer, id, func(c *pb.Client) {
				c.DefaultScopes, c.AllowedScopes, c.SingleActiveToken = []string{"read"}, []string{"write"}, true
			})
		}
		_, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
		requireProblem(t, err, codes.PermissionDenied, broker.ReasonScopeNotAllowed)
		requireProblem(t, watchToken("clients/acme", nil)(t, w), codes.PermissionDenied, broker.ReasonScopeNotAllowed)
		got, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/free"})
		must(t, err)
		if strings.Join(got.GetScopes(), " ") != "read write" {
			t.Errorf("got the scopes %v, want all", got.GetScopes())
		}
	})
}

// TestRejectedTokenAndRevocation over the API.
func TestRejectedTokenAndRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		get := func(rejected string) *pb.GetTokenResponse {
			response, err := w.tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", RejectedTokenId: rejected})
			must(t, err)
			return response
		}
		first := get("")
		time.Sleep(time.Minute)
		second := get(first.GetTokenId())
		if second.GetTokenId() == first.GetTokenId() {
			t.Error("the rejected token was served again")
		}
		if again := get(first.GetTokenId()); again.GetTokenId() != second.GetTokenId() {
			t.Error("a token that was replaced already led to another one")
		}
		did, err := w.tokens.RevokeTokens(t.Context(), &pb.RevokeTokensRequest{Client: "clients/acme"})
		must(t, err)
		if did.GetDroppedCount() != 1 || did.GetRevokedCount() != 0 {
			t.Errorf("got %v, want one dropped, and none revoked where there is no endpoint", did)
		}
		if third := get(""); third.GetTokenId() == second.GetTokenId() {
			t.Error("a revoked token was served")
		}
		_, err = w.clients.ResetUpstream(t.Context(), &pb.ResetUpstreamRequest{Name: "clients/acme"})
		must(t, err)
	})
}
