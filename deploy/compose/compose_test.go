package main

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
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

// TestTheBrokerWritesWhereItMay: its container sees all but the folder of its audit log
// read-only.
func TestTheBrokerWritesWhereItMay(t *testing.T) {
	var compose struct {
		Services map[string]struct {
			ReadOnly bool     `yaml:"read_only"`
			Command  []string `yaml:"command"`
			Volumes  []string `yaml:"volumes"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(readFile(t, "../../docker-compose.yml"), &compose); err != nil {
		t.Fatal(err)
	}
	broker := compose.Services["tokenbroker"]
	mounts := map[string]bool{} // folder in the container → whether it may be written to
	for _, volume := range broker.Volumes {
		parts := strings.Split(volume, ":")
		mounts[parts[1]] = len(parts) == 2
		if parts[1] == "/data/"+auditFolder && parts[0] != "./.compose/"+auditFolder {
			t.Errorf("%s is %s, which nobody has made", parts[1], parts[0])
		}
	}
	writable := func(path string) bool {
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			if may, mounted := mounts[dir]; mounted || dir == "/" {
				return may
			}
		}
	}
	var config struct {
		Audit struct {
			KeyFile string `yaml:"key_file"`
			File    struct{ Path string }
		}
	}
	if err := yaml.Unmarshal([]byte(brokerConfig), &config); err != nil {
		t.Fatal(err)
	}
	if !broker.ReadOnly || !slices.Contains(broker.Command, "/data/tokenbroker.yaml") || writable("/data/tokenbroker.yaml") {
		t.Errorf("the broker's container is %+v, want it read-only with the configuration of /data", broker)
	}
	for _, path := range []string{config.Audit.KeyFile, config.Audit.File.Path} {
		if !writable(path) {
			t.Errorf("the broker writes %s, which its container has read-only", path)
		}
	}
	files := filesCommand{folder{t.TempDir()}}
	if err := files.Run(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(files.path(auditFolder)); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("the folder of the audit log: %v, %v; want that any user may write there", info.Mode(), err)
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
