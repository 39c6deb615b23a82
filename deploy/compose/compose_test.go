package main

import (
	"log/slog"
	"net/http"
	"os"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/realvault"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestFilesAreWrittenOnce(t *testing.T) {
	files := filesCommand{folder{t.TempDir()}}
	for range 2 {
		if err := files.Run(slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	var request pb.CreateClientRequest
	if err := protojson.Unmarshal(readFile(t, files.path(requestFile)), &request); err != nil {
		t.Fatalf("%s is not a CreateClientRequest: %v", requestFile, err)
	}
	if got, want := request.GetSecret().GetClientSecret(), string(readFile(t, files.path(secretFile))); got != want {
		t.Error("the request holds another secret than the authorization server knows")
	}
	before := readFile(t, files.path("ca.pem"))
	if err := files.Run(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if string(readFile(t, files.path("ca.pem"))) != string(before) {
		t.Error("a second run replaced the authority")
	}
}

func TestVaultIsConfiguredTwiceAlike(t *testing.T) {
	server := realvault.Start(t)
	command := vaultCommand{folder: folder{t.TempDir()}}
	s := &setup{address: server.Addr(), token: server.RootToken(), http: http.DefaultClient}
	for range 2 {
		if err := command.configure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	var login struct {
		Auth struct {
			Policies []string `json:"policies"`
		} `json:"auth"`
	}
	credentials := map[string]string{
		"role_id": string(readFile(t, command.path("role-id"))), "secret_id": string(readFile(t, command.path("secret-id"))),
	}
	anonymous := &setup{address: server.Addr(), http: http.DefaultClient}
	if err := anonymous.call(t.Context(), http.MethodPost, "auth/approle/login", credentials, &login); err != nil {
		t.Fatalf("the written credentials do not log in: %v", err)
	}
	if got, want := login.Auth.Policies, "tokenbroker"; len(got) != 2 || got[1] != want {
		t.Errorf("policies = %v, want default and %s", got, want)
	}
}
