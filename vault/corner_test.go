package vault_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/secret"
	"github.com/tokenbroker/tokenbroker/test/realvault"
	"github.com/tokenbroker/tokenbroker/vault"
)

// corner is a mount of its own on a real Vault, with a role that has the printed
// policy and nothing else, not even Vault's default policy.
type corner struct {
	*realvault.Server
	t      *testing.T
	mount  string
	prefix string
	role   string // of the auth method, and the policy's name
	auth   string // where the auth method is mounted, below auth/
	config vault.Config
}

// newCorner makes one on the shared server.
func newCorner(t *testing.T) *corner {
	t.Helper()
	server := realvault.Shared(t)
	return cornerOf(t, server, server.NewKV(), "prod/eu")
}

// quickServer returns a server without a disk, for tests in which time matters:
// on a busy machine a write to disk may take seconds.
func quickServer(t *testing.T) *realvault.Server {
	t.Helper()
	return realvault.Start(t, realvault.InMemory())
}

// ownCorner makes one on a server that the test may seal and kill.
func ownCorner(t *testing.T, options ...realvault.Option) *corner {
	t.Helper()
	server := realvault.Start(t, options...)
	return cornerOf(t, server, server.KV(), "")
}

func cornerOf(t *testing.T, server *realvault.Server, mount, prefix string) *corner {
	t.Helper()
	c := &corner{Server: server, t: t, mount: mount, prefix: prefix, role: "broker-" + mount, auth: "approle"}
	server.PutPolicy(c.role, c.policy())
	roleID, secretID := server.AppRole(c.role, c.role)
	c.setRole(map[string]any{"token_no_default_policy": true, "token_ttl": "20m"})
	c.config = vault.Config{
		Address: server.Addr(), CAFile: server.CAFile(), Mount: mount, Prefix: prefix, Timeout: 20 * time.Second,
		AppRole: vault.AppRole{RoleIDFile: file(t, roleID+"\n"), SecretIDFile: file(t, secretID+"\n")},
	}
	return c
}

func (c *corner) policy() string { return vault.Policy(c.mount, c.prefix) }

// setRole changes the role's settings.
func (c *corner) setRole(settings map[string]any) {
	c.t.Helper()
	c.must("POST", "auth/approle/role/"+c.role, settings)
}

// must sends a request as root, as an operator would by hand, and returns the
// data of the answer.
func (c *corner) must(method, path string, body any) map[string]any {
	c.t.Helper()
	status, answer := c.Do(method, path, body)
	if status >= 300 {
		c.t.Fatalf("%s %s: status %d: %v", method, path, status, answer)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// path returns the path of a key in one of KV's trees.
func (c *corner) path(tree, key string) string {
	return strings.Trim(c.mount+"/"+tree+"/"+strings.Trim(c.prefix+"/"+key, "/"), "/")
}

// newSecretID replaces the content of the secret id file.
func (c *corner) newSecretID(settings map[string]any) {
	c.t.Helper()
	data := c.must("POST", "auth/approle/role/"+c.role+"/secret-id", settings)
	write(c.t, c.config.AppRole.SecretIDFile, data["secret_id"].(string))
}

// newToken makes a token with the printed policy.
func (c *corner) newToken(settings map[string]any) string {
	c.t.Helper()
	body := map[string]any{"policies": []string{c.role}, "no_default_policy": true, "ttl": "20m"}
	for name, value := range settings {
		body[name] = value
	}
	status, answer := c.Do(http.MethodPost, "auth/token/create", body)
	if status != http.StatusOK {
		c.t.Fatalf("making a token: status %d: %v", status, answer)
	}
	return answer["auth"].(map[string]any)["client_token"].(string)
}

// useToken makes the configuration log in by token file.
func (c *corner) useToken(token string) {
	c.t.Helper()
	c.config.AppRole = vault.AppRole{}
	c.config.TokenFile = file(c.t, token)
}

func (c *corner) revoke(token string) {
	c.t.Helper()
	c.must("POST", "auth/token/revoke", map[string]any{"token": token})
}

// revokeAll revokes what the auth method has given out; for a server of one's own.
func (c *corner) revokeAll() {
	c.t.Helper()
	c.must("PUT", "sys/leases/revoke-prefix/auth/"+c.auth, map[string]any{})
}

// logins counts the logins that the server's audit log has.
func (c *corner) logins() int {
	c.t.Helper()
	log, err := os.ReadFile(c.AuditLog())
	if err != nil {
		c.t.Fatal(err)
	}
	var n int
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"type":"request"`) && strings.Contains(line, `"path":"auth/`+c.auth+`/login"`) && strings.Contains(line, `"operation":"update"`) {
			n++
		}
	}
	return n
}

// write replaces a file as Vault Agent does: nobody sees it half written.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// mustWrite writes a record and returns its version.
func mustWrite(t *testing.T, s *vault.Store, key string, data secret.Value, version uint64) uint64 {
	t.Helper()
	got, err := s.Write(t.Context(), key, data, version)
	if err != nil {
		t.Fatalf("Write(%q, version %d): %v", key, version, err)
	}
	return got
}

// wantRecord checks what a key holds, to the byte: KV writes JSON without space.
func wantRecord(t *testing.T, s *vault.Store, key string, want secret.Value, version uint64) {
	t.Helper()
	record, err := s.Read(t.Context(), key)
	if err != nil {
		t.Fatalf("Read(%q): %v", key, err)
	}
	if got := record.Data.RevealString(); got != want.RevealString() || record.Version != version {
		t.Errorf("Read(%q) = %s, version %d; want %s, version %d", key, got, record.Version, want.RevealString(), version)
	}
}

// within polls until ready holds: what Run does by itself takes its time.
func within(t *testing.T, most time.Duration, what string, ready func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = ready(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, most, err)
}
