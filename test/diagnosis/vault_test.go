package diagnosis_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// prefix is where the broker's records lie within a mount.
const prefix = "prod"

// mount is a KV engine of a real Vault as an operator sees it who holds the root token,
// and how the broker logs in: by a role whose policy is the one that the program prints.
type mount struct {
	*realvault.Server
	t      *testing.T
	name   string
	dir    string // of the login's files
	config vault.Config
	policy string
}

// newMount prepares one for a broker that has not started yet.
func newMount(t *testing.T, server *realvault.Server, name string) *mount {
	t.Helper()
	m := &mount{Server: server, t: t, name: name, dir: t.TempDir(), policy: "broker-" + name}
	m.allow(vault.Policy(name, prefix, vault.Place{Mount: name + "-owner", Prefix: ""}))
	roleID, secretID := server.AppRole(m.policy, m.policy)
	m.root("POST", "auth/approle/role/"+m.policy, map[string]any{"token_no_default_policy": true, "token_ttl": "20m"})
	m.config = vault.Config{
		Address: server.Addr(), Mount: name, Prefix: prefix, Timeout: 10 * time.Second,
		AppRole: vault.AppRole{RoleIDFile: m.file("role-id", roleID), SecretIDFile: m.file("secret-id", secretID)},
	}
	return m
}

// file writes a file of the login.
func (m *mount) file(name, content string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// allow replaces the broker's policy.
func (m *mount) allow(policy string) { m.PutPolicy(m.policy, policy) }

// deny takes what a part of the paths grants out of the broker's policy.
func (m *mount) deny(path string) {
	m.t.Helper()
	kept, taken := []string{}, 0
	for _, rule := range strings.SplitAfter(vault.Policy(m.name, prefix), "}\n") {
		if strings.Contains(rule, path) {
			taken++
			continue
		}
		kept = append(kept, rule)
	}
	if taken == 0 {
		m.t.Fatalf("the policy has no path %s", path)
	}
	m.allow(strings.Join(kept, ""))
}

// root sends a request as root, which must succeed.
func (m *mount) root(method, path string, body any) map[string]any {
	m.t.Helper()
	status, answer := m.Do(method, path, body)
	if status >= 300 {
		m.t.Fatalf("%s %s: status %d: %v", method, path, status, answer)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// path returns the path of a key in one of KV's trees.
func (m *mount) path(tree, key string) string { return m.name + "/" + tree + "/" + prefix + "/" + key }

// write puts a record as somebody does by hand, over whatever lies there.
func (m *mount) write(key string, fields any) {
	m.t.Helper()
	m.root("POST", m.path("data", key), map[string]any{"data": fields})
}

// read returns what lies at a key.
func (m *mount) read(key string) map[string]any {
	m.t.Helper()
	fields, _ := m.root("GET", m.path("data", key), nil)["data"].(map[string]any)
	return fields
}

// anew writes a record at a key whose history is gone, so that it is version 1.
func (m *mount) anew(key string, fields any) {
	m.t.Helper()
	m.root("DELETE", m.path("metadata", key), nil)
	m.write(key, fields)
}

// openVault opens the mount as a broker's store, which keeps its login until the test ends.
func openVault(t *testing.T, config vault.Config) *vault.Store {
	t.Helper()
	store, err := vault.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("vault store: %v", err)
		}
		_ = store.Close()
	})
	return store
}

// newVaultSite serves a broker on the mount.
func (m *mount) newVaultSite() *site {
	m.t.Helper()
	store := openVault(m.t, m.config)
	return newSite(m.t, store, settings{broker: func(cfg *broker.Config) {
		cfg.References = store.References([]vault.Place{{Mount: m.name + "-owner"}})
	}})
}
