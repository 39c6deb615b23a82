package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/access"
)

// tableFile writes an access table with these rules for the caller "tester".
func tableFile(t *testing.T, rules ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.yaml")
	writeTable(t, path, rules...)
	return path
}

func writeTable(t *testing.T, path string, rules ...string) {
	t.Helper()
	head := "callers:\n  - {name: tester, identities: [" + server.InsecureIdentity + "]}\nrules:\n"
	next := path + ".next"
	if err := os.WriteFile(next, []byte(head+"  - "+strings.Join(rules, "\n  - ")+"\n...\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// row is one rule for the tester.
func row(permissions, clients, more string) string {
	return fmt.Sprintf("{callers: [tester], permissions: [%s], clients: [%s]%s}", permissions, clients, more)
}

// tabled is a server with an access table, and the table.
func tabled(t *testing.T, rules ...string) (*world, *access.Reloader) {
	t.Helper()
	table, err := access.NewReloader(tableFile(t, rules...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, setup{access: table}), table
}

func TestRowsByClient(t *testing.T) {
	w, _ := tabled(t,
		row("client.write, secret.stage", `"prefix:acme-"`, ""),
		row("token.get", "acme-one", ""),
		row("client.read", `"label:team=crm"`, ""))
	clients, tokens := pb.NewClientServiceClient(w.conn), pb.NewTokenServiceClient(w.conn)
	w.accept("acme-one")
	for _, id := range []string{"acme-one", "acme-two"} {
		if _, err := clients.CreateClient(t.Context(), w.creation(id, map[string]string{"team": strings.TrimPrefix(id, "acme-")})); err != nil {
			t.Fatal(err)
		}
	}
	_, err := clients.CreateClient(t.Context(), w.creation("other", nil))
	requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
	if _, err := tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme-one"}); err != nil {
		t.Errorf("GetToken of what a row names: %v", err)
	}
	for _, id := range []string{"acme-two", "absent"} { // existing or not: the same answer
		_, err := tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/" + id})
		requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
		_, err = clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/" + id})
		requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
	}
	list, err := clients.ListClients(t.Context(), &pb.ListClientsRequest{})
	if err != nil || len(list.GetClients()) != 0 {
		t.Errorf("ListClients = %v, %v, want nothing of what no row lets read", list, err)
	}
}

func TestLabelsLetInAndNobodyLetsItselfIn(t *testing.T) {
	w, _ := tabled(t,
		row("client.write, secret.stage", `"*"`, ""),
		row("client.read, client.retarget", `"label:team=crm"`, ""))
	clients := pb.NewClientServiceClient(w.conn)
	for id, team := range map[string]string{"ours": "crm", "theirs": "erp"} {
		if _, err := clients.CreateClient(t.Context(), w.creation(id, map[string]string{"team": team})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/ours"}); err != nil {
		t.Errorf("GetClient by label: %v", err)
	}
	list, err := clients.ListClients(t.Context(), &pb.ListClientsRequest{})
	if err != nil || len(list.GetClients()) != 1 || list.GetClients()[0].GetName() != "clients/ours" {
		t.Errorf("ListClients = %v, %v, want clients/ours alone", list, err)
	}
	for _, id := range []string{"theirs", "absent"} {
		_, err := clients.GetClient(t.Context(), &pb.GetClientRequest{Name: "clients/" + id})
		requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
	}
	_, err = clients.UpdateClient(t.Context(), &pb.UpdateClientRequest{
		Client: &pb.Client{Name: "clients/theirs", Labels: map[string]string{"team": "crm"}}, UpdateMask: mask("labels"),
	})
	requireProblem(t, err, codes.PermissionDenied, broker.ReasonCallerNotAllowed)
}

// TestRetarget is the permission that lets a stored secret leave for another origin:
// without it no other one does, with it the secret is bound anew.
func TestRetarget(t *testing.T) {
	everythingElse := "client.read, client.write, client.delete, secret.stage, token.get"
	move := &pb.UpdateClientRequest{Client: &pb.Client{Name: "clients/acme", TokenEndpoint: "https://elsewhere.example/token"}, UpdateMask: mask("token_endpoint")}
	t.Run("without", func(t *testing.T) {
		w, _ := tabled(t, row(everythingElse, `"*"`, ""))
		clients := pb.NewClientServiceClient(w.conn)
		if _, err := clients.CreateClient(t.Context(), w.creation("acme", nil)); err != nil {
			t.Fatal(err)
		}
		_, err := clients.UpdateClient(t.Context(), move)
		requireProblem(t, err, codes.FailedPrecondition, broker.ReasonDestinationNotBound)
	})
	t.Run("with", func(t *testing.T) {
		w, _ := tabled(t, row(everythingElse+", client.retarget", `"*"`, ""))
		clients := pb.NewClientServiceClient(w.conn)
		w.accept("acme")
		if _, err := clients.CreateClient(t.Context(), w.creation("acme", nil)); err != nil {
			t.Fatal(err)
		}
		moved, err := clients.UpdateClient(t.Context(), move)
		if err != nil {
			t.Fatal(err)
		}
		versions := moved.GetClient().GetSecretVersions()
		if got, want := fmt.Sprint(versions[len(versions)-1].GetBoundDestinations()), "[https://elsewhere.example]"; got != want {
			t.Errorf("the current secret is bound to %s, want %s", got, want)
		}
		if _, err := pb.NewTokenServiceClient(w.conn).GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"}); err != nil {
			t.Errorf("GetToken after the move: %v", err)
		}
	})
}

func TestScopesOfARow(t *testing.T) {
	w, _ := tabled(t,
		row("client.write, secret.stage", "acme", ""),
		row("token.get", "acme", ", scopes: {default: [read], allowed: [write]}"))
	w.accept("acme")
	create := w.creation("acme", nil)
	create.Client.DefaultScopes, create.Client.AllowedScopes = []string{"read", "admin"}, []string{"write"}
	if _, err := pb.NewClientServiceClient(w.conn).CreateClient(t.Context(), create); err != nil {
		t.Fatal(err)
	}
	tokens := pb.NewTokenServiceClient(w.conn)
	got, err := tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme"})
	if err != nil || fmt.Sprint(got.GetScopes()) != "[read]" {
		t.Errorf("scopes by default = %v, %v, want the row's", got.GetScopes(), err)
	}
	_, err = tokens.GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", Scopes: []string{"admin"}})
	requireProblem(t, err, codes.PermissionDenied, broker.ReasonScopeNotAllowed)
}

func TestLimitsOfARow(t *testing.T) {
	tests := []struct{ name, limits string }{
		{"rate", "requests_per_second: 0.01, burst: 2"},
		{"sets of scopes", "scope_sets: 2"},
		{"rate for a client", "client_requests_per_second: 0.01, client_burst: 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, _ := tabled(t, row("client.write, secret.stage", "acme", ""), row("token.get", "acme", ", limits: {"+test.limits+"}"))
			w.accept("acme")
			create := w.creation("acme", nil)
			create.Client.AllowedScopes = []string{"a", "b", "c"}
			if _, err := pb.NewClientServiceClient(w.conn).CreateClient(t.Context(), create); err != nil {
				t.Fatal(err)
			}
			for i, scope := range []string{"a", "b", "c"} {
				_, err := pb.NewTokenServiceClient(w.conn).GetToken(t.Context(), &pb.GetTokenRequest{Client: "clients/acme", Scopes: []string{scope}})
				if i < 2 && err != nil {
					t.Errorf("call %d: %v", i+1, err)
				}
				if i == 2 {
					requireProblem(t, err, codes.ResourceExhausted, broker.ReasonTooManyRequests)
				}
			}
		})
	}
}

// creation is a request that registers a client with a secret.
func (w *world) creation(id string, labels map[string]string) *pb.CreateClientRequest {
	client := clientMessage(id)
	client.Labels = labels
	return &pb.CreateClientRequest{Client: client, Secret: clientSecret("secret of " + id)}
}

// accept makes the authorization server take the secret of creation.
func (w *world) accept(id string) { w.upstream.Register(id+"-at-provider", "secret of "+id) }

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
