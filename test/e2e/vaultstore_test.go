package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

// vaultStore is a mount of a real Vault with a role whose only policy is the one
// that `tokenbroker vault-policy` prints, without Vault's default policy.
type vaultStore struct {
	*realvault.Server
	t             testing.TB
	mount, prefix string
	role          string // of auth/approle, and the policy's name
	policy        string
	dir           string // of the login's files
	secretID      string
}

// newVaultStore prepares mount, which must exist, for a broker.
func newVaultStore(t *testing.T, server *realvault.Server, mount, prefix string) *vaultStore {
	t.Helper()
	v := &vaultStore{Server: server, t: t, mount: mount, prefix: prefix, role: "broker-" + mount, dir: t.TempDir()}
	policy, stderr, status := output(t, "vault-policy", "--mount", mount, "--prefix", prefix)
	if status != 0 || stderr != "" {
		t.Fatalf("vault-policy: status %d: %s", status, stderr)
	}
	v.policy = policy
	server.PutPolicy(v.role, policy)
	roleID, secretID := server.AppRole(v.role, v.role)
	v.must("POST", "auth/approle/role/"+v.role, map[string]any{"token_no_default_policy": true, "token_ttl": "20m"})
	v.writeFile("role-id", roleID)
	v.useSecretID(secretID)
	return v
}

// sharedStore is a new mount on the Vault that the package's tests share.
func sharedStore(t *testing.T) *vaultStore {
	t.Helper()
	needServers(t)
	server := realvault.Shared(t)
	return newVaultStore(t, server, server.NewKV(), "prod/eu")
}

// ownStore is the mount of a Vault that the test may seal, kill and take auth
// methods from; never of one that the environment lends.
func ownStore(t *testing.T, options ...realvault.Option) *vaultStore {
	t.Helper()
	needServers(t)
	server := realvault.Start(t, options...)
	_ = server.AuditLog() // skips the test on another's server
	return newVaultStore(t, server, server.KV(), "")
}

func (v *vaultStore) writeFile(name, content string) {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, name), []byte(content+"\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vaultStore) useSecretID(id string) {
	v.t.Helper()
	v.secretID = id
	v.writeFile("secret-id", id)
}

// config is the store's part of a configuration; address is Vault's or a proxy's.
func (v *vaultStore) config(address string) map[string]any {
	settings := map[string]any{
		"address": address, "mount": v.mount, "prefix": v.prefix,
		"approle": map[string]any{"role_id_file": filepath.Join(v.dir, "role-id"), "secret_id_file": filepath.Join(v.dir, "secret-id")},
	}
	if v.CAFile() != "" && strings.HasPrefix(address, "https:") {
		settings["ca_file"] = v.CAFile()
	}
	return map[string]any{"vault": settings}
}

// must sends a request as root, as an operator would by hand, and returns the data
// of the answer.
func (v *vaultStore) must(method, path string, body any) map[string]any {
	v.t.Helper()
	status, answer := v.Do(method, path, body)
	if status >= 300 {
		v.t.Fatalf("%s %s: status %d: %v", method, path, status, answer)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// path returns the path of a key in one of KV's trees.
func (v *vaultStore) path(tree, key string) string {
	return strings.Trim(v.mount+"/"+tree+"/"+strings.Trim(v.prefix+"/"+key, "/"), "/")
}

// read returns a record as it is stored, at one version or, with 0, the latest;
// nil if nothing is there.
func (v *vaultStore) read(key string, version int) map[string]any {
	v.t.Helper()
	status, answer := v.Do("GET", fmt.Sprintf("%s?version=%d", v.path("data", key), version), nil)
	if status == http.StatusNotFound {
		return nil
	}
	data, _ := answer["data"].(map[string]any)
	record, _ := data["data"].(map[string]any)
	if record == nil {
		v.t.Fatalf("reading %s: status %d: %v", key, status, answer)
	}
	return record
}

// put writes a record by hand.
func (v *vaultStore) put(key string, record map[string]any) {
	v.t.Helper()
	v.must("POST", v.path("data", key), map[string]any{"data": record})
}

// list returns the names below a folder.
func (v *vaultStore) list(folder string) []string {
	v.t.Helper()
	status, answer := v.Do("LIST", v.path("metadata", folder), nil)
	if status == http.StatusNotFound {
		return nil
	}
	data, _ := answer["data"].(map[string]any)
	var names []string
	for _, name := range data["keys"].([]any) {
		names = append(names, name.(string))
	}
	return names
}

// snapshot returns what the broker's prefix holds, as far as metadata tells.
func (v *vaultStore) snapshot() string {
	v.t.Helper()
	_, listed := v.Do("LIST", v.path("metadata", ""), nil)
	_, meta := v.Do("GET", v.path("metadata", "meta"), nil)
	return fmt.Sprint(listed["data"], meta["data"])
}

// clientKey returns the key of a client's record, found as an operator would.
func (v *vaultStore) clientKey(id string) string {
	v.t.Helper()
	for _, shard := range v.list("clients") {
		for _, name := range v.list("clients/" + shard) {
			if name == id {
				return "clients/" + shard + id
			}
		}
	}
	v.t.Fatalf("no record of client %s", id)
	return ""
}
