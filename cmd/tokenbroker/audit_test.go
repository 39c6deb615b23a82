package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

func TestAuditCommands(t *testing.T) {
	config := setup(t, harness.UnusedAddress(t), false)
	stop := serve(t, config)
	stop().want(t, 0)
	dir := filepath.Dir(config)
	key, log := filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.log")
	got := command(t, "audit", "verify", "--key", key, log)
	got.want(t, 0)
	if !strings.HasSuffix(got.stdout, "SOUND: 0 entries in 1 chain, 0 things wrong\n") {
		t.Errorf("it printed %q", got.stdout)
	}
	got = command(t, "audit", "public-key", "--key", key)
	got.want(t, 0)
	public := write(t, "audit.pub", got.stdout)
	if err := os.Chmod(public, 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, "audit", "verify", "--public-key", public, log).want(t, 0)

	if err := os.Truncate(log, 100); err != nil {
		t.Fatal(err)
	}
	command(t, "audit", "verify", "--key", key, log).want(t, 1, "not sound")
	command(t, "audit", "verify", log).want(t, 2, "--key or --public-key")
	command(t, "audit", "verify", "--key", public, log).want(t, 2, "audit key")
	command(t, "audit", "verify", "--public-key", key, log).want(t, 2, "audit public key")
	command(t, "audit", "verify", "--key", key, log+".none").want(t, 1, "no such file")
	command(t, "audit", "verify", "--key", key).want(t, 2, "<files>")
}

// TestAuditThatCannotBegin refuses to serve what could not be recorded.
func TestAuditThatCannotBegin(t *testing.T) {
	config := setup(t, "127.0.0.1:0", false)
	dir := filepath.Dir(config)
	if err := os.WriteFile(filepath.Join(dir, "audit.key"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "serve", "--config", config).want(t, 1, "audit key")
	if err := os.Remove(filepath.Join(dir, "audit.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "audit.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "serve", "--config", config).want(t, 1, "audit file", "not a regular file")
}
