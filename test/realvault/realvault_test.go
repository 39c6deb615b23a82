package realvault_test

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/realvault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(realvault.Closing(m)) }

// write stores one value under a path of a KV v2 mount with check-and-set.
func write(t *testing.T, vault *realvault.Server, mount, path, value string, cas int) {
	t.Helper()
	body := map[string]any{"data": map[string]string{"value": value}, "options": map[string]int{"cas": cas}}
	if status, answer := vault.Do("POST", mount+"/data/"+path, body); status != http.StatusOK {
		t.Fatalf("writing %s: status %d: %v", path, status, answer)
	}
}

// read returns the value that write stored.
func read(t *testing.T, vault *realvault.Server, mount, path string) string {
	t.Helper()
	status, answer := vault.Do("GET", mount+"/data/"+path, nil)
	if status != http.StatusOK {
		t.Fatalf("reading %s: status %d: %v", path, status, answer)
	}
	return answer["data"].(map[string]any)["data"].(map[string]any)["value"].(string)
}

func TestKillAndRestartKeepData(t *testing.T) {
	vault := realvault.Start(t)
	address := vault.Addr()
	write(t, vault, vault.KV(), "a", "kept", 0)

	vault.Stop()
	if _, err := http.Get(address + "/v1/sys/health"); err == nil {
		t.Error("a stopped server answers")
	}
	vault.RestartSealed()
	if status, _ := vault.Do("GET", vault.KV()+"/data/a", nil); status != http.StatusServiceUnavailable {
		t.Errorf("reading from a sealed server: got status %d, want 503", status)
	}
	vault.Unseal()
	if got := read(t, vault, vault.KV(), "a"); got != "kept" {
		t.Errorf("after a restart: got %q, want %q", got, "kept")
	}
	if vault.Addr() != address {
		t.Errorf("after a restart: got address %s, want %s", vault.Addr(), address)
	}

	vault.Seal()
	if status, _ := vault.Do("GET", "sys/health", nil); status != http.StatusServiceUnavailable {
		t.Errorf("health of a sealed server: got status %d, want 503", status)
	}
	vault.Unseal()
	vault.Stop()
	vault.Restart()
	if got := read(t, vault, vault.KV(), "a"); got != "kept" {
		t.Errorf("after a second restart: got %q, want %q", got, "kept")
	}
}

func TestAuditLogHasEveryRequest(t *testing.T) {
	vault := realvault.Start(t, realvault.WithKV("team"), realvault.InMemory())
	write(t, vault, "team", "canary", "s3cr3t-canary", 0)

	content, err := os.ReadFile(vault.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "s3cr3t-canary") {
		t.Error("the audit log has the value in clear")
	}
	found := false
	for line := range strings.Lines(string(content)) {
		var entry struct {
			Type    string
			Request struct{ Path, Operation string }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("audit line %q: %v", line, err)
		}
		found = found || entry.Type == "request" && entry.Request.Path == "team/data/canary"
	}
	if !found {
		t.Error("the audit log has no entry for the write")
	}
}

func TestTLS(t *testing.T) {
	vault := realvault.Start(t, realvault.WithTLS(), realvault.InMemory())
	if !strings.HasPrefix(vault.Addr(), "https://127.0.0.1:") || vault.CAFile() == "" {
		t.Fatalf("got address %s and authority %q, want https on loopback and a file", vault.Addr(), vault.CAFile())
	}
	if _, err := http.Get(vault.Addr() + "/v1/sys/health"); err == nil {
		t.Error("a client that trusts the system's authorities alone was served")
	}
	write(t, vault, vault.KV(), "a", "b", 0)
}

func TestAppRoleHasItsPolicyOnly(t *testing.T) {
	vault := realvault.Shared(t)
	mount := vault.NewKV()
	write(t, vault, mount, "open", "yes", 0)
	write(t, vault, mount, "closed", "no", 0)
	vault.PutPolicy(mount+"-reader", `path "`+mount+`/data/open" { capabilities = ["read"] }`)
	roleID, secretID := vault.AppRole(mount+"-reader", mount+"-reader")

	status, answer := vault.DoAs("", "POST", "auth/approle/login", map[string]string{"role_id": roleID, "secret_id": secretID})
	if status != http.StatusOK {
		t.Fatalf("login: status %d: %v", status, answer)
	}
	token := answer["auth"].(map[string]any)["client_token"].(string)
	for path, want := range map[string]int{"open": http.StatusOK, "closed": http.StatusForbidden} {
		if status, _ := vault.DoAs(token, "GET", mount+"/data/"+path, nil); status != want {
			t.Errorf("reading %s: got status %d, want %d", path, status, want)
		}
	}
}

func TestSharedMountsAreApart(t *testing.T) {
	vault := realvault.Shared(t)
	first, second := vault.NewKV(), vault.NewKV()
	if first == second {
		t.Fatalf("two mounts have the name %s", first)
	}
	write(t, vault, first, "a", "1", 0)
	write(t, vault, second, "a", "2", 0)
	if got := read(t, vault, first, "a"); got != "1" {
		t.Errorf("got %q, want %q", got, "1")
	}
	vault.MountKV(first+"-v1", 1)
	// What made us check a mount's version before the first write: version 1 takes a "check-and-set" and ignores it.
	body := map[string]any{"data": map[string]string{"value": "1"}, "options": map[string]int{"cas": 7}}
	if status, _ := vault.Do("POST", first+"-v1/data/a", body); status != http.StatusNoContent {
		t.Errorf("writing with check-and-set to version 1: got status %d, want 204", status)
	}
}
