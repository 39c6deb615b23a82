package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/brokertest"
	"github.com/tokenbroker/tokenbroker/embedded"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
)

type imports = grpc.BidiStreamingClient[pb.ImportClientsRequest, pb.ImportClientsResponse]

func beginImport(t *testing.T, p *peer) imports {
	t.Helper()
	stream, err := p.clients.ImportClients(t.Context())
	must(t, err)
	return stream
}

// importOne sends one client and returns the answer about it.
func importOne(t *testing.T, stream imports, req *pb.ImportClientsRequest) *pb.ImportClientsResponse {
	t.Helper()
	must(t, stream.Send(req))
	response, err := stream.Recv()
	must(t, err)
	return response
}

// importUntilStopped waits for the answer that never comes, because the server stops.
func importUntilStopped(t *testing.T, w *world) error {
	stream := beginImport(t, w.peer)
	importOne(t, stream, &pb.ImportClientsRequest{Client: clientMessage("imported")})
	go func() { _ = w.stop() }()
	_, err := stream.Recv()
	return err
}

func wantEnd(t *testing.T, stream imports) {
	t.Helper()
	must(t, stream.CloseSend())
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v, want its end", err)
	}
}

// TestImportClients: each request has one answer, and one that fails stops no other.
func TestImportClients(t *testing.T) {
	w := newWorld(t, setup{})
	stream := beginImport(t, w.peer)
	acme := &pb.ImportClientsRequest{Client: clientMessage("acme"), Secret: clientSecret("a secret"), Update: true}
	labelled := clientMessage("acme")
	labelled.Labels = map[string]string{"team": "crm"}
	steps := []struct {
		name    string
		request *pb.ImportClientsRequest
		want    pb.ImportOutcome
		reason  broker.Reason
		problem string
	}{
		{"only validated", &pb.ImportClientsRequest{Client: clientMessage("acme"), Secret: clientSecret("a secret"), ValidateOnly: true}, pb.ImportOutcome_IMPORT_OUTCOME_CREATED, "", ""},
		{"new", acme, pb.ImportOutcome_IMPORT_OUTCOME_CREATED, "", ""},
		{"the same", acme, pb.ImportOutcome_IMPORT_OUTCOME_UNCHANGED, "", ""},
		{"other labels", &pb.ImportClientsRequest{Client: labelled, Update: true}, pb.ImportOutcome_IMPORT_OUTCOME_UPDATED, "", ""},
		{"not to be updated", &pb.ImportClientsRequest{Client: clientMessage("acme")}, pb.ImportOutcome_IMPORT_OUTCOME_FAILED, broker.ReasonClientAlreadyExists, "registered already"},
		{"no client", &pb.ImportClientsRequest{}, pb.ImportOutcome_IMPORT_OUTCOME_FAILED, broker.ReasonInvalidRequest, "client.name"},
		{"bad settings", &pb.ImportClientsRequest{Client: &pb.Client{Name: "clients/bad"}}, pb.ImportOutcome_IMPORT_OUTCOME_FAILED, broker.ReasonInvalidRequest, "client.token_endpoint"},
		{"bad id", &pb.ImportClientsRequest{Client: &pb.Client{Name: "clients/../bad"}}, pb.ImportOutcome_IMPORT_OUTCOME_FAILED, broker.ReasonInvalidRequest, "client.name"},
		{"a secret that does not fit", &pb.ImportClientsRequest{Client: clientMessage("key"), Secret: &pb.SecretInput{Value: &pb.SecretInput_PrivateKey{PrivateKey: string(keyPEM(t, newKey(t)))}}}, pb.ImportOutcome_IMPORT_OUTCOME_FAILED, broker.ReasonSecretUnusable, "does not fit"},
		{"another one", &pb.ImportClientsRequest{Client: clientMessage("other")}, pb.ImportOutcome_IMPORT_OUTCOME_CREATED, "", ""},
	}
	for i, step := range steps {
		got := importOne(t, stream, step.request)
		if got.GetIndex() != int64(i) || got.GetOutcome() != step.want || got.GetReason() != string(step.reason) || got.GetName() != step.request.GetClient().GetName() {
			t.Errorf("%s: got %v, want %v for %q", step.name, got, step.want, step.reason)
		}
		if !strings.Contains(strings.Join(got.GetProblems(), "; "), step.problem) || (got.GetRemedy() != "") != (step.reason != "") {
			t.Errorf("%s: got %v, want the problem %q and what mends it", step.name, got, step.problem)
		}
	}
	wantEnd(t, stream)
	var entries []string
	for _, entry := range w.audit.entries(t) {
		entries = append(entries, fmt.Sprint(entry["client"], " ", entry["outcome"]))
	}
	want := []string{
		"<nil> allowed", "clients/acme begun", "clients/acme allowed", "clients/acme begun", "clients/acme allowed", "clients/acme begun", "clients/acme allowed",
		"clients/acme begun", "clients/acme allowed", "clients/acme begun", "clients/acme failed", "<nil> begun", "<nil> failed", "clients/bad begun", "clients/bad failed",
		"clients/../bad begun", "clients/../bad failed", "clients/key begun", "clients/key failed", "clients/other begun", "clients/other allowed",
	}
	if !slices.Equal(entries, want) {
		t.Errorf("audit entries:\n%q, want\n%q", entries, want)
	}
	if lines := w.logs.lines(t, "import"); len(lines) != 5 || lines[0]["reason"] != "CLIENT_ALREADY_EXISTS" || lines[0]["client"] != "clients/acme" {
		t.Errorf("log lines of clients that failed: %v, want 5", lines)
	}
}

// TestImportPermissions decides about each client by itself, under the table of that
// moment.
func TestImportPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	put := func(rules ...string) {
		text := "callers:\n  - {name: tester, identities: [insecure-loopback]}\nrules:\n  - " + strings.Join(rules, "\n  - ") + "\n...\n"
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	put(`{callers: [tester], permissions: [client.write], clients: ["prefix:acme-"]}`, `{callers: [tester], permissions: [client.write, secret.stage, secret.promote], clients: ["label:team=crm"]}`)
	table, err := access.NewReloader(path, nil)
	must(t, err)
	writing := newWorld(t, setup{})
	writing.register(t, writing.peer, "labelled", func(c *pb.Client) { c.Labels = map[string]string{"team": "crm"} })
	writing.register(t, writing.peer, "acme-1")
	w := newWorld(t, setup{access: table, prepare: func(w *world) { w.memory, w.store = writing.memory, brokertest.NewFaulty(writing.memory) }})
	stream := beginImport(t, w.peer)
	labelled := clientMessage("labelled")
	labelled.Labels = map[string]string{"team": "crm", "tier": "1"}
	unlabelled, joining := clientMessage("labelled"), clientMessage("acme-1")
	unlabelled.Labels, joining.Labels = map[string]string{"team": "erp"}, map[string]string{"team": "crm"}
	managed := clientMessage("acme-2")
	managed.Rotation = &pb.RotationSettings{Rotator: "x", ManagementClient: "clients/labelled"}
	const denied = broker.ReasonCallerNotAllowed
	try := func(what string, req *pb.ImportClientsRequest, want broker.Reason) {
		t.Helper()
		req.Update = true
		if got := importOne(t, stream, req); got.GetReason() != string(want) {
			t.Errorf("%s: got %v, want %q", what, got, want)
		}
	}
	try("a new one by prefix", &pb.ImportClientsRequest{Client: clientMessage("acme-2")}, "")
	try("a new one with a secret", &pb.ImportClientsRequest{Client: clientMessage("acme-3"), Secret: clientSecret("a secret")}, denied)
	try("a new one elsewhere", &pb.ImportClientsRequest{Client: clientMessage("none")}, denied)
	try("one by its label", &pb.ImportClientsRequest{Client: labelled, Secret: clientSecret("a secret")}, "")
	try("one by its label, with a reference", &pb.ImportClientsRequest{Client: labelled, Secret: &pb.SecretInput{Value: &pb.SecretInput_Reference{Reference: &pb.SecretReference{Mount: "a", Path: "b", Field: "c"}}}}, denied)
	try("one by prefix, with a secret", &pb.ImportClientsRequest{Client: clientMessage("acme-1"), Secret: clientSecret("another")}, denied)
	try("one that lets the caller in by its label", &pb.ImportClientsRequest{Client: joining}, denied)
	try("one whose management client the caller may not use", &pb.ImportClientsRequest{Client: managed}, denied)
	moved := clientMessage("acme-1")
	moved.TokenEndpoint = "https://evil.example.com/token"
	try("one that moves", &pb.ImportClientsRequest{Client: moved}, broker.ReasonDestinationNotBound)
	put(`{callers: [tester], permissions: [client.write], clients: ["prefix:other-"]}`)
	must(t, table.Reload())
	try("under a new table", &pb.ImportClientsRequest{Client: clientMessage("acme-4")}, denied)
	try("under a new table that allows it", &pb.ImportClientsRequest{Client: clientMessage("other-1")}, "")
	try("one whose label counts no more", &pb.ImportClientsRequest{Client: unlabelled}, denied)
	wantEnd(t, stream)
	for _, entry := range w.audit.entries(t) {
		if entry["reason"] == string(denied) && entry["outcome"] != "denied" {
			t.Errorf("the entry %v is not one of a denial", entry)
		}
	}
}

// TestAnImportEndsWithItsPermission: a caller who may import nothing any more is told.
func TestAnImportEndsWithItsPermission(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	put := func(permission string) {
		must(t, os.WriteFile(path, []byte("callers:\n  - {name: tester, identities: [insecure-loopback]}\nrules:\n  - {callers: [tester], permissions: ["+permission+"], clients: [\"*\"]}\n...\n"), 0o600))
	}
	put("client.write")
	table, err := access.NewReloader(path, nil)
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{access: table})
		stream := beginImport(t, w.peer)
		importOne(t, stream, &pb.ImportClientsRequest{Client: clientMessage("acme")})
		put("client.read")
		must(t, table.Reload())
		_, err := stream.Recv()
		requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
	})
}

// TestImportsAreHeldUp: a limit of the access table slows an import down.
func TestImportsAreHeldUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.yaml")
	must(t, os.WriteFile(path, []byte("callers:\n  - {name: tester, identities: [insecure-loopback]}\nrules:\n  - {callers: [tester], permissions: [client.write], clients: [\"*\"], limits: {requests_per_second: 1, burst: 1}}\n...\n"), 0o600))
	table, err := access.NewReloader(path, nil)
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{access: table})
		stream := beginImport(t, w.peer)
		began := time.Now()
		for i := range 5 {
			if got := importOne(t, stream, &pb.ImportClientsRequest{Client: clientMessage(fmt.Sprintf("acme-%d", i))}); got.GetReason() != "" {
				t.Errorf("got %v", got)
			}
		}
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("5 clients took %v, want at least 4 s", took)
		}
		wantEnd(t, stream)
	})
}

// TestAnImportWithoutAudit stops before anything is done that would leave no entry.
func TestAnImportWithoutAudit(t *testing.T) {
	w := newWorld(t, setup{})
	stream := beginImport(t, w.peer)
	importOne(t, stream, &pb.ImportClientsRequest{Client: clientMessage("acme-1")})
	w.audit.failAfter(0)
	must(t, stream.Send(&pb.ImportClientsRequest{Client: clientMessage("acme-2")}))
	_, err := stream.Recv()
	requireProblem(t, err, codes.Unavailable, broker.ReasonAuditUnavailable)
	if got := w.memory.Contains("acme-2-at-provider"); len(got) != 0 {
		t.Errorf("it was stored at %v", got)
	}
}

// TestASlowReaderPilesNothingUp: who reads no answers gets no more clients imported
// than the window of the stream has room for, and does not hold up the end of the server.
func TestASlowReaderPilesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{limits: server.Limits{ShutdownGrace: 2 * time.Second}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := w.clients.ImportClients(ctx)
		must(t, err)
		const many = 20_000
		bad := &pb.ImportClientsRequest{Client: &pb.Client{Name: "clients/" + strings.Repeat("x", 200)}} // whose answers are long
		sent := make(chan int, 1)
		go func() {
			n := 0
			for ; n < many && stream.Send(bad) == nil; n++ {
			}
			sent <- n
		}()
		synctest.Wait() // until nothing goes on any more
		if got := len(w.logs.lines(t, "import")); got == 0 || got > 2000 {
			t.Errorf("%d of %d were done although nobody reads the answers, want those that fill 64 KiB", got, many)
		}
		began := time.Now()
		must(t, w.stop())
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the server took %v to stop", took)
		}
		if n := <-sent; n == many {
			t.Error("all were sent although nobody reads the answers")
		}
	})
}

// TestAnImportSurvivesAStop: the client that is being stored when the server stops is
// stored and answered.
func TestAnImportSurvivesAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		w.register(t, w.peer, "acme")
		w.store.Once(brokertest.Delay(5*time.Second), brokertest.On(brokertest.OpWrite, "clients/"))
		stream := beginImport(t, w.peer)
		must(t, stream.Send(&pb.ImportClientsRequest{Client: clientMessage("other")}))
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- w.stop() }()
		_, err := stream.Recv()
		requireProblem(t, err, codes.Unavailable, broker.ReasonShuttingDown)
		must(t, <-stopped)
		if got := w.memory.Contains("other-at-provider"); len(got) == 0 {
			t.Error("the client was not stored")
		}
	})
}

// TestTenThousandImports puts a fleet into the embedded store, twice.
func TestTenThousandImports(t *testing.T) {
	const many = 10_000
	dir := t.TempDir()
	store, err := embedded.Open(embedded.Config{File: filepath.Join(dir, "store"), Create: true})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	w := newWorld(t, setup{unaudited: true, store: func(broker.Store) broker.Store { return store }})
	for _, want := range []pb.ImportOutcome{pb.ImportOutcome_IMPORT_OUTCOME_CREATED, pb.ImportOutcome_IMPORT_OUTCOME_UNCHANGED} {
		stream := beginImport(t, w.peer)
		go func() {
			for i := range many {
				if stream.Send(&pb.ImportClientsRequest{Client: clientMessage(fmt.Sprintf("acme-%d", i)), Update: true}) != nil {
					return // Recv knows why
				}
			}
			_ = stream.CloseSend()
		}()
		for i := range many {
			got, err := stream.Recv()
			must(t, err)
			if got.GetIndex() != int64(i) || got.GetOutcome() != want || got.GetName() != fmt.Sprintf("clients/acme-%d", i) {
				t.Fatalf("got %v, want %v of number %d", got, want, i)
			}
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("the stream ends with %v", err)
		}
	}
}
