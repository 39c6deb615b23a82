package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/test/harness"
)

// documented returns the YAML blocks of docs/access.md: the table, and what is
// expected of it.
func documented(t *testing.T) (table, expectations string) {
	t.Helper()
	document, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(document), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/access.md has %d YAML blocks, want the table and the expectations", len(blocks))
	}
	return write(t, "access.yaml", blocks[0][1]), write(t, "expectations.yaml", blocks[1][1])
}

func TestAccessExplain(t *testing.T) {
	table, _ := documented(t)
	got := command(t, "access", "explain", "--file", table, "--caller", "crm", "--permission", "token.get", "--client", "clients/acme-crm")
	got.want(t, 0)
	if !strings.HasPrefix(got.stdout, "allowed: crm, token.get, acme-crm\nrow: rules[0] at ") {
		t.Errorf("it printed %q", got.stdout)
	}
	got = command(t, "access", "explain", "--file", table, "--caller", "erp", "--permission", "token.get", "--client", "free", "--label", "access=everyone")
	got.want(t, 0)
	if !strings.HasPrefix(got.stdout, "allowed: erp") {
		t.Errorf("with a label it printed %q", got.stdout)
	}
	command(t, "access", "explain", "--file", table, "--caller", "crm", "--permission", "token.steal").want(t, 2, "token.steal", "token.get")
	command(t, "access", "explain", "--file", table+".none", "--caller", "crm", "--permission", "token.get").want(t, 2, "no such file")
}

func TestAccessTest(t *testing.T) {
	table, expectations := documented(t)
	got := command(t, "access", "test", "--file", table, expectations)
	got.want(t, 0)
	if !strings.HasSuffix(got.stdout, "10 of 10 expectations met\n") {
		t.Errorf("it printed %q", got.stdout)
	}
	unmet := write(t, "unmet.yaml", "expectations:\n  - {caller: crm, permission: audit.read, allow: true}\n")
	got = command(t, "access", "test", "--file", table, unmet)
	got.want(t, 1, "expectations")
	if !strings.HasPrefix(got.stdout, unmet+":2: ") {
		t.Errorf("it printed %q", got.stdout)
	}
	command(t, "access", "test", "--file", table, write(t, "bad.yaml", "expect: 1\n")).want(t, 2, "unknown key")
}

func TestServeWithAnAccessTable(t *testing.T) {
	address := harness.UnusedAddress(t)
	config := setup(t, address, false)
	rule := func(permission string) string {
		return "callers:\n  - {name: local, identities: [insecure-loopback]}\nrules:\n  - {callers: [local], permissions: [" + permission + "], clients: [\"*\"]}\n...\n"
	}
	table := filepath.Join(filepath.Dir(config), "access.yaml")
	put := func(content string) {
		if err := os.WriteFile(table+".next", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(table+".next", table); err != nil {
			t.Fatal(err)
		}
	}
	put(rule("client.read"))
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(content, "access: {file: "+table+"}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := serve(t, config)
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	read := func(ctx context.Context) codes.Code {
		_, err := pb.NewClientServiceClient(conn).GetClient(ctx, &pb.GetClientRequest{Name: "clients/none"}, grpc.WaitForReady(true))
		return status.Code(err)
	}
	if got, want := read(t.Context()), codes.NotFound; got != want {
		t.Errorf("with client.read: %v, want %v", got, want)
	}
	put(rule("token.get"))
	for read(t.Context()) != codes.PermissionDenied { // the table is looked at every second
		if t.Context().Err() != nil {
			t.Fatal("the changed table never took effect")
		}
	}
	stop().want(t, 0)
	command(t, "check-config", "--config", config).want(t, 0)
	put("rules: [")
	command(t, "check-config", "--config", config).want(t, 2, "access.file: ", table)
	put(rule("token.get"))
	if err := os.WriteFile(config, append(content, "access: {file: "+table+"}\ncallers: [{name: x, identity: insecure-loopback, role: caller}]\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "check-config", "--config", config).want(t, 2, "access.file: cannot be combined with callers")
}
